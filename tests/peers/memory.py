"""What a process has in its memory, read from outside."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from urllib.parse import quote

from ahocorasick_rs import BytesAhoCorasick, MatchKind
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

PAGE = 4096
# What is read at once, and what of it is looked at again with what follows: longer than any form of a value.
CHUNK, OVERLAP = 16 * PAGE, PAGE
NOTHING = bytes(CHUNK)
# The size of an entry of /proc/PID/pagemap. Its two highest bits are set for a page in memory and for one that is swapped out.
ENTRY = 8
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


class Search:
    """Looks for all forms of a text at the same time: a search for one form after the other takes 70 times as long."""

    def __init__(self, forms: dict[str, list[bytes]]) -> None:
        wanted = [(form, text) for form, texts in forms.items() for text in texts]
        self._forms = [form for form, _ in wanted]
        self._automaton = BytesAhoCorasick([text for _, text in wanted], matchkind=MatchKind.LeftmostFirst)

    def found(self, content: bytes) -> Iterator[str]:
        """The form of each match. Matches that overlap count once."""
        for wanted, _, _ in self._automaton.find_matches_as_indexes(content):
            yield self._forms[wanted]


@functools.cache
def _search(value: str) -> Search:
    """For each form of a value, and of its parts."""
    of_pieces = [forms(piece) for piece in pieces(value)]
    return Search({form: [text for each in of_pieces for text in each[form]] for form in of_pieces[0]})


def copies(memory: Iterable[bytes], value: str) -> dict[str, int]:
    """How often each form of a value, or of a part of it, is in the contents of a memory."""
    search = _search(value)
    found = dict.fromkeys(forms(value), 0)
    for content in memory:
        for form in search.found(content):
            found[form] += 1
    return found


def is_left(memory: list[bytes], value: str) -> bool:
    """Whether a value, or a part of it, is there in one of its forms."""
    search = _search(value)
    return any(True for content in memory for _ in search.found(content))


def contents(pid: int, *, only_written: bool = False) -> Iterator[bytes]:
    """All that a process can read, or what it can write too, a mapping after the other, but for what holds nothing."""
    with (
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
        Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap,
    ):
        for line in _mappings(pid):
            if only_written and not line.split()[1].startswith("rw"):
                continue
            for start, end in _in_use(pagemap, *_span(line)):
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


def _in_use(pagemap: FileIO, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a mapping that have pages, in memory or swapped out. Allocators reserve a gigabyte and use little of it."""
    pagemap.seek(start // PAGE * ENTRY)
    # The highest byte of each entry; a mapping that was given back meanwhile has none.
    states = pagemap.read((end - start) // PAGE * ENTRY)[ENTRY - 1 :: ENTRY]
    for pages in re.finditer(rb"[^\x00-\x3f]+", states):
        yield start + pages.start() * PAGE, start + pages.end() * PAGE


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
