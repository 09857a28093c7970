// Brings a page up to date after its server is back, and tells the user what happened. The page
// loads this file only then. The server may have been upgraded meanwhile, so this file has to work
// with the nbsessions.js of earlier releases.

const CONNECTED_WITHIN = 10; // seconds
const REPLIES_WITHIN = 2; // seconds
const RESTORED_WITHIN = 10; // seconds
const MAX_CLIENTS = 100; // that one request may ask for
const WORTH_A_WORD = 2; // seconds of absence

/**
 * What happened to a kernel, by the reason that the server gives.
 * @type {Record<string, string>}
 */
const WHY = {
  stopped: 'was shut down with the server',
  died: 'ended while the server was away',
  rebooted: 'ended when the machine was restarted',
  ended: 'has ended',
  elsewhere: 'belongs to another server now',
  unknown: 'is no longer here'
};

const MOVED =
  'The server keeps other sessions now, as those of another directory. Kernels of this page are ' +
  'not among them.';
const NO_REPLY = 'No reply came, because the page was not connected. The cell may have run.';

/**
 * The ids of the sessions whose end needs no more words.
 * @type {Set<string>}
 */
const told = new Set();

/** @param {number} seconds */
const pause = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000));

/**
 * Brings the page up to date, and tells what happened if that is worth a word.
 * @param {Page} page
 * @param {Lost} lost
 * @param {Status} status the server's first answer
 * @param {number} away the seconds of absence
 * @returns {Promise<boolean>} false if the server was lost again in the meantime
 */
export async function report(page, lost, status, away) {
  const contexts = [...lost.sessions.keys()];
  if (away) {
    page.dismiss(lost.dialogs);
    await save(lost.unsaved);
    for (const context of contexts) reconnect(context.session?.kernel);
  }
  const missing = new Set((status.missing ?? []).map(({ id }) => id));
  await connected(contexts.filter(context => !missing.has(lost.sessions.get(context)?.id ?? '')));
  const refreshed = refresh(page, contexts, away);
  const unanswered = await settle(lost);
  const missed = await findMissed(page, lost.clients, contexts);
  await page.compare(lost.documents);
  if (page.isLost) return false;
  tell(page, lost, status, away, unanswered, missed);
  await refreshed;
  return true;
}

/**
 * Saves the documents that could not be saved, unless they were saved in the meantime.
 * @param {Lost['unsaved']} documents
 */
async function save(documents) {
  for (const document of documents) {
    if (!document.isDisposed && document.model.dirty) await document.save().catch(console.warn);
  }
}

/**
 * Connects a kernel that Lab has given up, as it does if a server closes a websocket in due form.
 * @param {KernelConnection | null | undefined} kernel
 */
function reconnect(kernel) {
  if (kernel?.connectionStatus === 'disconnected' && kernel.status !== 'dead') {
    kernel.reconnect().catch(console.warn);
  }
}

/**
 * Waits until the kernels of sessions that the server has are connected or gone.
 * @param {Context[]} contexts
 */
async function connected(contexts) {
  const deadline = Date.now() + CONNECTED_WITHIN * 1000;
  for (const context of contexts) {
    while (isConnecting(context.session?.kernel) && Date.now() < deadline) await pause(0.05);
  }
}

/** @param {KernelConnection | null | undefined} kernel */
const isConnecting = kernel => isAlive(kernel) && !isConnected(kernel);

/** @param {KernelConnection | null | undefined} kernel */
const isAlive = kernel => kernel && !kernel.isDisposed && kernel.status !== 'dead';

/** @param {KernelConnection | null | undefined} kernel */
const isConnected = kernel => kernel?.connectionStatus === 'connected';

/**
 * Refreshes the lists of what is running. Lab itself would do that within minutes.
 * @param {Page} page
 * @param {Context[]} contexts
 * @param {number} away
 */
async function refresh(page, contexts, away) {
  const { kernels, sessions, terminals } = page.app.serviceManager;
  const managers = [kernels, sessions, ...(terminals.isAvailable() ? [terminals] : [])];
  for (const manager of away ? managers : [kernels]) {
    // A server that has just started may have many pages, which want to be connected first.
    await pause(((1 + Math.random()) * page.connections()) / 40);
    await manager.refreshRunning().catch(console.warn);
    if (manager === kernels) await showStates(page, contexts);
  }
}

