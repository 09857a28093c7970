// Many pages in one process: JupyterLab's own services with the page's extension, but no browser.
// Run by pages.py.
//
//     node pages.mjs MODULES EXTENSION BASE_URL TOKEN PAGES EXTENDED < commands
//
// MODULES is a folder with the npm packages. The process writes lines of JSON. For each line of its
// input, it writes how many pages are connected, when the last one was, and when requests reached a
// server, in milliseconds since the epoch.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { compileFunction, constants } from 'node:vm';

const [modules, extension, baseUrl, token, count, extended] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { ServerConnection, ServiceManager } = require('@jupyterlab/services');
const load = compileFunction(
  await readFile(extension, 'utf-8'),
  ['window', 'document', 'addEventListener', 'WebSocket'],
  { filename: extension, importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER }
);

const wsUrl = baseUrl.replace(/^http/, 'ws');
/** @type {number[]} */
const reached = []; // when a request reached a server

class CountedSocket extends WebSocket {
  constructor(...options) {
    super(...options);
    this.addEventListener('open', () => reached.push(Date.now()));
  }
}

async function countedFetch(...request) {
  const response = await fetch(...request);
  reached.push(Date.now());
  return response;
}

class Page {
  lastConnected = 0;

  async open(kernels) {
    const serverSettings = ServerConnection.makeSettings({
      appendToken: true,
      baseUrl,
      wsUrl,
      token,
      fetch: countedFetch,
      WebSocket: CountedSocket
    });
    this.manager = new ServiceManager({ serverSettings });
    await this.manager.ready;
    if (extended === 'true') await this.extend();
    const [model] = [...this.manager.sessions.running()].slice(kernels);
    this.session = this.manager.sessions.connectTo({ model });
    this.session.connectionStatusChanged.connect((_, status) => {
      if (status === 'connected') this.lastConnected = Date.now();
    });
  }

  /** Loads the extension into a page that has this one session. */
  async extend() {
    const window = {};
    const nothing = () => {};
    load(window, { addEventListener: nothing, hidden: false }, nothing, CountedSocket);
    const container = window._JUPYTERLAB.nbsessions;
    const signal = { connect: nothing };
    const shared = {
      '@jupyterlab/coreutils': { PageConfig: { getOption: () => 'a namespace' } },
      '@jupyterlab/services': { ServerConnection },
      '@jupyterlab/apputils': {
        Dialog: { tracker: { widgetAdded: signal } },
        Notification: { emit: nothing }
      }
    };
    container.init(
      Object.fromEntries(
        Object.entries(shared).map(([name, module]) => [
          name,
          { 1: { get: async () => () => module } }
        ])
      )
    );
    const { default: plugin } = (await container.get())();
    const page = this;
    const widget = { get sessionContext() { return { session: page.session }; } };
    const shell = { children: () => [widget] };
    await plugin.activate({ serviceManager: this.manager, shell });
  }

  get isConnected() {
    return this.session.kernel?.connectionStatus === 'connected';
  }
}

console.warn = console.error = console.debug = () => {};
const pages = Array.from({ length: Number(count) }, () => new Page());
const probe = await fetch(`${baseUrl}api/sessions?token=${token}`);
const sessions = (await probe.json()).length;
for (const [number, page] of pages.entries()) await page.open(number % sessions);

for await (const command of createInterface({ input: process.stdin })) {
  if (command === 'forget') reached.length = 0;
  const connected = pages.filter(page => page.isConnected).length;
  const last = Math.max(...pages.map(page => page.lastConnected));
  console.log(JSON.stringify({ connected, last, reached }));
}
process.exit();
