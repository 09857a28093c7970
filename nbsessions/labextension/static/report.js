// Brings a page up to date after its server is back, and tells the user what happened. The page
// loads this file only then.

const CONNECTED_WITHIN = 10; // seconds
const REPLIES_WITHIN = 2; // seconds
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

/**
 * The ids of the sessions whose end was told.
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
 */
export async function report(page, lost, status) {
  const away = lost.since ? (Date.now() - lost.since) / 1000 : 0;
  const contexts = [...lost.sessions.keys()];
  const refreshed = refresh(page, contexts, away);
  if (away) {
    for (const dialog of lost.dialogs) dialog.reject();
    await save(lost.unsaved);
  }
  await connect(contexts);
  for (const waiting of lost.cells.values()) restore(waiting);
  const unanswered = await settle(lost.cells);
  tell(page, status, away, lost.sessions, unanswered, findShorter(lost.shared));
  await refreshed;
}

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
    await pause((Math.random() * page.connections()) / 40);
    await manager.refreshRunning().catch(console.warn);
    if (manager === kernels) showStates(kernels, contexts);
  }
}

/**
 * Saves the documents that could not be saved, unless they were saved in the meantime.
 * @param {Iterable<DocumentContext>} documents
 */
async function save(documents) {
  for (const document of documents) {
    if (!document.isDisposed && document.model.dirty) await document.save().catch(console.warn);
  }
}

/**
 * Waits until the kernels are connected or gone.
 * @param {Context[]} contexts
 */
async function connect(contexts) {
  const deadline = Date.now() + CONNECTED_WITHIN * 1000;
  for (const context of contexts) {
    const kernel = context.session?.kernel;
    // Lab gives up when the server closes a websocket in due form.
    if (kernel?.connectionStatus === 'disconnected' && kernel.status !== 'dead') {
      kernel.reconnect().catch(console.warn);
    }
    while (isConnecting(context.session?.kernel) && Date.now() < deadline) await pause(0.05);
  }
}

/**
 * Puts back what a running cell had shown, if its document was loaded from disk in the meantime.
 * jupyter-collaboration does that, although the disk has only what the cell showed earlier.
 * @param {WaitingCell} waiting
 */
function restore({ cell, outputs }) {
  if (cell.isDisposed) return;
  const now = cell.model.outputs.toJSON();
  if (!outputs.every((output, index) => continues(now[index], output))) {
    cell.model.outputs.fromJSON([...outputs, ...now]);
  }
}

/**
 * Returns the names of the documents that have become shorter.
 * @param {Lost['shared']} documents
 */
const findShorter = documents =>
  [...documents]
    .filter(([{ isDisposed, model }, size]) => !isDisposed && model.toString().length < size)
    .map(([{ localPath }]) => localPath.split('/').pop() ?? localPath);

/**
 * Returns whether an output is the earlier one, perhaps with more text.
 * @param {any} output
 * @param {any} earlier
 */
const continues = (output, earlier) =>
  output?.output_type === 'stream' && output.name === earlier.name
    ? output.text.startsWith(earlier.text)
    : JSON.stringify(output) === JSON.stringify(earlier);

/** @param {KernelConnection | null | undefined} kernel */
const isConnecting = kernel =>
  kernel && !kernel.isDisposed && kernel.status !== 'dead' && !isConnected(kernel);

/** @param {KernelConnection | null | undefined} kernel */
const isConnected = kernel => kernel?.connectionStatus === 'connected';

/**
 * Shows the states of kernels that are connected again.
 *
 * Lab would show "unknown" until the next cell runs: it ignores the state that comes with the reply
 * to its kernel_info_request. There is no public way to set a state, so this uses the method
 * `_updateStatus` of KernelConnection. Where it is missing, the state stays unknown.
 * @param {import('@jupyterlab/services').Kernel.IManager} kernels
 * @param {Context[]} contexts
 */
function showStates(kernels, contexts) {
  const models = new Map([...kernels.running()].map(model => [model.id, model]));
  for (const { session } of contexts) {
    const state = models.get(session?.kernel?.id ?? '')?.execution_state;
    /** @type {any} */
    const kernel = session?.kernel;
    if (state && kernel.status === 'unknown') kernel._updateStatus?.(state);
  }
}

/**
 * Settles the cells that no reply will come for, and returns which these are.
 *
 * A kernel answers in order. Once it has answered a request that was sent after the page was
 * connected again, the replies to earlier requests have come, or they never will.
 * @param {Lost['cells']} cells
 */