/**
 * Shows the states of kernels that are connected again.
 *
 * Lab would show "unknown" until the next cell runs: it ignores the state that comes with the reply
 * to its kernel_info_request. There is no public way to set a state, so this uses the method
 * `_updateStatus` of KernelConnection. Where it is missing, the state stays unknown.
 * @param {Page} page
 * @param {Context[]} contexts
 */
async function showStates({ app, services, settings }, contexts) {
  const { kernels } = app.serviceManager;
  // The manager refreshes nothing while its page is hidden.
  const models = document.hidden
    ? await services.KernelAPI.listRunning(settings).catch(() => [])
    : [...kernels.running()];
  const states = new Map(models.map(model => [model.id, model.execution_state]));
  for (const { session } of contexts) {
    /** @type {any} */
    const kernel = session?.kernel;
    const state = states.get(kernel?.id);
    if (state && isConnected(kernel) && kernel.status === 'unknown') kernel._updateStatus?.(state);
  }
}

/**
 * Settles the cells that no reply will come for, and returns their contexts.
 *
 * A kernel answers in order. Once it has answered a request that was sent after the page was
 * connected again, the replies to earlier requests have come, or they never will.
 * @param {Lost} lost
 */
async function settle({ clients, cells }) {
  /** @type {Context[]} */
  const settled = [];
  /** @type {Map<KernelConnection, Promise<boolean>>} */
  const answers = new Map();
  const waiting = [...cells].map(async ([future, { cell, kernel, context }]) => {
    if (!clients.has(kernel.clientId) || !isConnected(kernel)) return;
    if (!answers.has(kernel)) answers.set(kernel, answersNow(kernel));
    if (!(await answers.get(kernel)) || !cells.has(future) || cell.isDisposed) return;
    future.dispose();
    settled.push(context);
    await pause(0); // Lab empties the prompt first.
    mark(cell);
  });
  await Promise.race([Promise.allSettled(waiting), pause(REPLIES_WITHIN)]);
  return settled;
}

/**
 * Waits until a kernel answers. It is asked again and again, because an answer may be lost while
 * the server subscribes to what the kernel publishes.
 * @param {KernelConnection} kernel
 * @returns {Promise<boolean>} false if the connection was lost
 */
async function answersNow(kernel) {
  for (let seconds = 2; isConnected(kernel); seconds *= 2) {
    const answer = kernel.requestKernelInfo().then(() => true);
    if (await Promise.race([answer, pause(seconds)])) return true;
  }
  return false;
}

/**
 * Returns what the page had missed of kernels, once it has got all that the server has of that.
 * @param {Page} page
 * @param {Set<string>} clients
 * @param {Context[]} contexts
 * @returns {Promise<Map<Context, Missed>>}
 */
async function findMissed(page, clients, contexts) {
  /** @param {Context} context */
  const clientOf = ({ session }) => session?.kernel?.clientId ?? '';
  const asked = contexts.map(clientOf).filter(id => clients.has(id)).slice(0, MAX_CLIENTS);
  const deadline = Date.now() + RESTORED_WITHIN * 1000;
  let found = await askForMissed(page, asked);
  while (!found.every(({ is_complete }) => is_complete) && Date.now() < deadline) {
    await pause(0.5);
    found = await askForMissed(page, asked);
  }
  const byClient = new Map(found.map(missed => [missed.client, missed]));
  /** @type {Map<Context, Missed>} */
  const byContext = new Map();
  for (const context of contexts) {
    const missed = byClient.get(clientOf(context));
    if (missed) byContext.set(context, missed);
  }
  return byContext;
}

/**
 * @param {Page} page
 * @param {string[]} clients
 * @returns {Promise<Missed[]>} nothing if the server does not tell
 */
