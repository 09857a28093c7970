"""Servers that the command line is used beside."""

from __future__ import annotations

import pytest

from support.cli import CommandLine
from support.server import Server, StartServer


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server that runs."""
    return start_server()


@pytest.fixture
def cli(server: Server) -> CommandLine:
    """The command line beside the server."""
    return CommandLine(server)
