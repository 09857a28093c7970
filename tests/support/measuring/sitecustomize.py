"""Begins to measure the coverage of a server when that imports our package, and not before.

To trace all that a server imports until then would double the time of its start. Nothing of ours
runs in the kernels that it starts: they are not measured at all.
"""

import importlib.abc
import os
import sys

PREFIX = "MEASURE_"
"""Stands before the names of coverage's own variables until then."""


class _Beginning(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "nbsessions":
            sys.meta_path.remove(self)
            import coverage

            os.environ.update(_variables)
            coverage.process_startup()
            for name in _variables:
                del os.environ[name]


_variables = {
    name.removeprefix(PREFIX): os.environ.pop(name)
    for name in list(os.environ)
    if name.startswith(PREFIX)
}
if _variables:
    sys.meta_path.insert(0, _Beginning())
