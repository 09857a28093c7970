// Connects a page again as soon as its server is back. This is a prebuilt extension of JupyterLab 4
// and Notebook 7. A container of module federation, written by hand, needs no build tool.

(() => {
  const HIDDEN_FOR_LONG = 5 * 60; // seconds
  const HIDDEN_INTERVAL = 60; // seconds
  const REQUEST_TIMEOUT = 10; // seconds
  const ROOMS_WITHIN = 5; // seconds that kernels wait for documents
  const COMPARED_WITHIN = 30; // seconds
  const MAX_IDS = 100; // sessions that one request may ask for
  const AWAY = [424, 502, 503, 504]; // what proxies and JupyterHub answer for a server
  const KERNEL = /\/api\/kernels\/[^/]+\/channels$/;
  const TERMINAL = /\/terminals\/websocket\/[^/]+$/;
  const ROOM = /\/api\/collaboration\/room\//; // of a document that is edited together

  /** @type {Scope} */
  let scope = {};

  /** @param {number} seconds */
  const pause = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000));

  /** @param {unknown} one @param {unknown} other */
  const isSame = (one, other) => JSON.stringify(one) === JSON.stringify(other);

  /**
   * A websocket of a kernel or terminal that stays in the state "connecting" while the server is
   * away, instead of failing.
   *
   * To Lab, a websocket that closes before it was open means that the kernel may be dead. It looks
   * for the kernel, and if there is no server, it looks again only after 10 to 30 seconds.
   */
  class PatientSocket {
    /** @type {((event: any) => void) | null} */
    onopen = null;
    /** @type {((event: any) => void) | null} */
    onmessage = null;
    /** @type {((event: any) => void) | null} */
    onerror = null; // never called: Lab takes an error and the close that follows for the same
    /** @type {((event: any) => void) | null} */
    onclose = null;
    /** @type {BinaryType} */
    #binaryType = 'blob';
    #closed = false;
    #wasRefused = false;
    #watch;
    #connect;
    #socket;

    /** @param {Watch} watch @param {() => WebSocket} connect */
    constructor(watch, connect) {
      this.#watch = watch;
      this.#connect = connect;
      this.#socket = this.#open();
    }

    get protocol() { return this.#socket.protocol; }
    get binaryType() { return this.#binaryType; }
    set binaryType(type) { this.#socket.binaryType = this.#binaryType = type; }

    /** @param {any} data */
    send(data) {
      this.#socket.send(data);
    }

    /** @param {[number?, string?]} reason */
    close(...reason) {
      this.#closed = true;
      this.#socket.close(...reason);
    }

    #open() {
      const socket = this.#connect();
      let opened = false;
      socket.binaryType = this.#binaryType;
      socket.onopen = event => {
        opened = true;
        this.#wasRefused = false;
        this.onopen?.(event);
      };
      socket.onmessage = event => this.onmessage?.(event);
      socket.onclose = event => {
        if (!opened && !this.#closed) {
          this.#failed(event);
          return;
        }
        if (!this.#closed) this.#watch.lost(new URL(socket.url).searchParams.get('session_id'));
        this.onclose?.(event);
      };
      return socket;
    }

    /** @param {CloseEvent} event */
    async #failed(event) {
      const wasAway = await this.#watch.lost();
      if (wasAway) await this.#watch.documents;
      if (this.#closed) return;
      if (this.#wasRefused && !wasAway) {
        // The server is there, and refuses this websocket again. Lab finds out why.
        this.#closed = true;
        this.onclose?.(event);
      } else {
        this.#wasRefused = true;
        this.#socket = this.#open();
      }
    }
  }

  /** @returns {Lost} */
  const nothing = () => ({
    since: 0,
    sessions: new Map(),
    clients: new Set(),
    cells: new Map(),
    documents: new Map(),
    unsaved: new Set(),
    dialogs: new Set()
  });

  /**
   * Notices when the server is lost, and asks for it until it answers.
   * @implements {Page}
   */
  class Watch {
    /** Kernels wait for this before they connect again. */
    documents = Promise.resolve();
    #lost = nothing();
    /**
     * Whether the page has the documents that are edited together, by the paths of their rooms.
     * @type {Map<string, boolean>}
     */
    #rooms = new Map();
    #failure = 0; // when a request failed
    #hidden = document.hidden ? Date.now() : 0; // since when
    #isProxied = false; // whether somebody answered for the server that was away
    /** @type {Promise<boolean> | null} */
    #asking = null;
    #reports = Promise.resolve();
    #wake = () => {};
    #signIn = ''; // the id of the notification that asks to sign in
    #isVisited = false; // whether the server was visited to sign in again

    /**
     * @param {App} app
     * @param {typeof import('@jupyterlab/services')} services
     * @param {typeof import('@jupyterlab/apputils')} apputils
     * @param {string} namespace
     * @param {boolean} isBehindHub whether JupyterHub has started the server
     */
    constructor(app, services, apputils, namespace, isBehindHub) {
      this.app = app;
      this.services = services;
      this.apputils = apputils;
      this.namespace = namespace;
      this.isBehindHub = isBehindHub;
      this.settings = { ...app.serviceManager.serverSettings };
      this.shared = shared;
      this.#replace(app.serviceManager.serverSettings);
      const wake = () => this.#wake();
      addEventListener('focus', wake);
      addEventListener('online', wake);
      document.addEventListener('visibilitychange', () => {
        this.#hidden = document.hidden ? Date.now() : 0;
        wake();
      });
      apputils.Dialog.tracker.widgetAdded.connect((_, dialog) => {
        if (Date.now() - this.#failure < 500) this.#lost.dialogs.add(dialog);
      });
    }

    get isLost() { return this.#asking !== null; }

    /**
     * Replaces what Lab connects and sends requests with. It reads both settings each time.
     * @param {{-readonly [Key in keyof Settings]: any}} settings
     */
    #replace(settings) {
      const { fetch, WebSocket } = this.settings;
      const watch = this;
      settings.WebSocket = class extends WebSocket {
        /** @param {string} url @param {[any?]} protocols */
        constructor(url, ...protocols) {
          const { pathname } = new URL(url);
          if (KERNEL.test(pathname) || TERMINAL.test(pathname)) {
            const socket = new PatientSocket(watch, () => new WebSocket(url, ...protocols));
            return /** @type {any} */ (socket);
          }
          super(url, ...protocols);
          if (ROOM.test(pathname)) watch.#follow(this, pathname);
        }
      };
      settings.fetch = async (/** @type {[any, any?]} */ ...request) => {
        try {
          const response = await fetch.call(null, ...request);
          if (AWAY.includes(response.status)) this.#failed();
          return response;
        } catch (error) {
          if (!(error instanceof DOMException)) this.#failed(); // not one that was aborted
          throw error;
        }
      };
    }

    #failed() {
      this.#failure = Date.now();
      this.lost();
    }

    /**
     * Notes what is open, and asks for the server unless that is under way.
     * @param {string | null} [client] the id of a client whose connection to a kernel was lost
     * @returns {Promise<boolean>} whether the server was away, once it answers
     */
    lost(client) {
      if (client) this.#lost.clients.add(client);
      try {
        for (const widget of this.#widgets(this.app.shell)) this.#note(widget);
      } catch (error) {
        console.warn(error); // A widget of another extension is not what it looks like.
      }
      this.#asking ??= this.#ask();
      return this.#asking;
    }

    /**
     * Yields the widgets that have a kernel or a document.
     * @param {OpenWidget} widget
     * @returns {Generator<OpenWidget>}
     */
    *#widgets(widget) {
      if (widget.sessionContext || widget.context?.path) yield widget;
      else for (const child of widget.children()) yield* this.#widgets(child);
    }

    /** @param {OpenWidget} widget */
    #note({ sessionContext: context, context: document, content, console }) {
      const { sessions, cells, documents } = this.#lost;
      const isShared = document?.model.collaborative ?? false;
      document?.saveState.connect(this.#noteSave); // has no effect if it is connected already
      if (document && isShared && !documents.has(document)) {
        documents.set(document, document.model.toString().length);
      }
      const session = context?.session;
      if (!context || !session?.kernel) return;
      const { id, path, name, type, kernel } = session;
      if (!sessions.has(context)) {
        const label = (type === 'console' && name) || path;
        sessions.set(context, { id, path, label, kernelId: kernel.id, kernelName: kernel.name });
      }
      // What runs from now on is sent once the kernel is connected again.
      if (kernel.connectionStatus !== 'connected') return;
      for (const cell of content?.widgets ?? console?.cells ?? []) {
        const future = cell.outputArea?.future;
        if (!future || cells.has(future)) continue;
        const outputs = isShared ? cell.model.outputs.toJSON() : [];
        cells.set(future, { cell, kernel, context, outputs });
        const forget = () => cells.delete(future);
        future.done.then(forget, forget);
      }
    }

    /** @type {(document: DocumentContext, state: string) => void} */
    #noteSave = (document, state) => {
      if (state === 'failed' && this.isLost) this.#lost.unsaved.add(document);
    };

    async #ask() {
      const begun = Date.now();
      /** @type {Status | null} */
      let status = await this.#request();
      const wasAway = !status;
      while (!status) {
        this.#lost.since ||= begun;
        await this.#pause((Date.now() - begun) / 1000);
        status = await this.#request();
      }
      if (this.#signIn) this.apputils.Notification.dismiss(this.#signIn);
      this.#signIn = '';
      this.#isVisited = false;
      const lost = this.#lost;
      const answer = status;
      const away = lost.since ? (Date.now() - lost.since) / 1000 : 0;
      this.#lost = nothing();
      this.#asking = null;
      if (wasAway && this.#rooms.size) this.documents = this.#restore(lost).catch(console.warn);
      else lost.documents.clear();
      this.#reports = this.#reports
        .then(() => this.#report(lost, answer, away))
        .catch(console.error);
      return wasAway;
    }

    /**
     * Returns what the server says of the sessions here, or null if it is away.
     * @returns {Promise<Status | null>}
     */
    async #request() {
      const ids = [...this.#lost.sessions.values()].slice(0, MAX_IDS).map(({ id }) => `id=${id}`);
      this.#isProxied = false;
      try {
        const response = await this.#get(`api/sessions/status?${ids.join('&')}`);
        this.#isProxied = true;
        if ([401, 403].includes(response.status)) await this.#signInAgain();
        if ([...AWAY, 401, 403].includes(response.status)) return null;
        if (response.ok) {
          const status = await response.json();
          return status.namespace ? status : null;
        }
        // A server without nbsessions, or a proxy that has no server.
        const { version } = await (await this.#get('api')).json();
        return version ? {} : null;
      } catch {
        return null;
      }
    }

    /** @param {string} path */
    #get(path) {
      const signal = AbortSignal.timeout(REQUEST_TIMEOUT * 1000);
      const { baseUrl } = this.settings;
      return this.services.ServerConnection.makeRequest(baseUrl + path, { signal }, this.settings);
    }

    /**
     * Waits until it is time to ask again, or somebody looks at the page.
     * @param {number} away the seconds that the server is away
     */
    #pause(away) {
      return new Promise(resolve => {
        this.#wake = () => resolve(null);
        // The more pages a server has, and the longer it is away, the less often each one asks.
        // They have all lost it at the same moment, so each one first waits for a part of that.
        const isHidden = this.#hidden && Date.now() - this.#hidden > HIDDEN_FOR_LONG * 1000;
        const least = isHidden ? HIDDEN_INTERVAL : this.#isProxied ? 1 : 0.25;
        const later = Math.min(20, Math.max(this.connections() / 55, (away / 420) ** 2));
        const seconds = Math.max(least, later);
        const part = away < seconds ? Math.random() : 0.85 + Math.random() / 5;
        setTimeout(resolve, seconds * part * 1000);
      });
    }

    /** See Page. */
    connections() {
      const models = [...this.app.serviceManager.kernels.running()];
      return models.reduce((count, model) => count + (model.connections ?? 0), 0);
    }

    /**
     * See Page.
     * @param {Lost['dialogs']} dialogs
     */
    dismiss(dialogs) {
      const field = ':is(input, select, textarea)';
      for (const dialog of dialogs) {
        const isFilledIn = `${field}.jp-Dialog-body, .jp-Dialog-body ${field}`;
        if (!dialog.node.querySelector(isFilledIn)) dialog.reject();
      }
    }

    async #signInAgain() {
      // JupyterHub makes cookies invalid when it starts a server again. Where the user is still
      // signed in to the hub, a visit gives the browser a new one.
      const isNew = !this.#isVisited;
      this.#isVisited = true;
      if (isNew && this.isBehindHub) await visit(this.settings.baseUrl);
      else this.#askToSignIn();
    }

    #askToSignIn() {
      const { Notification } = this.apputils;
      this.dismiss(this.#lost.dialogs); // They would cover the notification.
      this.#signIn ||= Notification.warning('The server wants you to sign in again.', {
        autoClose: false,
        actions: [{ label: 'Sign in', callback: () => window.open(this.settings.baseUrl) }]
      });
    }

    /**
     * Follows whether the page has the document of a room. The server of y-websocket sends it in
     * the second step of a synchronisation.
     * @param {WebSocket} socket
     * @param {string} path
     */
    #follow(socket, path) {
      this.#rooms.set(path, false);
      socket.addEventListener('message', ({ data }) => {
        const [type, step] = new Uint8Array(data);
        if (type === 0 && step === 1) this.#rooms.set(path, true);
      });
      socket.addEventListener('close', ({ wasClean }) => {
        if (wasClean) this.#rooms.delete(path); // the page has closed the document
        else this.#rooms.set(path, false);
      });
    }

    /**
     * Waits until documents that are edited together are loaded from disk, and puts back what
     * running cells had shown. The disk has only what they showed earlier.
     * @param {Lost} lost
     */
    async #restore({ cells }) {
      await this.#loaded(ROOMS_WITHIN);
      for (const { cell, outputs } of cells.values()) {
        if (cell.isDisposed) continue;
        const now = cell.model.outputs.toJSON();
        const isThere = outputs.every((each, index) => isSame(each, now[index]));
        if (!isThere) cell.model.outputs.fromJSON([...outputs, ...now]);
      }
    }

    /**
     * Waits until documents that are edited together are loaded from disk.
     * @param {number} seconds
     */
    async #loaded(seconds) {
      const deadline = Date.now() + seconds * 1000;
      while ([...this.#rooms.values()].includes(false) && Date.now() < deadline) await pause(0.05);
    }

    /**
     * See Page.
     * @param {Lost['documents']} documents
     */
    async compare(documents) {
      if (documents.size) await this.#loaded(COMPARED_WITHIN);
      for (const [document, size] of documents) {
        const isWhole = document.isDisposed || document.model.toString().length >= size;
        if (isWhole) documents.delete(document);
      }
    }

    /**
     * @param {Lost} lost
     * @param {Status} status
     * @param {number} away the seconds of absence
     */
    async #report(lost, status, away) {
      await this.documents;
      let isDone = false;
      try {
        const { report } = await import('./report.js');
        isDone = await report(this, lost, status, away);
      } finally {
        if (!isDone) this.#keep(lost);
      }
    }

    /**
     * Keeps for the next report what could not be told, as the server was lost again.
     * @param {Lost} lost
     */
    #keep({ since, sessions, unsaved }) {
      const now = this.#lost;
      if (this.isLost) now.since = since || now.since;
      now.sessions = new Map([...now.sessions, ...sessions]);
      for (const document of unsaved) now.unsaved.add(document);
    }
  }

  /**
   * Loads a page in a frame that nobody sees and that runs no scripts.
   * @param {string} url
   */
  const visit = async url => {
    const frame = document.createElement('iframe');
    frame.setAttribute('sandbox', 'allow-same-origin'); // with its cookies
    frame.hidden = true;
    frame.src = url;
    await new Promise(resolve => {
      frame.onload = resolve;
      setTimeout(resolve, REQUEST_TIMEOUT * 1000);
      document.body.append(frame);
    });
    frame.remove();
  };

  /**
   * Returns a module that the application shares.
   * @param {string} name
   */
  const shared = async name => (await Object.values(scope[name])[0].get())();

  const plugin = {
    id: 'nbsessions:reconnecting',
    description: 'Connects the page again as soon as its server is back.',
    autoStart: true,
    /** @param {App} app */
    activate: async app => {
      const { PageConfig } = await shared('@jupyterlab/coreutils');
      const namespace = PageConfig.getOption('nbsessionsNamespace');
      if (!namespace) return; // the server does not keep its sessions with nbsessions
      const services = await shared('@jupyterlab/services');
      const apputils = await shared('@jupyterlab/apputils');
      const isBehindHub = PageConfig.getOption('hubPrefix') !== '';
      new Watch(app, services, apputils, namespace, isBehindHub);
    }
  };

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB.nbsessions = {
    /** @param {Scope} shareScope */
    init: shareScope => { scope = shareScope; },
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