async function settle(cells) {
  /** @type {Context[]} */
  const lost = [];
  const waiting = [...cells].map(async ([future, { cell, context }]) => {
    const kernel = context.session?.kernel;
    if (!kernel || !isConnected(kernel)) return;
    await kernel.requestKernelInfo();
    if (!cells.has(future) || cell.isDisposed) return;
    future.dispose();
    lost.push(context);
    await pause(0); // Lab empties the prompt first.
    mark(cell);
  });
  await Promise.race([Promise.allSettled(waiting), pause(REPLIES_WITHIN)]);
  return lost;
}

/**
 * Shows that a cell has no reply, until it runs again.
 * @param {import('@jupyterlab/cells').CodeCell} cell
 */
function mark(cell) {
  const { model, promptNode } = cell;
  cell.setPrompt('?');
  if (!promptNode) return;
  promptNode.title = 'The reply of the kernel was lost while the server was away.';
  const clear = () => {
    promptNode.removeAttribute('title');
    model.stateChanged.disconnect(clear);
  };
  model.stateChanged.connect(clear);
}

/**
 * Tells what happened: one notification for all, with the details in a dialog.
 * @param {Page} page
 * @param {Status} status
 * @param {number} away the seconds of absence
 * @param {Lost['sessions']} sessions
 * @param {Context[]} unanswered the context of each cell that got no reply
 * @param {string[]} shorter the documents that were loaded again, and have lost something
 */
function tell(page, status, away, sessions, unanswered, shorter) {
  const hasMoved = status.namespace && status.namespace !== page.namespace;
  const gone = findGone(status, away, sessions);
  const isBad = hasMoved || gone.size > 0 || unanswered.length > 0 || shorter.length > 0;
  if (!isBad && away < WORTH_A_WORD) return;
  const kept = [...sessions.keys()].filter(context => isConnected(context.session?.kernel)).length;
  const sentences = [
    away ? `Back after ${duration(away)}.` : '',
    hasMoved ? MOVED : describeGone([...gone.values()]),
    isBad || !kept ? '' : `The ${kept > 1 ? 'kernels' : 'kernel'} kept running.`,
    unanswered.length ? `${several(unanswered.length, 'cell')} got no reply.` : '',
    shorter.length ? `The latest changes of ${shorten(shorter.join(', '))} may be missing.` : ''
  ];
  const actions = [];
  if (gone.size > 0) {
    const label = gone.size > 1 ? 'Start new kernels' : 'Start new kernel';
    actions.push({ label, callback: () => startKernels(gone) });
  }
  if (isBad || kept > 1) {
    const lines = details(sessions, gone, unanswered);
    actions.push({ label: 'Details', callback: () => showDetails(page, lines) });
  }
  page.apputils.Notification.emit(
    sentences.filter(Boolean).join(' '),
    isBad ? 'warning' : 'success',
    { autoClose: isBad ? false : 5000, actions }
  );
}

const MOVED = 'The server has another root directory now. The kernels of this page are not there.';

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
    const reason = reasons.get(session.id) ?? 'unknown';
    // While the server was there, Lab could tell that a kernel ended, or the user ended it.
    if (!reasons.has(session.id) || (!away && ['ended', 'unknown'].includes(reason))) continue;
    told.add(session.id);
    gone.set(context, { ...session, reason });
  }
  return gone;
}

/** @param {Gone[]} gone */
function describeGone(gone) {
  const [first] = gone;
  if (!first) return '';
  const areKnown = gone.every(({ reason }) => !['elsewhere', 'unknown'].includes(reason));
  const variables = areKnown ? ': variables are gone' : '';
  const ids = new Set(gone.map(({ id }) => id));
  if (ids.size > 1) return `${ids.size} kernels are no longer here${variables}.`;
  return `The kernel of ${shorten(first.name)} ${whyOf(first)}${variables}.`;
}

/** @param {Gone} session */
const whyOf = session => WHY[session.reason] ?? WHY.unknown;

/** @param {string} name */
const shorten = name => (name.length > 30 ? `${name.slice(0, 29)}…` : name);

/** @param {number} count @param {string} noun */
const several = (count, noun) => (count === 1 ? `1 ${noun}` : `${count} ${noun}s`);

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
 */
function details(sessions, gone, unanswered) {
  const lines = [...sessions].map(([context, session]) => {
    const ended = gone.get(context);
    const kept = isConnected(context.session?.kernel) ? 'kept running' : 'is not connected yet';
    const count = unanswered.filter(each => each === context).length;
    const cells = count ? `, ${several(count, 'cell')} got no reply` : '';
    return `${session.name}: the kernel ${ended ? whyOf(ended) : kept}${cells}.`;
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
  await showDialog({ title: 'While the server was away', body, buttons: [Dialog.okButton()] });
}

/** @param {Map<Context, Gone>} gone */
async function startKernels(gone) {
  for (const [context, { kernelName }] of gone) {
    if (!context.isDisposed) await context.changeKernel({ name: kernelName }).catch(console.warn);
  }
}
