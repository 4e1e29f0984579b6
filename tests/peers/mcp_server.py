"""An MCP server with the official SDK, whose tools tell what reached it: of a secret only the SHA-256 digest."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import JSONRPCMessage
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi import served
from digests import digest, is_secret_header

Digests = dict[str, list[str]]


def secret_digests(headers: Iterable[tuple[bytes, bytes]]) -> Digests:
    """The digests of the values of every header that may be a secret's, by name as it came."""
    digests: Digests = {}
    for name, value in headers:
        if is_secret_header(name.decode("latin-1")):
            digests.setdefault(name.decode("latin-1"), []).append(digest(value))
    return digests


@dataclass
class Request:
    """An HTTP request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    secrets: Digests
    status: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Record:
    """Keeps a note of each request on its way to `app`. Secrets are in it by digest only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.requests: list[Request] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        digests = secret_digests(scope["headers"])
        request = Request(
            method=scope["method"],
            path=scope["path"],
            headers={
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in scope["headers"]
                if name.decode("latin-1") not in digests
            },
            secrets=digests,
        )
        self.requests.append(request)

        async def note_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            request.ended.set()


class Events(EventStore):
    """All events of all sessions, in order; an event's id is its position."""

    def __init__(self) -> None:
        self.events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        stream_id, _ = self.events[int(last_event_id)]
        for event_id, (stream, message) in enumerate(self.events):
            if event_id > int(last_event_id) and stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(event_id)))
        return stream_id


@dataclass
class McpPeer:
    """A running server."""

    origin: str
    record: Record

    def requests(self, method: str) -> list[Request]:
        return [request for request in self.record.requests if request.method == method]


def _server() -> MCPServer:
    server = MCPServer("peer", log_level="ERROR")

    @server.tool()
    def secrets(ctx: Context) -> str:
        """The digests of the secrets that this call carried."""
        return json.dumps(secret_digests(ctx.request_context.request.headers.raw))

    @server.tool()
    async def announce(ctx: Context) -> str:
        """Tells the client, on the stream that it holds open, that the list of resources changed."""
        await ctx.session.send_resource_list_changed()
        return "announced"

    @server.tool()
    async def cut(ctx: Context) -> str:
        """Ends the stream that the answer should come on, then answers."""
        await ctx.close_sse_stream()
        return "answered after the cut"

    return server


@contextmanager
def mcp_peer() -> Iterator[McpPeer]:
    """A server on a free port of loopback. It answers only requests whose `Host` is that address."""
    app = _server().streamable_http_app(event_store=Events(), retry_interval=50)
    record = Record(app)
    with served(record, lifespan="on") as origin:
        yield McpPeer(origin, record)
