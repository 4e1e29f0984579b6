"""The protobuf encoding of the few messages that helm and kubectl send to an API server in that form: a Secret, with which helm
stores a release, a ConfigMap, and a TokenRequest. Of other kinds only the name and the labels are read. An envelope of `k8s\\0` and runtime.Unknown surrounds each (k8s.io/apimachinery,
pkg/runtime/generated.proto)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\0"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The number and the value of each field: an integer, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        length, at = _varint(data, at)
        if key & 7 == 2:
            yield key >> 3, data[at : at + length]
            at += length
        else:
            assert key & 7 == 0, "the messages have only integers and bytes"
            yield key >> 3, length


def _map(entries: list[bytes]) -> dict[str, bytes]:
    pairs = [dict(_fields(entry)) for entry in entries]
    return {pair[1].decode(): pair.get(2, b"") for pair in pairs}


def _all(data: bytes, number: int) -> list[Any]:
    return [value for field, value in _fields(data) if field == number]


def _first(data: bytes, number: int, default: Any = b"") -> Any:
    return next(iter(_all(data, number)), default)


def decoded(body: bytes) -> dict[str, Any]:
    """The object as in JSON."""
    unknown = body.removeprefix(MAGIC)
    meta, raw = _first(unknown, 1), _first(unknown, 2)
    version, kind = _first(meta, 1).decode(), _first(meta, 2).decode()
    metadata = _first(raw, 1)
    labels = {name: value.decode() for name, value in _map(_all(metadata, 11)).items()}
    named = {"name": _first(metadata, 1).decode(), "labels": labels}
    result: dict[str, Any] = {"apiVersion": version, "kind": kind, "metadata": named}
    if kind == "Secret":
        result["data"] = {name: base64.b64encode(value).decode() for name, value in _map(_all(raw, 2)).items()}
        result["type"] = _first(raw, 3).decode()
    elif kind == "TokenRequest":
        spec = _first(raw, 2)
        audiences = [value.decode() for value in _all(spec, 1)]
        result["spec"] = {"audiences": audiences, "expirationSeconds": _first(spec, 4, None)}
    elif kind == "ConfigMap":
        result["data"] = {name: value.decode() for name, value in _map(_all(raw, 2)).items()}
    return result
