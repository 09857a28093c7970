"""Kernels that take no second peer of an identity while they are busy: no page stays mute."""

from __future__ import annotations

import pytest

from support.channel import Channel
from support.server import StartServer
from support.waiting import wait_until


@pytest.mark.parametrize("back", ["while it is busy", "when it is idle"])
@pytest.mark.parametrize("kernel", ["xpython", "python3"])
def test_a_page_gets_answers_after_a_crash_in_the_midst_of_a_cell(
    start_server: StartServer, kernel: str, back: str
) -> None:
    server = start_server()
    model = server.create("a.ipynb", kernel)
    kernel_id = model["kernel"]["id"]
    go_on = server.folder / "go on"
    busy = f"import os, time\nx = 42\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.1)"
    with Channel(server, kernel_id) as channel:
        request = channel.start(busy)
        channel.wait_for("execute_input", request)
        wait_until(
            lambda: (
                channel.session_id in str(server.kernel_record(kernel_id)["clients"])
                and server.kernel_record(kernel_id)["execution_state"] == "busy"
            ),
            "the connection and the cell are written down",
        )
        server.kill()
    server.start()

    def state() -> str:
        return str(server.get(model["id"]).json()["kernel"]["execution_state"])

    if back == "when it is idle":
        go_on.touch()
        wait_until(lambda: state() == "idle", "the cell has ended")
    with Channel(server, kernel_id, channel.session_id, busy=True) as again:
        assert state() == ("busy" if back == "while it is busy" else "idle")
        # At once: what is asked while the kernel does not hear is not lost, nor done twice.
        queued = again.start("x += 1; x")
        go_on.touch()
        result = again.wait_for("execute_result", queued)
        assert result["content"]["data"]["text/plain"] == "43"
        for number in range(3):
            assert again.execute(f"x + {number}") == str(43 + number)


@pytest.mark.parametrize("ending", ["6 * 7", "1 / 0"])
@pytest.mark.parametrize("kernel", ["xpython", "python3"])
def test_a_cell_that_ends_in_the_gap_has_its_reply_and_its_number(
    start_server: StartServer, kernel: str, ending: str
) -> None:
    server = start_server()
    kernel_id = server.create("a.ipynb", kernel)["kernel"]["id"]
    go_on, ended = server.folder / "go on", server.folder / "ended"
    with Channel(server, kernel_id) as channel:
        request = channel.start(
            f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.1)\n"
            f"open({str(ended)!r}, 'w').close()\n{ending}"
        )
        channel.wait_for("execute_input", request)
        server.kill()
    go_on.touch()
    wait_until(ended.exists, "the cell comes to its end")
    server.start()
    with Channel(server, kernel_id, channel.session_id, busy=True) as again:
        types = {"status", "execute_reply", "execute_result" if ending == "6 * 7" else "error"}
        found = again.wait_for_each(types, request, errors=True)
        content = found["execute_reply"]["content"]
        assert content["execution_count"] == 1
        assert content["status"] == ("ok" if ending == "6 * 7" else "error")
        assert again.execute("6 * 7") == "42"
