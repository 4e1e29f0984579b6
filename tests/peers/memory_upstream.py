"""An upstream that ends calls in the ways in which they can end, over HTTP/1.1 and HTTP/2, with TLS and without. The last
segment of a call's path says how, and the one before is the call's own, unless `x-call` names it. A query may follow:

    ok        it is answered
    echo      it is answered with the value in a field of the head; the values are in fields like `x-mcp-secret-canary-0`
    echo-body it is answered with the value in the body
    hold      it is answered when the upstream is told to let go
    break     the connection is closed instead of an answer
    part      within the answer's body its stream is reset, or its connection closed
    reset     its stream is reset, or its connection
    goaway    its connection is ended by the protocol, and closed; HTTP/2 only
    upgrade   the connection is no longer HTTP; HTTP/1.1 only
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ECHO = b"HTTP/1.1 200 OK\r\nx-echo: %b\r\ncontent-length: %d\r\n\r\n%b"
PART = b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\nok"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
# Closed with this, a TCP connection is reset.
AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Received:
    """A whole request, and the number of the connection that it came over."""

    connection: int
    # The path and query.
    target: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Upstream:
    """Takes no connection until its door is opened. Its creator closes it."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.received: list[Received] = []
        # Calls that are held.
        self.holds: set[str] = set()
        self._tls = tls
        self._connections = 0
        self._loop = asyncio.new_event_loop()
        self._let_go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        # One connection may wait, and does: the kernel makes no further one.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self._listener.getsockname()[1]
        self._first = socket.create_connection(("127.0.0.1", self.port))
        self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Takes connections from now on."""
        self._first.close()
        starting = asyncio.start_server(self._connected, sock=self._listener, ssl=self._tls, backlog=128)
        asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)

    def shut(self) -> None:
        """Takes no connection, ever: nobody listens."""
        self._first.close()
        self._listener.close()

    def let_go(self) -> None:
        """Has calls that are held answered, and those that come."""
        self._loop.call_soon_threadsafe(self._let_go.set)

    def close(self) -> None:
        async def end() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._listener.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection = self._connections
        # Cancelled when the upstream is closed.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"PRI "):
                await _Http2(self, connection, writer).run(head, reader)
            else:
                await self._over_http1(connection, head, reader, writer)
        writer.close()

    async def _over_http1(
        self, connection: int, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            request, *lines = head.decode().split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            target = request.split(" ")[1]
            self.received.append(Received(connection, target, headers, await _body(headers, reader)))
            call, how = _how(target)
            match how:
                case "break":
                    return
                case "part":
                    writer.write(PART)
                    return
                case "reset":
                    _reset(writer)
                    return
                case "upgrade":
                    writer.write(SWITCHED)
                    await reader.read()
                    return
                case "echo" | "echo-body":
                    name, body = _echo(headers, how)
                    writer.write(ECHO % (name, len(body), body))
                case _:
                    await self.held(call, how)
                    writer.write(OK)
            head = await reader.readuntil(b"\r\n\r\n")

    async def held(self, call: str, how: str) -> None:
        """Waits if that is how the call ends."""
        if how == "hold":
            self.holds.add(call)
            await self._let_go.wait()
        else:
            assert how == "ok", how

    def start(self, task: asyncio.Task[None]) -> None:
        """Keeps a task that nobody waits for."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextmanager
def upstream(tls: ssl.SSLContext | None) -> Iterator[Upstream]:
    upstream = Upstream(tls)
    try:
        yield upstream
    finally:
        upstream.close()


async def _body(headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = bytearray()
    while length := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(length)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return bytes(body)


def _how(target: str) -> tuple[str, str]:
    """Which call it is, and how it ends."""
    *_, call, how = target.partition("?")[0].split("/")
    return call, how


def _echo(headers: dict[str, str], how: str) -> tuple[bytes, bytes]:
    """The field `x-echo` and the body of an answer with the value."""
    [value] = [value.encode() for name, value in headers.items() if name.startswith("x-mcp-secret-canary-")]
    return (b"no", value) if how == "echo-body" else (value, b"ok")


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    writer.transport.abort()


class _Http2:
    """A connection in HTTP/2."""

    def __init__(self, upstream: Upstream, connection: int, writer: asyncio.StreamWriter) -> None:
        self.upstream, self.connection, self.writer = upstream, connection, writer
        self.http2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytearray] = defaultdict(bytearray)

    async def run(self, first: bytes, reader: asyncio.StreamReader) -> None:
        self.http2.initiate_connection()
        data = first
        while data:
            for event in self.http2.receive_data(data):
                self._taken(event)
            self._flush()
            data = await reader.read(1 << 16)

    def _taken(self, event: object) -> None:
        match event:
            case RequestReceived():
                self.headers[event.stream_id] = dict(event.headers)
            case DataReceived():
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.bodies[event.stream_id] += event.data
            case StreamEnded():
                headers, body = self.headers.pop(event.stream_id), self.bodies.pop(event.stream_id, b"")
                self.upstream.received.append(Received(self.connection, headers[":path"], headers, bytes(body)))
                self.upstream.start(asyncio.ensure_future(self._ended(event.stream_id, headers)))
            case PingAckReceived():
                self.http2.reset_stream(int.from_bytes(event.ping_data, "big"), ErrorCodes.INTERNAL_ERROR)
            case _:
                pass

    async def _ended(self, stream: int, headers: dict[str, str]) -> None:
        grpc = headers.get("content-type", "").startswith("application/grpc")
        call, how = _how(headers[":path"])
        call = headers.get("x-call", call)
        head = [(":status", "200"), ("content-type", "application/grpc" if grpc else "text/plain")]
        ends: dict[str, Callable[[], None]] = {
            "break": self.writer.close,
            "reset": lambda: self.http2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR),
            "goaway": lambda: self.http2.close_connection(ErrorCodes.INTERNAL_ERROR),
        }
        if end := ends.get(how):
            end()
        elif how == "part":
            self.http2.send_headers(stream, head)
            self.http2.send_data(stream, b"ok")
            # When it is answered, all of this has been read.
            self.http2.ping(stream.to_bytes(8, "big"))
        elif how.startswith("echo"):
            field, body = _echo(headers, how)
            self.http2.send_headers(stream, [*head, ("x-echo", field.decode())])
            self.http2.send_data(stream, body, end_stream=True)
        else:
            await self.upstream.held(call, how)
            # Given up meanwhile, it gets no answer.
            if self.http2.streams[stream].closed:
                return
            self.http2.send_headers(stream, head)
            # An empty message.
            self.http2.send_data(stream, bytes(5) if grpc else b"ok", end_stream=not grpc)
            if grpc:
                self.http2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        self._flush()
        if how == "goaway":
            self.writer.close()

    def _flush(self) -> None:
        if not self.writer.is_closing():
            self.writer.write(self.http2.data_to_send())
