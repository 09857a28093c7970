// The container that JupyterLab and Notebook 7 load. It has no plugins yet.
(window._JUPYTERLAB ??= {}).nbsessions = {
  init() {},
  get: async () => () => ({ __esModule: true, default: [] })
};
