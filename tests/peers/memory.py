"""What a process has in its memory, read from outside."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from urllib.parse import quote

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

PAGE = 4096
# What is read at once, and what of it is looked at again with what follows: longer than any form of a value.
CHUNK, OVERLAP = 16 * PAGE, PAGE
NOTHING = bytes(CHUNK)
# A value of at least this many characters is looked for by halves, so that one that was partly overwritten is found too;
# and its end for itself: block ciphers treat what is not a whole block apart.
HALVED, END = 32, 11
# The kernel's own pages, which not even root may read in this way.
KERNEL = ("[vvar]", "[vvar_vclock]", "[vsyscall]")


def _coded(text: bytes) -> list[bytes]:
    """The code of a text in HPACK (RFC 7541, appendix B), wherever in a byte it begins; without what it shares with its
    neighbours."""
    bits = "".join(f"{REQUEST_CODES[byte]:0{REQUEST_CODES_LENGTH[byte]}b}" for byte in text)
    forms = []
    for shift in range(8):
        whole = bits[shift:]
        whole = whole[: len(whole) // 8 * 8]
        forms.append(int(whole, 2).to_bytes(len(whole) // 8, "big"))
    return forms


def _base64(text: bytes) -> list[bytes]:
    """The same for base64, wherever in three bytes it begins."""
    return [base64.b64encode(text[skip : skip + (len(text) - skip) // 3 * 3]) for skip in range(3)]


def pieces(value: str) -> list[str]:
    """What is looked for of a value."""
    half = len(value) // 2
    return [value[:half], value[half:], value[-END:]] if len(value) >= HALVED else [value]


def forms(text: str) -> dict[str, list[bytes]]:
    """How a text may stand in memory. Each form that is cut is cut to what no other text shares."""
    raw = text.encode()
    escaped = json.dumps(text)[1:-1].encode()
    # In a URL and in a form.
    encoded = quote(text, safe="").encode()
    return {
        "raw": [raw],
        "base64": _base64(raw),
        "HPACK": _coded(raw),
        "JSON": [] if escaped == raw else [escaped],
        "percent": [] if encoded == raw else [encoded],
        "percent in HPACK": [] if encoded == raw else _coded(encoded),
    }


def copies(memory: Iterable[bytes], value: str) -> dict[str, int]:
    """How often each form of a value, or of a part of it, is in the contents of a memory."""
    wanted = [(form, text) for piece in pieces(value) for form, texts in forms(piece).items() for text in texts]
    found = dict.fromkeys(forms(value), 0)
    for content in memory:
        for form, text in wanted:
            found[form] += content.count(text)
    return found


def is_left(memory: list[bytes], value: str) -> bool:
    """Whether a value is there in one of the forms in which it is sent: as `copies` would tell, and sooner."""
    sent = forms(pieces(value)[0])
    texts = [text for form in ("raw", "HPACK", "JSON", "percent", "percent in HPACK") for text in sent[form]]
    return any(text in content for text in texts for content in memory)


def contents(pid: int, *, only_written: bool = False) -> Iterator[bytes]:
    """All that a process can read, or what it can write too, a mapping after the other, but for what holds nothing."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in _mappings(pid):
            if only_written and not line.split()[1].startswith("rw"):
                continue
            start, end = _span(line)
            kept = b""
            while start < end:
                read = _read(memory, start, min(end - start, CHUNK))
                if read is None:
                    # Given back meanwhile, unless it is still there.
                    assert line not in _mappings(pid), f"cannot be read: {line}"
                    start, kept = start + PAGE, b""
                    continue
                start += len(read)
                if NOTHING.startswith(read):
                    kept = b""
                    continue
                yield kept + read
                kept = read[-OVERLAP:]


def _mappings(pid: int) -> list[str]:
    """Those that can be read, as /proc shows them."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if line.split()[1].startswith("r") and not line.endswith(KERNEL)]


def _span(line: str) -> tuple[int, int]:
    start, end = line.split()[0].split("-")
    return int(start, 16), int(end, 16)


def _read(memory: FileIO, at: int, length: int) -> bytes | None:
    """Up to `length` bytes, and at least one. None when there are none."""
    try:
        memory.seek(at)
        return memory.read(length) or None
    except OSError:
        return None
