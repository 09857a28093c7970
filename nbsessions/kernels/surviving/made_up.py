"""Messages that look as if the kernel had sent them."""

from __future__ import annotations

from typing import Any

from jupyter_client.session import Session

from nbsessions.keeper.messages import decoded


def make_up(
    session: Session,
    message_type: str,
    content: dict[str, Any],
    *,
    request: dict[str, Any],
    header: bytes,
    metadata: dict[str, Any] | None = None,
) -> list[bytes]:
    """Return the signed frames of a message about a request, given by its header.

    ``header`` is that of a message that the kernel has sent. Both have the same session, because
    JupyterLab takes another one for a kernel that was restarted, and drops the messages that it
    has not handled yet.
    """
    message = session.msg(message_type, content, parent={"header": request}, metadata=metadata)
    message["header"]["session"] = decoded(header).get("session", session.session)
    frames: list[bytes] = session.serialize(message)
    return frames
