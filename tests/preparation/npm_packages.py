"""The packages of npm: the types that the page's JavaScript is checked against, and a proxy."""

from __future__ import annotations

import json

from preparation.commands import HOME, ROOT, digest, program, run_quietly, say

EXTENSION = ROOT / "nbsessions" / "labextension"
FOLDER = HOME / "page"
COMPILER = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"

_INSTALL = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")


def install_npm_packages(environment: str) -> None:
    """Install what package.json names for development, with the npm of an environment."""
    packages = json.loads((EXTENSION / "package.json").read_text())["devDependencies"]
    description = json.dumps({"private": True, "dependencies": packages}, indent=2)
    needed = digest([], description, *_INSTALL)
    stamp = FOLDER / "packages.stamp"
    if stamp.exists() and stamp.read_text() == needed:
        return
    say("- page: installing its packages")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text(description)
    run_quietly("page", [program(environment, "npm"), *_INSTALL], FOLDER)
    stamp.write_text(needed)
