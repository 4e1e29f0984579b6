"""What a process has in its memory, read from outside."""

from __future__ import annotations

import base64
import re
from pathlib import Path

# HPACK's code (RFC 7541, appendix B) of the characters that the values of these tests are made of: 0-9, A-Z, a-z.
_FIVE, _SIX, _SEVEN = "012aceiost", "3456789A", "BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"
_CODES: dict[str, str] = {}
for _at, _character in enumerate(_FIVE):
    _CODES[_character] = f"{_at:05b}"
for _character, _code in {"3": 0x19, "4": 0x1A, "5": 0x1B, "6": 0x1C, "7": 0x1D, "8": 0x1E, "9": 0x1F, "A": 0x21,
                          "b": 0x23, "d": 0x24, "f": 0x25, "g": 0x26, "h": 0x27, "l": 0x28, "m": 0x29, "n": 0x2A,
                          "p": 0x2B, "r": 0x2C, "u": 0x2D}.items():
    _CODES[_character] = f"{_code:06b}"
for _character, _code in {"B": 0x5D, "C": 0x5E, "D": 0x5F, "E": 0x60, "F": 0x61, "G": 0x62, "H": 0x63, "I": 0x64,
                          "J": 0x65, "K": 0x66, "L": 0x67, "M": 0x68, "N": 0x69, "O": 0x6A, "P": 0x6B, "Q": 0x6C,
                          "R": 0x6D, "S": 0x6E, "T": 0x6F, "U": 0x70, "V": 0x71, "W": 0x72, "Y": 0x73, "j": 0x74,
                          "k": 0x75, "q": 0x76, "v": 0x77, "w": 0x78, "x": 0x79, "y": 0x7A, "z": 0x7B}.items():
    _CODES[_character] = f"{_code:07b}"
for _character, _code in {"X": 0xFC, "Z": 0xFD}.items():
    _CODES[_character] = f"{_code:08b}"


def _coded(text: str) -> list[bytes]:
    """The code of a text, wherever in a byte it begins; without what it shares with its neighbours."""
    bits = "".join(_CODES[character] for character in text)
    forms = []
    for shift in range(8):
        whole = bits[shift:]
        whole = whole[: len(whole) // 8 * 8]
        forms.append(int(whole, 2).to_bytes(len(whole) // 8, "big"))
    return forms


def forms(value: str) -> dict[str, list[bytes]]:
    """How a value may stand in memory. Each form that is cut is cut to what no other value shares."""
    raw = value.encode()
    return {
        "raw": [raw],
        "base64": [base64.b64encode(raw[skip : skip + (len(raw) - skip) // 3 * 3]) for skip in range(3)],
        "HPACK": _coded(value),
    }


def copies(pid: int, value: str) -> dict[str, int]:
    """How often each form of a value is found in what a process can read of its own memory."""
    found = {form: 0 for form in forms(value)}
    patterns = {form: [re.compile(re.escape(text)) for text in texts] for form, texts in forms(value).items()}
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions, *_ = line.split()
            if not permissions.startswith("r") or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(bound, 16) for bound in span.split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except OSError:  # a guard page, or gone meanwhile
                continue
            for form, texts in patterns.items():
                found[form] += sum(len(text.findall(content)) for text in texts)
    return found