async function askForMissed({ services, settings }, clients) {
  if (!clients.length) return [];
  const query = clients.map(id => `client=${encodeURIComponent(id)}`).join('&');
  const url = `${settings.baseUrl}api/sessions/status?${query}`;
  try {
    const response = await services.ServerConnection.makeRequest(url, {}, settings);
    return response.ok ? ((await response.json()).missed ?? []) : [];
  } catch {
    return []; // The server is lost again.
  }
}

/**
 * Shows that a cell has no reply, until it runs again.
 * @param {import('@jupyterlab/cells').CodeCell} cell
 */
function mark(cell) {
  const { model, promptNode } = cell;
  cell.setPrompt('?');
  if (!promptNode) return;
  promptNode.title = NO_REPLY;
  /** @param {unknown} _ @param {{name: string}} change */
  const clear = (_, { name }) => {
    if (!name.startsWith('execution')) return;
    promptNode.removeAttribute('title');
    model.stateChanged.disconnect(clear);
  };
  model.stateChanged.connect(clear);
}

/**
 * Tells what happened: one notification for all, with the details in a dialog.
 * @param {Page} page
 * @param {Lost} lost
 * @param {Status} status
 * @param {number} away
 * @param {Context[]} unanswered the context of each cell that got no reply
 * @param {Map<Context, Missed>} missed
 */
function tell(page, { sessions, documents }, status, away, unanswered, missed) {
  const hasMoved = status.namespace && status.namespace !== page.namespace;
  page.namespace = status.namespace ?? page.namespace;
  const gone = findGone(status, away, sessions);
  const shorter = [...documents.keys()].map(document => lastPart(document.localPath));
  const problems = [...missed.values()].flatMap(({ problem }) => problem ?? []);
  const hasLost = unanswered.length > 0 || problems.length > 0 || (away && shorter.length > 0);
  const isBad = hasMoved || gone.size > 0 || hasLost;
  if (!isBad && away < WORTH_A_WORD) return;
  const sentences = [
    away ? `Back after ${duration(away)}.` : '',
    hasMoved ? MOVED : describeGone([...gone.values()]),
    // Lab shortens a longer text than is left without this.
    hasMoved || gone.size > 0 || problems.length > 0 ? '' : describeKept(sessions),
    describeRestored([...missed.values()]),
    problems.length > 1 ? 'Output is missing in several places.' : (problems[0] ?? ''),
    unanswered.length ? `${several(unanswered.length, 'cell')} got no reply.` : '',
    shorter.length ? `The latest changes of ${shorten(shorter.join(', '))} may be missing.` : ''
  ];
  /** @type {import('@jupyterlab/apputils').Notification.IAction[]} */
  const actions = [];
  if (gone.size > 0) {
    const label = count(gone.values(), 'id') > 1 ? 'Start new kernels' : 'Start new kernel';
    actions.push({ label, callback: () => startKernels(page, gone) });
  }
  if (isBad || sessions.size > 1) {
    const lines = details(sessions, gone, unanswered, missed);
    const callback = (/** @type {Event} */ event) => {
      event.preventDefault(); // keeps the notification
      showDetails(page, lines);
    };
    actions.push({ label: 'Details', callback });
  }
  page.apputils.Notification.emit(
    sentences.filter(Boolean).join(' '),
    isBad ? 'warning' : 'success',
    { autoClose: isBad ? false : 5000, actions }
  );
}

/**
 * Returns the contexts whose sessions have ended, with their sessions and the reasons.
 * @param {Status} status
 * @param {number} away
 * @param {Lost['sessions']} sessions
 */
function findGone(status, away, sessions) {
  const missing = (status.missing ?? []).filter(({ id }) => !told.has(id));
  const reasons = new Map(missing.map(({ id, reason }) => [id, reason]));
  /** @type {Map<Context, Gone>} */
  const gone = new Map();
  for (const [context, session] of sessions) {
    if (!reasons.has(session.id)) continue;
    told.add(session.id);
    const reason = reasons.get(session.id) ?? 'unknown';
    // While the server was there, the user ended the kernel, or Lab could tell that it has ended.
    if (away || !['ended', 'unknown'].includes(reason)) gone.set(context, { ...session, reason });
  }
  return gone;
}

