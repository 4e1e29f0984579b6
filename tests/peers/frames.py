"""HTTP/2 frame by frame, for many connections at once: nothing but what RFC 9113, section 4.1 says of a frame."""

from __future__ import annotations

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
# Flags.
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4

HEAD = 9


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def frames(received: bytes) -> tuple[bytes, list[tuple[int, int, int, bytes]]]:
    """What is left of `received`, and the frames that are whole: type, flags, stream, payload."""
    whole, at = [], 0
    while len(received) >= at + HEAD:
        end = at + HEAD + int.from_bytes(received[at : at + 3], "big")
        if len(received) < end:
            break
        kind, flags = received[at + 3], received[at + 4]
        stream = int.from_bytes(received[at + 5 : at + HEAD], "big") & 0x7FFF_FFFF
        whole.append((kind, flags, stream, received[at + HEAD : end]))
        at = end
    return received[at:], whole


def request(path: str) -> bytes:
    """The header block of a GET: every field as it is, with no table."""
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path)]
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def _string(text: str) -> bytes:
    # Shorter than what needs a second byte of length.
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()
