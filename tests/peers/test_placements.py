"""Servers that demand a credential in each of the places, as their frameworks read it: nginx, FastAPI, grpcio, and MCP with
the official SDKs. Every server is first called with the credential by the client itself."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import anyio
import grpc
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
    OAuth2PasswordBearer,
)
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi import served
from grpc_server import Ask, ProbeServiceStub, grpc_peer
from nginx import Nginx
from pair import Pair, eventually

KEY = "only-the-peer-knows-" + base64.urlsafe_b64encode(os.urandom(24)).decode()
"""What every server of this module demands."""

FORGED = "forged-by-the-program"


@dataclass(frozen=True)
class Place:
    """A place, as a server is told of it, and a request that has a credential there."""

    injection: dict[str, Any]
    request: Callable[[str], dict[str, Any]]


PLACES = {
    "header": Place(
        {"header": {"name": "x-api-key", "value": "${KEY}"}},
        lambda key: {"headers": {"X-API-Key": key}},
    ),
    "query": Place(
        {"query": {"name": "key", "value": "${KEY}"}},
        lambda key: {"params": {"key": key}},
    ),
    "cookie": Place(
        {"cookie": {"name": "session", "value": "${KEY}"}},
        lambda key: {"headers": {"cookie": f"a=b; session={key}"}},
    ),
    "basic": Place(
        {"basic": {"username": "user", "password": "${KEY}"}},
        lambda key: {"auth": ("user", key)},
    ),
    "bearer": Place(
        {"header": {"name": "authorization", "value": "Bearer ${KEY}"}},
        lambda key: {"headers": {"authorization": f"Bearer {key}"}},
    ),
    "oauth2": Place(
        {"header": {"name": "authorization", "value": "Bearer ${KEY}"}},
        lambda key: {"headers": {"authorization": f"Bearer {key}"}},
    ),
}


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of an nginx with a location for each place, of which `/basic` answers 401 and the others 403."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "basic").write_text("welcome")
    sha1 = base64.b64encode(hashlib.sha1(KEY.encode()).digest()).decode()
    (folder / "users").write_text(f"user:{{SHA}}{sha1}\n")
    variables = {"header": "$http_x_api_key", "query": "$arg_key", "cookie": "$cookie_session"}
    maps = [f'map {variable} ${place}_fits {{ "~^{KEY}$" 1; }}' for place, variable in variables.items()]
    locations = [
        f'location /{place} {{ if (${place}_fits != 1) {{ return 403; }} return 200 "welcome"; }}' for place in variables
    ]
    locations.append("location /basic { root {folder}; auth_basic peer; auth_basic_user_file {folder}/users; }")
    nginx = Nginx(folder, "\n".join([*maps, "server { listen 127.0.0.1:{port};", *locations, "}"]))
    try:
        yield nginx.origin
    finally:
        nginx.stop()


def application() -> FastAPI:
    """An application with a route for each scheme of `fastapi.security`."""
    app = FastAPI()

    def check(key: str) -> str:
        if key != KEY:
            raise HTTPException(403, "wrong key")
        return "welcome"

    @app.get("/header")
    def header(key: Annotated[str, Depends(APIKeyHeader(name="X-API-Key"))]) -> str:
        return check(key)

    @app.get("/query")
    def query(key: Annotated[str, Depends(APIKeyQuery(name="key"))]) -> str:
        return check(key)

    @app.get("/cookie")
    def cookie(key: Annotated[str, Depends(APIKeyCookie(name="session"))]) -> str:
        return check(key)

    @app.get("/basic")
    def basic(user: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
        return check(user.password if user.username == "user" else "")

    @app.get("/bearer")
    def bearer(token: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
        return check(token.credentials)

    @app.get("/oauth2")
    def oauth2(token: Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="token"))]) -> str:
        return check(token)

    return app


@pytest.fixture(scope="module")
def fastapi() -> Iterator[str]:
    with served(application()) as origin:
        yield origin


SERVERS = [
    *[("nginx", place) for place in ("header", "query", "cookie", "basic")],
    *[("fastapi", place) for place in PLACES],
]
each_server = pytest.mark.parametrize(("server", "place"), SERVERS, ids=[f"{peer}-{place}" for peer, place in SERVERS])


def get(url: str, **request: Any) -> httpx2.Response:
    return httpx2.get(url, timeout=20, **request)


@each_server
def test_the_server_demands_the_credential(server: str, place: str, request: pytest.FixtureRequest) -> None:
    url = f"{request.getfixturevalue(server)}/{place}"
    assert get(url, **PLACES[place].request(KEY)).status_code == 200
    assert get(url, **PLACES[place].request(FORGED)).status_code in (401, 403)
    assert get(url).status_code in (401, 403)


@each_server
def test_the_server_accepts_what_the_injector_puts_there(
    server: str, place: str, pair: Pair, workspace: str, request: pytest.FixtureRequest
) -> None:
    origin = request.getfixturevalue(server)
    pair.put_secret(workspace, "KEY", KEY)
    pair.add_server(workspace, server, origin, injections=[PLACES[place].injection])
    url = f"{pair.url(workspace, server)}/{place}"
    assert "welcome" in get(url).raise_for_status().text
    assert "welcome" in get(url, **PLACES[place].request(FORGED)).raise_for_status().text
    assert "welcome" in get(f"{url}?other=1&more=%20").raise_for_status().text

    pair.delete_secret(workspace, "KEY")
    # Neither without a credential nor with the program's own, which would be the right one.
    for own in ({}, PLACES[place].request(KEY)):
        refused = get(url, **own)
        if refused.status_code == 502:
            assert refused.headers["x-aerostack-reason"] == "UPSTREAM_REJECTED_CREDENTIAL", "the upstream said 401"
        else:
            assert refused.status_code == 403, refused.text


class KeyInterceptor(grpc.ServerInterceptor):
    """Ends calls without the credential, as gRPC's guide for authentication does."""

    def __init__(self, name: str, value: str | bytes) -> None:
        self.demanded = (name, value)

        def refuse(_request: object, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong key")

        self.refusal = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        if details.invocation_metadata.count(self.demanded) == 1:
            return continuation(details)
        return self.refusal


METADATA = [("x-api-key", f"Key {KEY}"), ("key-bin", b"Key " + KEY.encode())]


@pytest.mark.parametrize("metadata", METADATA, ids=[name for name, _ in METADATA])
def test_a_grpc_server_accepts_metadata_of_a_template(
    pair: Pair, workspace: str, metadata: tuple[str, str | bytes]
) -> None:
    name, value = metadata
    forged = (name, FORGED.encode() if isinstance(value, bytes) else FORGED)
    with grpc_peer(KeyInterceptor(name, value)) as peer:
        pair.put_secret(workspace, "KEY", KEY)
        injection = {"header": {"name": name, "value": "Key ${KEY}"}}
        pair.add_server(workspace, "probe", f"http://{peer.address}", injections=[injection])
        naming = [("x-aerostack-workspace", workspace), ("x-aerostack-server", "probe")]

        with grpc.insecure_channel(peer.address) as direct, grpc.insecure_channel(pair.data_plane) as through:
            ask = Ask(payload=b"hello")
            direct, through = ProbeServiceStub(direct).Unary, ProbeServiceStub(through).Unary
            assert direct(ask, metadata=[metadata], timeout=20).payload == b"hello"
            with pytest.raises(grpc.RpcError) as refused:
                direct(ask, metadata=[forged], timeout=20)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

            assert through(ask, metadata=naming, timeout=20).payload == b"hello"
            assert through(ask, metadata=[*naming, forged], timeout=20).payload == b"hello"
            pair.delete_secret(workspace, "KEY")
            with pytest.raises(grpc.RpcError) as refused:
                through(ask, metadata=[*naming, metadata], timeout=20)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


class KeyDemand:
    """Middleware that answers 401 to requests without the credential."""

    def __init__(self, app: ASGIApp, place: str) -> None:
        self.app = app
        self.place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers, query = Headers(scope=scope), QueryParams(scope["query_string"])
            given = headers.getlist("x-api-key") if self.place == "header" else query.getlist("apiKey")
            if given != [KEY]:
                return await JSONResponse({"error": "invalid_key"}, 401)(scope, receive, send)
        await self.app(scope, receive, send)


@contextmanager
def python_server(place: str) -> Iterator[str]:
    server = MCPServer("peer", log_level="ERROR")

    @server.tool()
    def greet() -> str:
        return "hello"

    with served(KeyDemand(server.streamable_http_app(), place), lifespan="on") as origin:
        yield origin


@contextmanager
def typescript_server(place: str) -> Iterator[str]:
    modules = Path(os.environ.get("PEERS_NODE_MODULES", "node_modules")).resolve()
    assert modules.exists(), f"{modules} is not there: npm ci, and PEERS_NODE_MODULES=node_modules"
    server = subprocess.Popen(
        ["node", str(Path(__file__).with_name("mcp_key_server.mjs"))],
        env={"PATH": os.environ["PATH"], "PEERS_NODE_MODULES": str(modules), "KEY": KEY, "PLACE": place},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout
        port = eventually("the server prints its port", server.stdout.readline, 30)
        yield f"http://127.0.0.1:{port.strip()}"
    finally:
        server.kill()
        server.wait()


MCP_SERVERS = {"python": python_server, "typescript": typescript_server}
MCP_PLACES = {
    "header": {"header": {"name": "x-api-key", "value": "${KEY}"}},
    "query": {"query": {"name": "apiKey", "value": "${KEY}"}},
}


@asynccontextmanager
async def connected(url: str, headers: dict[str, str] | None = None) -> AsyncIterator[Client]:
    with anyio.fail_after(30):
        async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
            async with Client(streamable_http_client(url, http_client=http), mode="legacy") as client:
                yield client


async def greeting(url: str, headers: dict[str, str] | None = None) -> str:
    async with connected(url, headers) as client:
        return (await client.call_tool("greet")).content[0].text


@pytest.mark.parametrize("sdk", MCP_SERVERS)
@pytest.mark.parametrize("place", MCP_PLACES)
def test_an_mcp_server_accepts_what_the_injector_puts_there(pair: Pair, workspace: str, sdk: str, place: str) -> None:
    with MCP_SERVERS[sdk](place) as origin:
        own = {"x-api-key": KEY} if place == "header" else None
        forged = {"x-api-key": FORGED} if place == "header" else None
        query = "" if place == "header" else "?apiKey="
        assert anyio.run(greeting, f"{origin}/mcp{query and query + KEY}", own) == "hello"
        assert httpx2.post(f"{origin}/mcp{query and query + FORGED}", json={}, headers=forged).status_code == 401

        pair.put_secret(workspace, "KEY", KEY)
        pair.add_server(workspace, "peer", f"{origin}/mcp", injections=[MCP_PLACES[place]])
        url = pair.url(workspace, "peer")
        assert anyio.run(greeting, url) == "hello"
        assert anyio.run(greeting, f"{url}{query and query + FORGED}", forged) == "hello"

        pair.delete_secret(workspace, "KEY")
        refused = httpx2.post(f"{url}{query and query + KEY}", json={}, headers=own)
        assert refused.headers["x-aerostack-reason"] == "UPSTREAM_REJECTED_CREDENTIAL", refused.text
