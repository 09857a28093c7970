// Connects a page again as soon as its server is back. This is a prebuilt extension of JupyterLab 4
// and Notebook 7. A container of module federation, written by hand, needs no build tool.

(() => {
  const HIDDEN_FOR_LONG = 5 * 60; // seconds
  const REQUEST_TIMEOUT = 10; // seconds
  const MAX_IDS = 100; // sessions that one request may ask for
  const AWAY = [424, 502, 503, 504]; // what proxies and JupyterHub answer for a server
  const ROOM = /\/api\/collaboration\/room\//; // of a document that is edited together
  const ROOM_WITHIN = 5; // seconds
  const HELD = /\/(api\/kernels\/[^/]+\/channels|terminals\/websocket\/[^/]+)$/;

  /** @type {Scope} */
  let scope = {};

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
    onerror = null;
    /** @type {((event: any) => void) | null} */
    onclose = null;
    /** @type {BinaryType} */
    #binaryType = 'blob';
    #closed = false;
    #failures = 0;
    #watch;
    #connect;
    #socket;

    /** @param {Watch} watch @param {() => WebSocket} connect */
    constructor(watch, connect) {
      this.#watch = watch;
      this.#connect = connect;
      this.#socket = this.#open();
    }

    get url() { return this.#socket.url; }
    get protocol() { return this.#socket.protocol; }
    get extensions() { return this.#socket.extensions; }
    get bufferedAmount() { return this.#socket.bufferedAmount; }
    get binaryType() { return this.#binaryType; }
    set binaryType(type) { this.#socket.binaryType = this.#binaryType = type; }
    get readyState() {
      const waits = this.#failures > 0 && !this.#closed;
      return waits ? WebSocket.CONNECTING : this.#socket.readyState;
    }

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
        this.#failures = 0;
        this.onopen?.(event);
      };
      socket.onmessage = event => this.onmessage?.(event);
      // A close follows each error. Lab takes both for the same.
      socket.onclose = event => {
        if (!opened && !this.#closed) {
          this.#failed(event);
          return;
        }
        if (!this.#closed) this.#watch.lost();
        this.onclose?.(event);
      };
      return socket;
    }

    /** @param {CloseEvent} event */
    async #failed(event) {
      const wasAway = await this.#watch.lost();
      if (wasAway) await this.#watch.roomsReady();
      if (this.#closed) return;
      this.#failures = wasAway ? 1 : this.#failures + 1;
      if (this.#failures > 1) {
        // The server is there, and refuses this websocket again. Lab finds out why.
        this.#closed = true;
        this.onclose?.(event);
      } else {
        this.#socket = this.#open();
      }
    }
  }

  /** @returns {Lost} */
  const nothing = () => ({
    since: 0,
    sessions: new Map(),
    cells: new Map(),
    unsaved: new Set(),
    shared: new Map(),
    dialogs: new Set()
  });

  /**
   * Notices when the server is lost, and asks for it until it answers.
   * @implements {Page}
   */
  class Watch {
    #lost = nothing();
    /**
     * Whether the page has the documents that are edited together, by the paths of their rooms.
     * @type {Map<string, boolean>}
     */
    #rooms = new Map();
    #failure = 0;
    #hidden = 0;
    /** @type {Promise<boolean> | null} */
    #asking = null;
    #reports = Promise.resolve();
    #wake = () => {};
    /** The id of the notification that asks to sign in. */
    #signIn = '';

    /**
     * @param {App} app
     * @param {typeof import('@jupyterlab/services')} services
     * @param {typeof import('@jupyterlab/apputils')} apputils
     * @param {string} namespace what the server's sessions belong to
     */
    constructor(app, services, apputils, namespace) {
      this.app = app;
      this.shared = shared;
      this.apputils = apputils;
      this.namespace = namespace;
      this.makeRequest = services.ServerConnection.makeRequest;
      this.settings = { ...app.serviceManager.serverSettings };
      this.#replace(app.serviceManager.serverSettings);
      const wake = () => this.#wake();
      addEventListener('focus', wake);
      addEventListener('online', wake);
      document.addEventListener('visibilitychange', () => {
        this.#hidden = document.hidden ? Date.now() : 0;
        wake();
      });
      const { tracker } = apputils.Dialog;
      tracker.widgetAdded.connect((_, dialog) => {
        if (Date.now() - this.#failure < 500) this.#lost.dialogs.add(dialog);
      });
    }

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
          if (HELD.test(new URL(url).pathname)) {
            const socket = new PatientSocket(watch, () => new WebSocket(url, ...protocols));
            return /** @type {any} */ (socket);
          }
          super(url, ...protocols);
          if (ROOM.test(url)) watch.#follow(this);
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

    /**
     * Follows whether the page has the document of a room. The server of y-websocket sends it in
     * the second step of a synchronisation.
     * @param {WebSocket} socket
     */
    #follow(socket) {
      const { pathname } = new URL(socket.url);
      this.#rooms.set(pathname, false);
      socket.addEventListener('message', ({ data }) => {
        const [type, step] = new Uint8Array(data);
        if (type === 0 && step === 1) this.#rooms.set(pathname, true);
      });
      socket.addEventListener('close', ({ wasClean }) => {
        if (wasClean) this.#rooms.delete(pathname); // the page has closed the document
        else this.#rooms.set(pathname, false);
      });
    }

    /**
     * Waits until documents that are edited together are loaded. Their content is replaced then, so
     * kernels have to wait with what they say.
     */
    async roomsReady() {
      const deadline = Date.now() + ROOM_WITHIN * 1000;
      while ([...this.#rooms.values()].includes(false) && Date.now() < deadline) {
        await new Promise(resolve => setTimeout(resolve, 50));
      }
    }

    #failed() {
      this.#failure = Date.now();
      this.lost();
    }

    /**
     * Notes what is open, and asks for the server unless that is under way.
     * @returns {Promise<boolean>} whether the server was away, once it answers
     */
    lost() {
      for (const widget of this.widgets()) this.#note(widget);
      this.#asking ??= this.#ask();
      return this.#asking;
    }

    /**
     * Yields the widgets that have a kernel or a document.
     * @param {OpenWidget} [widget]
     * @returns {Generator<OpenWidget>}
     */
    *widgets(widget = this.app.shell) {
      if (widget.sessionContext || widget.context?.path) yield widget;
      else for (const child of widget.children()) yield* this.widgets(child);
    }

    /** @param {OpenWidget} widget */
    #note({ sessionContext: context, context: document, content, console }) {
      document?.saveState.connect(this.#noteSave); // has no effect if it is connected already
      if (document?.model.collaborative && !this.#lost.shared.has(document)) {
        this.#lost.shared.set(document, document.model.toString().length);
      }
      const session = context?.session;
      if (!context || !session?.kernel || this.#lost.sessions.has(context)) return;
      const { id, name, path, kernel } = session;
      this.#lost.sessions.set(context, { id, name: name || path, kernelName: kernel.name });
      const { cells } = this.#lost;
      for (const cell of content?.widgets ?? console?.cells ?? []) {
        const future = cell.outputArea?.future;
        if (!future) continue;
        const outputs = document?.model.collaborative ? cell.model.outputs.toJSON() : [];
        cells.set(future, { cell, context, outputs });
        const forget = () => cells.delete(future);
        future.done.then(forget, forget);
      }
    }

    /** @type {(document: DocumentContext, state: string) => void} */
    #noteSave = (document, state) => {
      if (state === 'failed' && this.#asking) this.#lost.unsaved.add(document);
    };

    async #ask() {
      const begun = Date.now();
      let wasAway = false;
      /** @type {Status | null} */
      let status;
      while (!(status = await this.#request())) {
        wasAway = true;
        this.#lost.since ||= begun;
        await this.#pause((Date.now() - begun) / 1000);
      }
      this.#asking = null;
      if (this.#signIn) this.apputils.Notification.dismiss(this.#signIn);
      this.#signIn = '';
      const answer = status;
      this.#reports = this.#reports.then(() => this.#report(answer)).catch(console.error);
      return wasAway;
    }

    /**
     * Returns what the server says of the sessions here, or null if it is away.
     * @returns {Promise<Status | null>}
     */
    async #request() {
      const ids = [...this.#lost.sessions.values()].slice(0, MAX_IDS).map(({ id }) => `id=${id}`);
      const url = `${this.settings.baseUrl}api/sessions/status?${ids.join('&')}`;
      const signal = AbortSignal.timeout(REQUEST_TIMEOUT * 1000);
      try {
        const response = await this.makeRequest(url, { signal }, this.settings);
        if (response.status === 404) return {}; // a server without nbsessions
        if ([401, 403].includes(response.status)) this.#askToSignIn();
        const status = response.ok && (await response.json());
        return status.namespace ? status : null;
      } catch {
        return null;
      }
    }

    /**
     * Waits until it is time to ask again, or somebody looks at the page.
     * @param {number} away the seconds that the server is away
     */
    #pause(away) {
      return new Promise(resolve => {
        this.#wake = () => resolve(null);
        if (this.#hidden && Date.now() - this.#hidden > HIDDEN_FOR_LONG * 1000) return;
        // The more pages a server has, and the longer it is away, the less often each one asks.
        // They have all lost it at the same moment, so each one first waits for a part of that.
        const seconds = Math.min(60, Math.max(0.25, this.connections() / 70, (away / 420) ** 2));
        const part = away < seconds ? Math.random() : 0.9 + Math.random() / 5;
        setTimeout(resolve, seconds * part * 1000);
      });
    }

    /** See Page. */
    connections() {
      let count = 0;
      for (const model of this.app.serviceManager.kernels.running()) count += model.connections ?? 0;
      return count;
    }

    #askToSignIn() {
      const { Notification } = this.apputils;
      this.#signIn ||= Notification.warning('The server is back, but you have to sign in again.', {
        autoClose: false,
        actions: [{ label: 'Sign in', callback: () => window.open(this.settings.baseUrl) }]
      });
    }

    /** @param {Status} status */
    async #report(status) {
      const lost = this.#lost;
      this.#lost = nothing();
      const { report } = await import('./report.js');
      await report(this, lost, status);
    }
  }

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
      new Watch(app, services, apputils, namespace);
    }
  };

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB.nbsessions = {
    /** @param {Scope} shareScope */
    init: shareScope => { scope = shareScope; },
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
