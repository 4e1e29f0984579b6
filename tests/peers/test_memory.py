"""After a call, no copy of a secret is left in either service: their memory is read from outside, as root can."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import json
import secrets
import socket
import ssl
import string
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from memory import copies
from pair import Pair

# How long after a call its secrets may still be found.
AFTER_SECONDS = 1.0
CALLS = 50


def token() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(40))


class Upstream:
    """An HTTP/1.1 upstream that keeps its connections, and can hold its answers back."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.hold = threading.Event()
        self.hold.set()
        self.reached = threading.Event()
        self.received: list[tuple[dict[str, str], bytes]] = []
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                upstream.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
                upstream.reached.set()
                if self.path.endswith("/break"):
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                upstream.hold.wait(20)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.hold.set()
    upstream.server.shutdown()


def call(pair: Pair, workspace: str, server: str, path: str = "/x") -> int:
    """A call of a program, over a connection of its own."""
    host, _, port = pair.data_plane.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        body = json.dumps({"question": "x" * 200})
        connection.request("POST", f"/{workspace}/{server}{path}", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def nothing_is_left(pair: Pair, value: str, after: str) -> None:
    time.sleep(AFTER_SECONDS)
    left = copies(pair.process.pid, value)
    print(f"{after}: {left}")
    assert not any(left.values()), f"{after}: {left}"


def prepared(pair: Pair, workspace: str, **server: Any) -> str:
    """A server that gets a new secret. Its value."""
    value = token()
    # By another way than `put_secret`, which remembers values.
    put = {"workspace": workspace, "name": "CANARY", "text": value}
    pair.call(pair.vault, "vault.v1.SecretService/PutSecret", put)
    pair.add_server(workspace, "canary", secrets=["CANARY"], **server)
    return value


AUTH_TYPES = ["AUTH_TYPE_SECRET_HEADERS", "AUTH_TYPE_BEARER", "AUTH_TYPE_SKILL"]


@pytest.mark.parametrize("auth_type", AUTH_TYPES)
def test_over_http1_nothing_is_left_of_a_secret(
    pair: Pair, workspace: str, upstream: Upstream, auth_type: str
) -> None:
    value = prepared(pair, workspace, url=f"http://127.0.0.1:{upstream.port}", authType=auth_type)
    nothing_is_left(pair, value, "after the put")

    # The test can see what is there: while the call is held open, its secret is.
    upstream.hold.clear()
    status: list[int] = []
    caller = threading.Thread(target=lambda: status.append(call(pair, workspace, "canary")))
    caller.start()
    assert upstream.reached.wait(10)
    if auth_type != "AUTH_TYPE_SKILL":
        held = copies(pair.process.pid, value)
        assert any(held.values()), "the positive control found nothing"
    upstream.hold.set()
    caller.join(20)
    assert status == [200]
    headers, body = upstream.received[-1]
    assert value in "".join(headers.values()) or value.encode() in body
    nothing_is_left(pair, value, f"{auth_type}, one call")

    for _ in range(CALLS):
        assert call(pair, workspace, "canary") == 200
    nothing_is_left(pair, value, f"{auth_type}, {CALLS} calls")

    assert call(pair, workspace, "canary", "/break") == 502
    nothing_is_left(pair, value, f"{auth_type}, the upstream breaks off")


def test_over_tls_nothing_is_left_of_a_secret(pair: Pair, workspace: str) -> None:
    pki = pair.folder / "pki"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki / "vault.pem", pki / "vault-key.pem")
    upstream = Upstream(tls)
    try:
        value = prepared(
            pair,
            workspace,
            url=f"https://localhost:{upstream.port}",
            tls={"caPem": (pki / "ca.pem").read_text()},
        )
        for calls in (1, CALLS):
            for _ in range(calls):
                assert call(pair, workspace, "canary") == 200
            nothing_is_left(pair, value, f"over TLS, {calls} calls")
        assert upstream.received[-1][0]["x-mcp-secret-canary"] == value
    finally:
        upstream.server.shutdown()


