"""The official MCP SDK on both sides of the injector, in path mode."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from anyio import to_thread
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ResourceListChangedNotification

from digests import digest
from mcp_server import Digests, McpPeer, Request, mcp_peer
from pair import Answer, Pair, eventually

SESSION = "legacy"
"""Speaks the revisions with the initialize handshake and a session."""

STATELESS = "2026-07-28"
"""Speaks the revision in which each request stands for itself."""

both_eras = pytest.mark.parametrize("era", [SESSION, STATELESS])


@pytest.fixture
def peer() -> Iterator[McpPeer]:
    with mcp_peer() as peer:
        yield peer


@pytest.fixture(params=["direct", "injector"])
def origin(request: pytest.FixtureRequest, peer: McpPeer) -> str:
    """Where the client finds the server: the answers have to be the same, through the injector as without it."""
    if request.param == "direct":
        return peer.origin
    pair, workspace = request.getfixturevalue("pair"), request.getfixturevalue("workspace")
    pair.add_server(workspace, "peer", peer.origin)
    return pair.url(workspace, "peer")


@asynccontextmanager
async def connected(
    origin: str, era: str, headers: dict[str, str] | None = None, **more: object
) -> AsyncIterator[Client]:
    with anyio.fail_after(30):
        async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
            transport = streamable_http_client(f"{origin}/mcp", http_client=http)
            async with Client(transport, mode=era, **more) as client:
                yield client


async def text(client: Client, tool: str) -> str:
    result = await client.call_tool(tool)
    assert not result.is_error, result
    return result.content[0].text


async def secrets_seen(client: Client) -> Digests:
    return json.loads(await text(client, "secrets"))


async def in_thread(call: Callable[..., Answer], *arguments: object) -> Answer:
    return await to_thread.run_sync(lambda: call(*arguments))


@both_eras
def test_a_server_gets_its_own_secrets_and_no_others(
    pair: Pair, workspace: str, value: Callable[[], str], era: str
) -> None:
    github, slack, shared = value(), value(), value()
    for name, secret in [("github-token", github), ("SLACK_WEBHOOK", slack), ("shared", shared), ("nobodys", value())]:
        pair.put_secret(workspace, name, secret)

    async def calls(code: McpPeer, chat: McpPeer) -> None:
        async with connected(pair.url(workspace, "code"), era) as a, connected(pair.url(workspace, "chat"), era) as b:
            for _ in range(2):
                assert await secrets_seen(a) == {
                    "x-mcp-secret-github-token": [digest(github)],
                    "x-mcp-secret-shared": [digest(shared)],
                }
                assert await secrets_seen(b) == {
                    "x-mcp-secret-shared": [digest(shared)],
                    "x-mcp-secret-slack-webhook": [digest(slack)],
                }

    with mcp_peer() as code, mcp_peer() as chat:
        pair.add_server(workspace, "code", code.origin, ["GITHUB_TOKEN", "shared"])
        pair.add_server(workspace, "chat", chat.origin, ["slack-webhook", "SHARED"])
        anyio.run(calls, code, chat)


@both_eras
def test_a_rotation_and_a_deletion_hold_from_the_next_call_on(
    pair: Pair, workspace: str, value: Callable[[], str], peer: McpPeer, era: str
) -> None:
    name = "x-mcp-secret-github-token"
    pair.add_server(workspace, "peer", peer.origin, ["GITHUB_TOKEN"])

    async def calls() -> None:
        async with connected(pair.url(workspace, "peer"), era) as client:
            assert await secrets_seen(client) == {}, "the secret does not exist yet"
            for _ in range(3):
                secret = value()
                await in_thread(pair.put_secret, workspace, "GITHUB_TOKEN", secret)
                assert await secrets_seen(client) == {name: [digest(secret)]}
            await in_thread(pair.delete_secret, workspace, "GITHUB_TOKEN")
            assert await secrets_seen(client) == {}
            secret = value()
            await in_thread(pair.put_secret, workspace, "GITHUB_TOKEN", secret)
            assert await secrets_seen(client) == {name: [digest(secret)]}

    anyio.run(calls)
    if era == SESSION:
        assert len({session(request) for request in peer.record.requests} - {None}) == 1, "one session all along"


SPOOFED = [
    "X-Mcp-Secret-GITHUB-TOKEN",
    "x_mcp_secret_github_token",
    "X-Mcp_Secret.Github-Token",
    "X-Mcp-Secret-Other",
    "X-Mcp-Secret",
]


@pytest.mark.parametrize("spelling", SPOOFED)
def test_a_secret_that_the_client_sends_itself_is_dropped(
    pair: Pair, workspace: str, value: Callable[[], str], peer: McpPeer, spelling: str
) -> None:
    secret = value()
    pair.put_secret(workspace, "GITHUB_TOKEN", secret)
    pair.add_server(workspace, "peer", peer.origin, ["GITHUB_TOKEN"])

    async def calls() -> None:
        forged = {spelling: "forged"}
        async with connected(peer.origin, SESSION, forged) as client:
            assert await secrets_seen(client) == {spelling.lower(): [digest("forged")]}, "the client does send it"
        del peer.record.requests[:]

        async with connected(pair.url(workspace, "peer"), SESSION, forged) as client:
            assert await secrets_seen(client) == {"x-mcp-secret-github-token": [digest(secret)]}
            await in_thread(pair.delete_secret, workspace, "GITHUB_TOKEN")
            assert await secrets_seen(client) == {}, "nor does it stand in for a secret that is missing"

    anyio.run(calls)
    forged_at_the_server = [request for request in peer.record.requests if digest("forged") in str(request.secrets)]
    assert not forged_at_the_server, "on no request of the session: POST, GET or DELETE"


def test_every_request_of_a_session_carries_the_secret(
    pair: Pair, workspace: str, value: Callable[[], str], peer: McpPeer
) -> None:
    secret = value()
    pair.put_secret(workspace, "GITHUB_TOKEN", secret)
    pair.add_server(workspace, "peer", peer.origin, ["GITHUB_TOKEN"])

    async def calls() -> None:
        async with connected(pair.url(workspace, "peer"), SESSION) as client:
            await in_thread(eventually, "the client opens its GET stream", lambda: peer.requests("GET"))
            await client.list_tools()

    anyio.run(calls)
    assert {request.method for request in peer.record.requests} == {"POST", "GET", "DELETE"}
    for request in peer.record.requests:
        assert request.secrets == {"x-mcp-secret-github-token": [digest(secret)]}, request.method


def session(request: Request) -> str | None:
    return request.headers.get("mcp-session-id")


def test_a_session_lasts_until_the_client_ends_it(origin: str, peer: McpPeer) -> None:
    async def calls() -> None:
        async with connected(origin, SESSION) as client:
            await client.list_tools()
            await client.send_ping()
        (ended,) = peer.requests("DELETE")
        assert ended.status == 200
        assert session(ended)
        named = [session(request) for request in peer.requests("POST")]
        assert named[0] is None and set(named[1:]) == {session(ended)}, "all but the first request name the session"

        async with httpx2.AsyncClient(timeout=20) as http:
            late = await http.post(
                f"{origin}/mcp",
                json={"jsonrpc": "2.0", "id": 1, "method": "ping"},
                headers={"mcp-session-id": session(ended) or "", "accept": "application/json, text/event-stream"},
            )
        assert late.status_code == 404, "the server's own answer for a session that is over"
        assert late.json()["error"]["message"] == "Session not found"

    anyio.run(calls)


def test_what_a_server_sends_unasked_arrives_on_the_get_stream(origin: str, peer: McpPeer) -> None:
    async def calls() -> None:
        changed = anyio.Event()

        def opened() -> list[Request]:
            return [request for request in peer.requests("GET") if request.status == 200]

        async def on_message(message: object) -> None:
            if isinstance(message, ResourceListChangedNotification):
                changed.set()

        async with connected(origin, SESSION, message_handler=on_message) as client:
            (stream,) = await in_thread(eventually, "the GET stream is open", opened)
            assert await text(client, "announce") == "announced"
            with anyio.fail_after(10):
                await changed.wait()
            assert not stream.ended.is_set(), "while the stream stays open"
        await in_thread(eventually, "the server sees the stream end", stream.ended.is_set)

    anyio.run(calls)


def test_a_stream_that_is_cut_is_resumed_from_the_last_event(origin: str, peer: McpPeer) -> None:
    async def calls() -> None:
        async with connected(origin, SESSION) as client:
            assert await text(client, "cut") == "answered after the cut"

    anyio.run(calls)
    resumed = [request for request in peer.requests("GET") if "last-event-id" in request.headers]
    assert [request.status for request in resumed] == [200]


def test_a_server_that_nobody_added_is_not_found(pair: Pair, workspace: str) -> None:
    for path in (f"{workspace}/nobody", f"{workspace}x/peer", "peer"):
        answer = httpx2.post(f"http://{pair.data_plane}/{path}/mcp", json={}, timeout=20)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-aerostack-reason"] == "SERVER_NOT_FOUND"
