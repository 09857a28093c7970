"""A pytest plugin that has jupyter_server's own tests of sessions run on nbsessions.

The servers that these tests start load the extension, and session managers that they make
themselves are ours. The tests are those of the installed release, from its source distribution.
"""

import json

# Before its tests: it goes on with the class of its own, which the extension then replaces.
import jupyter_server.serverapp
import pytest
from jupyter_server.services.sessions import sessionmanager

from nbsessions import AsyncSessionManager

RECORDS = "tests the private class KernelSessionRecord"
LEFT_OUT = {
    "test_kernel_record_equals": RECORDS,
    "test_kernel_record_update": RECORDS,
    "test_kernel_record_list": "tests the private class KernelSessionRecordList",
    "test_pending_kernel": "looks into the private list _pending_sessions",
    "test_restart_kernel[jp_server_config0]": "gives a websocket one second to close, which is "
    "too short at times for the synchronous kernel manager, without our extension as well",
}


def pytest_configure(config):
    assert jupyter_server.serverapp.SessionManager is sessionmanager.SessionManager
    sessionmanager.SessionManager = AsyncSessionManager


def pytest_collection_modifyitems(config, items):
    left_out = [item for item in items if item.name in LEFT_OUT]
    missing = LEFT_OUT.keys() - {item.name for item in left_out}
    if missing:
        raise pytest.UsageError(f"left out, but not there any more: {sorted(missing)}")
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_report_header(config):
    return [f"left out: {name}: it {reason}" for name, reason in LEFT_OUT.items()]


@pytest.fixture(autouse=True)
def enabled_extension(jp_environ, jp_env_config_path):
    """Enable the extension as the installed package does, in the environment of a test."""
    folder = jp_env_config_path / "jupyter_server_config.d"
    folder.mkdir(parents=True, exist_ok=True)
    enabled = {"ServerApp": {"jpserver_extensions": {"nbsessions": True}}}
    (folder / "nbsessions.json").write_text(json.dumps(enabled))


def pytest_runtest_call(item):
    """Make sure that it is ours that is tested, wherever a test has a server."""
    serverapp = item.funcargs.get("jp_serverapp")
    if serverapp is not None:
        assert isinstance(serverapp.session_manager, AsyncSessionManager)