def test_nothing_is_left_of_a_secret_that_was_not_sent(pair: Pair, workspace: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    value = prepared(pair, workspace, url=f"http://127.0.0.1:{port}")
    for _ in range(3):
        assert call(pair, workspace, "canary") == 502
    nothing_is_left(pair, value, "nobody listens")

    # Decrypted, and then not legal in a header.
    value = token() + "\n" + token()
    pair.call(
        pair.vault,
        "vault.v1.SecretService/PutSecret",
        {"workspace": workspace, "name": "CANARY", "text": value},
    )
    for _ in range(3):
        assert call(pair, workspace, "canary") == 502
    for part in value.split("\n"):
        nothing_is_left(pair, part, "not placeable")


def test_over_http2_nothing_is_left_of_a_secret(pair: Pair, workspace: str) -> None:
    seen: list[dict[str, str | bytes]] = []

    class Anything(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            seen.append(dict(details.invocation_metadata))
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Anything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        value = prepared(pair, workspace, url=f"http://127.0.0.1:{port}")
        metadata = (("x-aerostack-workspace", workspace), ("x-aerostack-server", "canary"))
        with grpc.insecure_channel(pair.data_plane) as channel:
            echo = channel.unary_unary("/any.Service/Method")
            for calls in (1, CALLS):
                for _ in range(calls):
                    assert echo(b"hello", metadata=metadata, timeout=10) == b"hello"
                # The connections of both sides stay open.
                nothing_is_left(pair, value, f"over HTTP/2, {calls} calls")
        assert seen[-1]["x-mcp-secret-canary"] == value
    finally:
        server.stop(None)


@contextlib.contextmanager
def admin(pair: Pair) -> Iterator[grpc.Channel]:
    """A channel of an administrator's. Its TLS is Python's: grpcio's does not know the constraints of the CA."""
    pki = pair.folder / "pki"
    tls = ssl.create_default_context(cafile=pki / "ca.pem")
    tls.load_cert_chain(pki / "admin.pem", pki / "admin-key.pem")
    tls.set_alpn_protocols(["h2"])
    host, _, port = pair.vault.rpartition(":")

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the other direction has closed it
            while data := await source.read(1 << 16):
                to.write(data)
                await to.drain()
        to.close()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port), ssl=tls)
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(accepted, "127.0.0.1", 0), loop).result(10)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as channel:
            yield channel
    finally:
        loop.call_soon_threadsafe(loop.stop)


def put(channel: grpc.Channel, workspace: str, value: str) -> None:
    # vault.v1.PutSecretRequest: its fields 1, 2 and 3 are strings of fewer than 128 bytes.
    fields = {1: workspace, 2: "CANARY", 3: value}
    request = b"".join(bytes([number << 3 | 2, len(text)]) + text.encode() for number, text in fields.items())
    channel.unary_unary("/vault.v1.SecretService/PutSecret")(request, timeout=10)


def test_nothing_is_left_of_a_put_over_a_channel_that_stays(pair: Pair, workspace: str) -> None:
    with admin(pair) as channel:
        value = token()
        # The test can see what is there: while another call is under way over it, the connection has to stay.
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        next(watch)
        put(channel, workspace, value)
        time.sleep(AFTER_SECONDS)
        held = copies(pair.process.pid, value)
        print(f"while a call is under way: {held}")
        assert held["raw"], "the positive control found nothing"
        watch.cancel()
        nothing_is_left(pair, value, "when that has ended")

        for puts in (1, CALLS):
            for _ in range(puts):
                value = token()
                put(channel, workspace, value)
            nothing_is_left(pair, value, f"after {puts} puts")


def test_a_client_does_not_notice_that_its_connection_is_not_kept(pair: Pair, workspace: str) -> None:
    with admin(pair) as channel:
        # The vault waits 350 ms for the next call: some come earlier, some later, and some in that very moment.
        for milliseconds in [*range(330, 370, 2), 500, 1000, 1500]:
            put(channel, workspace, token())
            time.sleep(milliseconds / 1000)