/** @param {Gone[]} gone */
function describeGone(gone) {
  const [first] = gone;
  if (!first) return '';
  const areKnown = gone.every(({ reason }) => !['elsewhere', 'unknown'].includes(reason));
  const variables = areKnown ? ': variables are gone' : '';
  const kernels = count(gone, 'kernelId');
  if (kernels > 1) return `${kernels} kernels are no longer here${variables}.`;
  return `The kernel of ${shorten(lastPart(first.label))} ${whyOf(first)}${variables}.`;
}

/** @param {Lost['sessions']} sessions */
function describeKept(sessions) {
  const kept = [...sessions].filter(isKept).map(([, session]) => session);
  const [all, here] = [count(sessions.values(), 'kernelId'), count(kept, 'kernelId')];
  if (here < all) return `Connected: ${here} of ${several(all, 'kernel')}.`;
  if (!all) return '';
  return all > 1 ? 'The kernels kept running.' : 'The kernel kept running.';
}

/** @param {Missed[]} missed */
function describeRestored(missed) {
  const lines = missed.reduce((sum, each) => sum + each.lines, 0);
  return lines ? `${several(lines, 'line')} of output ${lines > 1 ? 'were' : 'was'} restored.` : '';
}

/** @param {[Context, Noted]} entry */
const isKept = ([{ session }, { kernelId }]) =>
  session?.kernel?.id === kernelId && isConnected(session.kernel);

/** @param {Iterable<Noted>} sessions @param {'id' | 'kernelId'} key */
const count = (sessions, key) => new Set([...sessions].map(session => session[key])).size;

/** @param {Gone} session */
const whyOf = session => WHY[session.reason] ?? WHY.unknown;

/** @param {string} path */
const lastPart = path => path.slice(path.lastIndexOf('/') + 1);

/** @param {string} name */
const shorten = name => (name.length > 30 ? `${name.slice(0, 29)}…` : name);

/** @param {number} number @param {string} noun */
const several = (number, noun) =>
  number === 1 ? `1 ${noun}` : `${number.toLocaleString('en')} ${noun}s`;

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/**
 * Returns a line about each session.
 * @param {Lost['sessions']} sessions
 * @param {Map<Context, Gone>} gone
 * @param {Context[]} unanswered
 * @param {Map<Context, Missed>} missed
 */
function details(sessions, gone, unanswered, missed) {
  const lines = [...sessions].map(entry => {
    const [context, { label }] = entry;
    const ended = gone.get(context);
    const kept = isKept(entry) ? 'kept running' : 'is not connected';
    const number = unanswered.filter(each => each === context).length;
    const cells = number ? `, ${several(number, 'cell')} got no reply` : '';
    const output = missed.get(context);
    const restored = output ? describeRestored([output]) : '';
    const state = `the kernel ${ended ? whyOf(ended) : kept}${cells}.`;
    return [`${label}: ${state}`, restored, output?.problem].filter(Boolean).join(' ');
  });
  return [...new Set(lines)];
}

/**
 * @param {Page} page
 * @param {string[]} lines
 */
async function showDetails(page, lines) {
  const { Widget } = await page.shared('@lumino/widgets');
  const body = new Widget({ node: document.createElement('div') });
  for (const line of lines) body.node.append(line, document.createElement('br'));
  const { Dialog, showDialog } = page.apputils;
  const title = 'While the page was not connected';
  await showDialog({ title, body, buttons: [Dialog.okButton()] });
}

/**
 * Gives the documents new kernels, except those that have one again. Another page may have started
 * one already.
 * @param {Page} page
 * @param {Map<Context, Gone>} gone
 */
async function startKernels(page, gone) {
  const { sessions } = page.app.serviceManager;
  for (const [context, { path, kernelName }] of gone) {
    if (context.isDisposed || isAlive(context.session?.kernel)) continue;
    await sessions.refreshRunning().catch(console.warn);
    const running = [...sessions.running()].find(model => model.path === path);
    const wanted = running?.kernel ? { id: running.kernel.id } : { name: kernelName };
    await context.changeKernel(wanted).catch(console.warn);
  }
}
