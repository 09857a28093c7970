"""Servers that the command line is used beside."""

from __future__ import annotations

import pytest

from support.cli import CommandLine
from support.server import Server, StartServer


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server that runs, and whose store is open: it listens before that is so."""
    server = start_server()
    server.list_sessions()
    return server


@pytest.fixture
def cli(server: Server) -> CommandLine:
    """The command line beside the server."""
    return CommandLine(server)
