"""A kernel that runs no code: it holds its place, and ends when told to or left alone.

Takes its connection file as the argument. Starts many times faster than ipykernel.
"""

import json
import os
import signal
import sys
from pathlib import Path

import zmq


def main() -> None:
    """Bind the control channel and wait for a message, which is a shutdown request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ["JPY_PARENT_PID"])
    connection = json.loads(Path(sys.argv[1]).read_text())
    control = zmq.Context().socket(zmq.ROUTER)
    control.bind(f"tcp://{connection['ip']}:{connection['control_port']}")
    while os.getppid() == parent and not control.poll(100):
        pass


if __name__ == "__main__":
    main()
