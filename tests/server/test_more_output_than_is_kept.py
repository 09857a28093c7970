"""Kernels that print more than is kept, or can be kept, while no server is there.

``LOUD_KERNELS``, ``LOUD_MEGABYTES`` and ``LOUD_LIMIT`` in the environment set how many kernels
print how much, and how many megabytes of each are kept.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import psutil

from support.keepers import wait_for_clients, wait_until_sent_is_known
from support.printing import Reader, reading
from support.rest import SESSIONS
from support.server import Server, StartServer
from support.waiting import wait_until

KERNELS = int(os.environ.get("LOUD_KERNELS", "2"))
MEGABYTES = int(os.environ.get("LOUD_MEGABYTES", "5"))
LIMIT = int(os.environ.get("LOUD_LIMIT", "1"))
LINE = 100
LINES = MEGABYTES * 1_000_000 // LINE
MOST_GAPS = 1 if len(os.sched_getaffinity(0)) >= KERNELS else 50
"""With fewer cores than kernels, the keeper waits for its turn while they print without a pause.

What waits to be written is thinned out then.
"""
MOST_MEMORY = 60_000_000
"""Bytes that the keeper may need for ten kernels."""

PRINTING = f"""
import time
from pathlib import Path
print("begins", flush=True)
while not Path("begin").exists():
    time.sleep(0.05)
begun = time.perf_counter()
for number in range({LINES}):
    print(f"{{number:9}}" + "x" * {LINE - 10}, flush=not number % 1000)
written = Path("seconds-KERNEL").write_text(str(time.perf_counter() - begun))
"""
MISSING = re.compile(r"\[([\d,]+) lines of output are missing: [a-z ]+\.\]\n")


def test_the_newest_is_kept_and_one_line_tells_of_the_rest(
    start_server: StartServer, record_testsuite_property: Callable[[str, object], None]
) -> None:
    server = start_server(config={"SurvivingKernels": {"output_limit": LIMIT * 1_000_000}})
    models = [server.create(f"{number}.ipynb", "python3") for number in range(KERNELS)]
    readers = [Reader(server, model["kernel"]["id"]) for model in models]
    with ExitStack() as stack:
        for reader in readers:
            reader.request(PRINTING.replace("KERNEL", reader.kernel_id))
            stack.enter_context(reading(reader))
            wait_until(reader.printed, "the cell runs")
        server.kill()
        wait_until_sent_is_known(server.runtime_dir)
        (server.root_dir / "begin").touch()
        keeper = server.keeper_process()
        assert keeper is not None
        with watched_memory(keeper) as sizes:
            wait_until(partial(have_printed, server), "all kernels have printed", timeout=300)
            printing = max(sizes)
            server.start(again=True)
            gaps = []
            for reader in readers:
                wait_until(reader.replies, "the cell's reply is there", timeout=120)
                # A reply may overtake what was printed before it.
                wait_until(partial(has_last_line, reader), "the last line is there")
                gaps.append(check(server, reader))
    seconds = [float(each.read_text()) for each in server.root_dir.glob("seconds-*")]
    record_testsuite_property("keeper_memory", [printing, max(sizes)])
    record_testsuite_property("gaps", gaps)
    record_testsuite_property("seconds_of_printing", seconds)
    assert max(sizes) < MOST_MEMORY


def has_last_line(reader: Reader) -> bool:
    newest = (message["content"] for message in reader.messages[-200:])
    return any(f"{LINES - 1:9}x" in content.get("text", "") for content in newest)


def have_printed(server: Server) -> bool:
    return len(list(server.root_dir.glob("seconds-*"))) == KERNELS


@contextmanager
def watched_memory(process: psutil.Process) -> Iterator[list[int]]:
    """Give a list of how many bytes of memory the process has, which grows in the meantime."""
    sizes = [process.memory_info().rss]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            sizes.append(process.memory_info().rss)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield sizes
        finally:
            is_over.set()
        watching.result()


def check(server: Server, reader: Reader) -> int:
    """The client has the newest lines, each once, and it is told how many are missing.

    Return how many times it is told.
    """
    assert [reply["status"] for reply in reader.replies()] == ["ok"]
    printed = reader.printed()
    lost = [int(number.replace(",", "")) for number in MISSING.findall(printed)]
    assert 1 <= len(lost) <= MOST_GAPS
    kept = MISSING.sub("", printed.removeprefix("begins\n"))
    assert 0.8 * LIMIT * 1_000_000 < len(kept) < 1.3 * LIMIT * 1_000_000
    numbers = [int(number) for number in re.findall(rf"(?m)^ {{0,8}}(\d+)x{{{LINE - 10}}}$", kept)]
    assert sorted(set(numbers)) == numbers
    assert numbers[-1] == LINES - 1
    # A message may end within a line.
    assert abs(sum(lost) + len(numbers) - LINES) <= len(lost)

    reply = server.request("GET", f"{SESSIONS}/status?client={reader.session_id}")
    [missed] = reply.json()["missed"]
    assert MISSING.fullmatch(f"[{missed.pop('problem')}]\n")
    assert abs(missed.pop("lines") - len(numbers)) <= len(lost)
    assert missed == {"client": reader.session_id, "lost": sum(lost), "is_complete": True}
    return len(lost)


SPEAKING = """
import time
from pathlib import Path
for name in ("begins", "is lost", "ends"):
    while not Path(name).exists():
        time.sleep(0.05)
    print(name, flush=True)
    Path("has " + name).touch()
"""


def test_what_a_full_disk_costs_is_told_and_the_rest_goes_on(start_server: StartServer) -> None:
    server = start_server()
    reader = Reader(server, server.create("a.ipynb", "python3")["kernel"]["id"])
    reader.request(SPEAKING)
    with reading(reader):
        wait_for_clients(server.runtime_dir, 1)
        say(server, "begins")
        wait_until(reader.printed, "the cell runs")
        server.kill()
        wait_until_sent_is_known(server.runtime_dir)
        keeper = server.keeper_process()
        assert keeper is not None
        # The spool cannot grow, as if the disk were full. The log is shorter.
        (spool,) = (each for each in server.kept_files() if each.suffix == ".spool")
        limits = keeper.rlimit(psutil.RLIMIT_FSIZE)
        keeper.rlimit(psutil.RLIMIT_FSIZE, (spool.stat().st_size, limits[1]))
        say(server, "is lost")
        (log,) = server.runtime_dir.glob("nbsessions/keeper-*/log")
        wait_until(lambda: "is lost: " in log.read_text(), "the loss is logged")
        keeper.rlimit(psutil.RLIMIT_FSIZE, limits)
        say(server, "ends")
        server.start(again=True)
        wait_until(reader.replies, "the cell's reply is there")
    assert reader.printed().splitlines() == [
        "begins",
        "[1 line of output is missing: the files could not be written: File too large.]",
        "ends",
    ]
    assert [reply["status"] for reply in reader.replies()] == ["ok"]
    assert log.read_text().count("is lost: ") == 1


def say(server: Server, name: str) -> None:
    """Let the cell print this, and wait until it has done so."""
    (server.root_dir / name).touch()
    wait_until((server.root_dir / f"has {name}").exists, "the cell has printed it")
