"""An upstream for a great many calls and event streams at once, over HTTP/1.1 and HTTP/2 (without TLS), with no library
that could be the slow part. A process of its own, since open files are counted for each.

It is told what to do on standard input, a JSON object a line, and answers each with its counts on standard output:

    {"values": [..]}   from now on each call has to carry one of these, and one to /all all of them, or it counts as one
                       without
    {"event": ".."}    every open event stream gets this event
    {"end": true}      every open event stream ends well
    {}                 nothing
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from frames import ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, frame, frames
from frames import window_update

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
WITHOUT = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"

# `:status: 200` and `:status: 500` are in HPACK's table.
OK2, WITHOUT2 = b"\x88", b"\x8e"

counts = {"calls": 0, "without": 0, "connections": 0, "streams": 0}
values: list[bytes] = []
coded: list[bytes] = []
streams: set[Connection] = set()


class Connection(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.received = b""
        self.http2 = False
        # Calls whose bodies are not there yet, and whether they carry a value.
        self.open: dict[int, bool] = {}
        counts["connections"] += 1

    def connection_lost(self, _: Exception | None) -> None:
        counts["connections"] -= 1
        self.ended()

    def ended(self) -> None:
        if self in streams:
            streams.remove(self)
            counts["streams"] -= 1

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.http2:
            self.over_http2()
        elif self.received.startswith(PREFACE):
            self.http2 = True
            self.received = self.received[len(PREFACE) :]
            self.transport.write(frame(SETTINGS, 0, 0))
            self.over_http2()
        else:
            while (end := self.received.find(b"\r\n\r\n")) >= 0 and self.over_http1(end + 4):
                pass

    def over_http1(self, end: int) -> bool:
        """Answers the request whose head ends there, if it is whole."""
        head = self.received[:end].lower()
        if (at := head.find(b"\r\ncontent-length:")) >= 0:
            end += int(head[at + 17 : head.index(b"\r\n", at + 2)])
        if len(self.received) < end:
            return False
        request, self.received = self.received[:end], self.received[end:]
        needs = all if head.startswith(b"get /all ") else any
        carries = counted(needs(value in request for value in values))
        if carries and head.startswith(b"get /events "):
            streams.add(self)
            counts["streams"] += 1
            self.transport.write(STREAM)
        else:
            self.transport.write(OK if carries else WITHOUT)
        return True

    def over_http2(self) -> None:
        answers = []
        self.received, whole = frames(self.received)
        for kind, flags, stream, payload in whole:
            if kind in (HEADERS, CONTINUATION):
                # Whoever keeps a value in HPACK's table sends it once for many calls: those count as without.
                carries = any(form in payload for form in coded)
                self.open[stream] = self.open.get(stream, False) or carries
            elif kind == DATA and payload:
                answers += [window_update(0, len(payload)), window_update(stream, len(payload))]
            elif kind == SETTINGS and not flags & ACK:
                answers.append(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                answers.append(frame(PING, ACK, 0, payload))
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                carries = counted(self.open.pop(stream))
                answers.append(frame(HEADERS, END_HEADERS, stream, OK2 if carries else WITHOUT2))
                answers.append(frame(DATA, END_STREAM, stream, b"ok"))
        if answers:
            self.transport.write(b"".join(answers))


def counted(carries: bool) -> bool:
    counts["calls"] += 1
    counts["without"] += not carries
    return carries


def told(command: dict[str, Any]) -> None:
    if "values" in command:
        values[:] = [value.encode() for value in command["values"]]
        huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
        coded[:] = [*values, *map(huffman.encode, values)]
    if "event" in command:
        event = f"data: {command['event']}\n\n".encode()
        for stream in streams:
            stream.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
    if "end" in command:
        for stream in list(streams):
            stream.transport.write(LAST)
            stream.ended()


async def main() -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def command() -> None:
        if line := sys.stdin.readline():
            told(json.loads(line))
            print(json.dumps(counts), flush=True)
        else:
            loop.remove_reader(0)
            ended.set_result(None)

    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    loop.add_reader(0, command)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await ended


if __name__ == "__main__":
    asyncio.run(main())
