"""What clients had missed: how much of it they got, and a line where something is missing."""

from __future__ import annotations

from collections.abc import Collection

from jupyter_client.session import Session

from nbsessions.keeper.messages import CONTENT, HEADER, PARENT, count_lines, decoded, type_of
from nbsessions.keeper.reading import Losses, SpoolReader
from nbsessions.keeper.records import Kind, Record
from nbsessions.kernels.surviving.made_up import make_up
from nbsessions.models import Missed

_MOST_CLIENTS = 1000
_OUTPUT = {"stream", "display_data", "execute_result", "error"}


class MissedOutput:
    """What one client had missed, as far as it has been read from the spool."""

    def __init__(self, client: str) -> None:
        self._client = client
        self._lines = 0
        self._losses = Losses()
        self._pending = Losses()
        """What is missing, and has not been told in the output."""
        self.is_complete = False
        """Whether the client has all that there is."""

    def take_losses(self, reader: SpoolReader, record: Record) -> None:
        """Count what is missing before a record that was read."""
        gap = reader.gaps.pop(record.position, None)
        if gap is not None:
            self._losses.add(gap)
            self._pending.add(gap)

    def fail(self, reason: str) -> None:
        """Note that nobody knows what the client had missed."""
        self._losses.add(Losses(messages=1, reason=reason))
        self.is_complete = True

    def count(self, record: Record) -> None:
        """Count a record that the client is sent."""
        if record.kind is Kind.IOPUB:
            self._lines += count_lines(record.frames)

    def line_before(self, record: Record, session: Session) -> list[bytes] | None:
        """Return a signed message that tells of a loss, if the client is to see one there.

        That is before the next output of a cell, or before its end. What a page needs outlasts
        what was printed, so there may be many gaps until then.
        """
        text = self._pending.describe()
        if text is None or record.kind is not Kind.IOPUB or not _is_place(record):
            return None
        parent = decoded(record.frames[PARENT])
        if parent.get("msg_type") != "execute_request":
            return None
        self._pending = Losses()
        content = {"name": "stderr", "text": f"[{text}]\n"}
        return make_up(session, "stream", content, request=parent, header=record.frames[HEADER])

    def summary(self) -> Missed:
        """Return what there is to tell."""
        return Missed(
            client=self._client,
            lines=self._lines,
            lost=self._losses.lines,
            problem=self._losses.describe(),
            is_complete=self.is_complete,
        )


class MissedOutputs:
    """What the clients had missed that have connected last."""

    def __init__(self) -> None:
        self._clients: dict[str, MissedOutput] = {}

    def begin(self, client: str) -> MissedOutput:
        """Begin to count for a client that has connected."""
        self._clients.pop(client, None)
        while len(self._clients) >= _MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]
        missed = self._clients[client] = MissedOutput(client)
        return missed

    def of(self, clients: Collection[str]) -> list[Missed]:
        """Return what is known of these clients."""
        return [self._clients[each].summary() for each in clients if each in self._clients]


def _is_place(record: Record) -> bool:
    kind = type_of(record.frames[HEADER])
    if kind == "status":
        return decoded(record.frames[CONTENT]).get("execution_state") == "idle"
    return kind in _OUTPUT
