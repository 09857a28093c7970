"""Leaves comments and blanks out of the page's JavaScript when it is installed."""

from pathlib import Path

from rjsmin import jsmin
from setuptools import setup

# After setuptools, which replaces distutils where Python has none.
from distutils.command.install_data import install_data  # isort: skip


class InstallData(install_data):
    """Installs the data files, JavaScript without what only its readers need."""

    def run(self):
        """Install the files, then rewrite those with JavaScript."""
        super().run()
        for path in map(Path, self.outfiles):
            if path.suffix == ".js":
                source = path.read_text(encoding="utf-8")
                path.write_text(jsmin(source), encoding="utf-8")


setup(cmdclass={"install_data": InstallData})
