/** What the page and the extension know of each other, for the type check only. */

interface Window {
  /** The module federation containers of the installed extensions, by name. */
  _JUPYTERLAB?: Record<string, unknown>;
}
