"""A kernel that runs no code. It only exists, and ends on request or when its parent is gone.

Its argument is its connection file. It starts many times faster than ipykernel. With
``--stubborn``, it ignores shutdown requests and ends only on a signal.
"""

import hashlib
import hmac
import json
import os
import signal
import sys
import time
from pathlib import Path

import zmq


def main() -> None:
    """Wait for a message on the control channel. Any message is taken as a shutdown request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ["JPY_PARENT_PID"])
    connection = json.loads(Path(sys.argv[1]).read_text())
    context = zmq.Context()
    sockets = {}
    # Bind all ports, or a kernel of another server might take a free one.
    for channel in ("control", "shell", "stdin", "iopub", "hb"):
        sockets[channel] = context.socket(zmq.PUB if channel == "iopub" else zmq.ROUTER)
        sockets[channel].bind(f"tcp://{connection['ip']}:{connection[f'{channel}_port']}")
    control = sockets["control"]
    stubborn = "--stubborn" in sys.argv
    while parent in (1, os.getppid()):  # 1: no parent to watch, as in ipykernel
        if control.poll(100) and is_signed(control.recv_multipart(), connection["key"]):
            if not stubborn:
                break
            time.sleep(0.1)


def is_signed(frames: list[bytes], key: str) -> bool:
    """Return whether the message is for this kernel.

    Messages that could not be delivered to a kernel that has ended arrive at the next kernel on
    the same port.
    """
    signature, *signed = frames[frames.index(b"<IDS|MSG>") + 1 :]
    expected = hmac.new(key.encode(), b"".join(signed[:4]), hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature.decode(), expected)


if __name__ == "__main__":
    main()
