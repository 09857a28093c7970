// Types that the sources share.

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { Dialog, ISessionContext } from '@jupyterlab/apputils';
import type { CodeCell } from '@jupyterlab/cells';
import type { IOutput } from '@jupyterlab/nbformat';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { Kernel, ServerConnection } from '@jupyterlab/services';
import type { Widget } from '@lumino/widgets';

declare global {
  interface Window {
    /** The containers of the installed extensions, by name. */
    _JUPYTERLAB?: Record<string, unknown>;
  }

  /** The modules that the application shares with its extensions, by name and version. */
  type Scope = Record<string, Record<string, { get(): Promise<() => any> }>>;

  type App = JupyterFrontEnd;
  type Context = ISessionContext;
  type DocumentContext = DocumentRegistry.Context;
  type Settings = ServerConnection.ISettings;
  type KernelConnection = Kernel.IKernelConnection;
  type Future = Kernel.IFuture<any, any>;

  /** A widget of the application, as far as this extension looks into it. */
  type OpenWidget = Widget & {
    sessionContext?: Context;
    context?: DocumentContext;
    /** The content of a notebook. */
    content?: { widgets?: Iterable<CodeCell> };
    /** The content of a console. */
    console?: { cells: Iterable<CodeCell> };
  };

  /** A session that was open when the server was lost. */
  interface Noted {
    id: string;
    path: string;
    /** What the user knows it by: the path of a document, or the name of a console. */
    label: string;
    kernelId: string;
    kernelName: string;
  }

  /** A cell that waits for the reply of its kernel. */
  interface WaitingCell {
    cell: CodeCell;
    kernel: KernelConnection;
    context: Context;
    /** What the cell showed, if its document is edited together with others. */
    outputs: IOutput[];
  }

  /** What the page had when the server was lost. */
  interface Lost {
    /** When that was, in milliseconds. 0 if the server was not away. */
    since: number;
    /** The open sessions. */
    sessions: Map<Context, Noted>;
    /** The clients, by id, whose connections to kernels were lost. */
    clients: Set<string>;
    /** The cells that wait for a reply, by its future. They leave when it is there. */
    cells: Map<Future, WaitingCell>;
    /**
     * The documents that are edited together with others, and how many characters they had. Once
     * they are loaded again, only those stay that have become shorter.
     */
    documents: Map<DocumentContext, number>;
    /** The documents that could not be saved. */
    unsaved: Set<DocumentContext>;
    /** The dialogs that appeared because a request had failed. */
    dialogs: Set<Dialog<unknown>>;
  }

  /** A session that has ended, with the reason that the server gave, or "unknown". */
  interface Gone extends Noted {
    reason: string;
  }

  /** What a client of a kernel had missed when it connected again. */
  interface Missed {
    client: string;
    /** How many lines of output it got afterwards. */
    lines: number;
    /** A sentence about what is lost, or may be. */
    problem: string | null;
    /** Whether it has got everything that there is. */
    is_complete: boolean;
  }

  /** The reply to `GET /api/sessions/status`. A server without nbsessions gives none. */
  interface Status {
    namespace?: string;
    missing?: { id: string; reason: string | null; ended: string | null }[] | null;
  }

  /** What the report needs of the page. */
  interface Page {
    readonly app: App;
    readonly services: typeof import('@jupyterlab/services');
    readonly apputils: typeof import('@jupyterlab/apputils');
    readonly settings: Settings;
    /** What the server's sessions belonged to when the page saw it last. */
    namespace: string;
    /** Whether the server does not answer. */
    readonly isLost: boolean;
    /** Returns a module that the application shares. */
    shared(name: string): Promise<any>;
    /** Closes dialogs, but none that the user fills in. */
    dismiss(dialogs: Lost['dialogs']): void;
    /**
     * Removes the documents that have all they had, once they are loaded from disk. A slow server
     * may need a while for that.
     */
    compare(documents: Lost['documents']): Promise<void>;
    /** Returns how many connections the server's kernels had. */
    connections(): number;
  }
}
