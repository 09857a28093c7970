"""Prepares servers under test, and the kernels that they start, as they import modules.

- Coverage measurement starts when a server imports nbsessions. Tracing everything imported before
  that would double the startup time. Kernels are not measured at all, because they run no code of
  nbsessions.
- When jupyter_client is imported, the ports of kernels are reserved.
- Some modules count as not installed. jsonschema imports ``rfc3987_syntax`` if it can, which takes
  half of a server's start, and no server uses it. ipykernel imports ``debugpy`` and ``jedi`` if it
  can, which takes half of a kernel's start, and no test debugs or completes code. The kernels of
  ``distribution/test_readme.py`` have them.
- JupyterLab goes on as if Node were not installed. If it is, JupyterLab runs it at each start to
  read settings that only a build needs, which takes a quarter of the start.
- A server with ``WITHOUT_LOCKS`` in its environment has no file locks.
- A server with ``KEEPER_PROTOCOL`` has that version of the protocol between servers and keepers,
  and so has a keeper that it starts.
- A server with ``SIGTERM_WHILE_LOGGING`` receives a SIGTERM while it logs a line with that text.
- A server with ``TELL_UNFINISHED_TASKS`` logs, when it ends, which tasks of nbsessions are not
  done.
- On SIGUSR2, a server writes to its log where its threads are, and what its tasks wait for.
"""

import importlib.abc
import importlib.util
import os
import sys

PREFIX = "MEASURE_"
"""The prefix that hides coverage's own environment variables until measurement starts."""


class _AtImport(importlib.abc.MetaPathFinder):
    """Calls a function before or after a module is imported for the first time."""

    def __init__(self, name, *, before=None, after=None):
        self._name, self._before, self._after = name, before, after

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        if self._before:
            self._before()
        if self._after is None:
            return None
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self._after(module)

        spec.loader.exec_module = exec_module
        return spec


def _measure():
    import coverage

    os.environ.update(_variables)
    coverage.process_startup()
    for name in _variables:
        del os.environ[name]


def _reserve(module):
    from support.ports import reserve_ports

    reserve_ports(module.LocalPortCache)


def _set_version(module):
    module.VERSION = int(os.environ["KEEPER_PROTOCOL"])


def _skip_node(module):
    module._yarn_config = lambda logger: {"yarn config": {}, "npm config": {}}


def _remove_locks():
    import errno
    import fcntl

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = flock


def _stop_while_logging(text):
    import io
    import signal

    class Log(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if text in bytes(data).decode():
                os.kill(os.getpid(), signal.SIGTERM)
            return os.write(2, data)

    sys.stderr = io.TextIOWrapper(io.BufferedWriter(Log()), line_buffering=True)


def _tell_where_it_is(module):
    import faulthandler
    import signal

    signal.signal(signal.SIGUSR2, lambda signum, frame: os.write(2, _describe_tasks().encode()))
    # It comes first, and also tells where the main thread is if that runs no Python code.
    faulthandler.register(signal.SIGUSR2, file=2, chain=True)


def _tell_unfinished_tasks(module):
    import asyncio
    import atexit

    @atexit.register
    def tell():
        loops = module.IOLoop._ioloop_for_asyncio
        tasks = [task for loop in loops for task in asyncio.all_tasks(loop) if _is_ours(task)]
        os.write(2, f"== not done: {tasks or 'nothing'}\n".encode())


def _is_ours(task):
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "/nbsessions/" in code.co_filename


def _describe_tasks():
    import asyncio

    lines = []
    try:
        for task in asyncio.all_tasks():
            lines.append(f"== {task}")
            waiting = task.get_coro()
            while frame := _either(waiting, "cr_frame", "gi_frame"):
                code = frame.f_code
                lines.append(f"    {code.co_filename}:{frame.f_lineno} in {code.co_name}")
                waiting = _either(waiting, "cr_await", "gi_yieldfrom")
            lines.append(f"    {waiting!r}")
    except Exception as error:
        lines.append(f"== {error!r}")
    return "\n".join([*lines, "== end of tasks", ""])


def _either(waiting, of_coroutine, of_generator):
    return getattr(waiting, of_coroutine, None) or getattr(waiting, of_generator, None)


for _name in ("rfc3987_syntax", "debugpy", "jedi"):
    sys.modules[_name] = None
if os.environ.pop("WITHOUT_LOCKS", None):
    _remove_locks()
if _text := os.environ.pop("SIGTERM_WHILE_LOGGING", None):
    _stop_while_logging(_text)
_variables = {
    name.removeprefix(PREFIX): os.environ.pop(name)
    for name in list(os.environ)
    if name.startswith(PREFIX)
}
if _variables:
    sys.meta_path.insert(0, _AtImport("nbsessions", before=_measure))
if "KEEPER_PROTOCOL" in os.environ:
    sys.meta_path.insert(0, _AtImport("nbsessions.keeper.protocol", after=_set_version))
if os.environ.pop("TELL_UNFINISHED_TASKS", None):
    sys.meta_path.insert(0, _AtImport("tornado.ioloop", after=_tell_unfinished_tasks))
sys.meta_path.insert(0, _AtImport("tornado.ioloop", after=_tell_where_it_is))
sys.meta_path.insert(0, _AtImport("jupyter_client.connect", after=_reserve))
sys.meta_path.insert(0, _AtImport("jupyterlab.commands", after=_skip_node))
