"""Messages between the decoder process and its parent: a JSON header and raw bytes, nothing that executes.

Layout: two big-endian uint32 (length of the JSON, length of the bytes), the JSON object, the bytes. Every length is
checked before anything is allocated, and the descriptor of a job travels beside its message (SCM_RIGHTS). The parent
treats each message as written by the attacker: a field of the wrong type or range is a crash of the worker, never an
exception elsewhere.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

_HEAD = struct.Struct(">II")
MAX_JSON_BYTES = 1 << 20
MAX_BLOB_BYTES = 64 << 20
END = "end of stream"


class WireError(Exception):
    """The other side broke the rules of the channel, or is gone."""


def send(
    channel: socket.socket, message: Mapping[str, Any], blob: bytes | memoryview = b"", fd: int | None = None
) -> None:
    """Send one message."""
    text = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_JSON_BYTES or len(blob) > MAX_BLOB_BYTES:
        raise WireError(
            f"message of {len(text)} + {len(blob)} bytes is over the limit of {MAX_JSON_BYTES} + {MAX_BLOB_BYTES}"
        )
    head = _HEAD.pack(len(text), len(blob)) + text
    if fd is None:
        channel.sendall(head)
    else:
        sent = socket.send_fds(channel, [head], [fd])
        channel.sendall(head[sent:])
    if len(blob):
        channel.sendall(blob)


def receive(channel: socket.socket, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> tuple[dict[str, Any], bytearray]:
    """Return the next message.

    Raises `WireError` at the end of the stream and for anything malformed, `TimeoutError` as set.
    """
    head = _exactly(channel, _HEAD.size)
    return _body(channel, head, max_blob_bytes)


def receive_job(channel: socket.socket) -> tuple[dict[str, Any], int | None]:
    """Return the next message and the descriptor that came with it."""
    head, fds, _, _ = socket.recv_fds(channel, _HEAD.size, 1)
    if not head:
        raise WireError(END)
    rest = _exactly(channel, _HEAD.size - len(head))
    message, _ = _body(channel, bytearray(head) + rest, 0)
    return message, fds[0] if fds else None


def _body(channel: socket.socket, head: bytearray, max_blob_bytes: int) -> tuple[dict[str, Any], bytearray]:
    text_length, blob_length = _HEAD.unpack(head)
    if text_length > MAX_JSON_BYTES or blob_length > max_blob_bytes:
        raise WireError(f"message announces {text_length} + {blob_length} bytes")
    try:
        message = json.loads(bytes(_exactly(channel, text_length)))
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise WireError(f"expected a JSON object, got {type(message).__name__}")
    return message, _exactly(channel, blob_length)


def _exactly(channel: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        count = channel.recv_into(view[filled:])
        if count == 0:
            raise WireError(END)
        filled += count
    return buffer
