"""Servers that get a secret of their own: where its value goes, how the upstream is spoken to, and calls that end in every
way."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import secrets
import socket
import ssl
import string
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import grpc
import pytest

from apart import Apart
from memory import forms, pieces
from memory_upstream import Received, Upstream, upstream
from pair import eventually

SECONDS = 20
# Of values: at their end are 11 bytes that are no whole block of AES, and with their length before them 15.
LENGTH = 59


def random(length: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def header_value() -> str:
    """Of what a header may have, with what JSON escapes in each half."""
    return f'{random(12)}"\\{random(24)}"\\{random(LENGTH - 40)}'


def cookie_value() -> str:
    """Of what a cookie may have, which leaves out what JSON escapes."""
    return f"{random(24)}/{random(LENGTH - 25)}"


def text_value() -> str:
    """With all that JSON escapes, in each half."""
    return f'{random(12)}"\\\x01{random(24)}"\\\x01{random(LENGTH - 42)}'


def url_value() -> str:
    """What a path may have, with what percent-encoding changes in each half."""
    return f'{random(12)}/%"{random(24)}&+{random(LENGTH - 41)}'


# --- Where a value goes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """How an upstream is spoken to."""

    name: str
    version: int
    tls: bool

    def __str__(self) -> str:
        return self.name


HTTP1, HTTP1_TLS = Wire("http1", 1, tls=False), Wire("http1-tls", 1, tls=True)
HTTP2, HTTP2_TLS = Wire("http2", 2, tls=False), Wire("http2-tls", 2, tls=True)
OVER_HTTP1, OVER_HTTP2 = [HTTP1, HTTP1_TLS], [HTTP2, HTTP2_TLS]
WIRES = [*OVER_HTTP1, *OVER_HTTP2]

JSON_TYPE, FORM_TYPE = "application/json", "application/x-www-form-urlencoded"
QUESTION = json.dumps({"question": "x" * 100}).encode()
QUESTION_IN_A_FORM = urlencode({"question": "x" * 100}).encode()
# More than is checked whole before the call goes out.
LARGE = json.dumps({"question": "x" * (3 << 19)}).encode()
# An HTTP/2 frame has 16 KiB at least.
LARGE_HEAD = {f"x-large-{number}": "y" * 4096 for number in range(5)}
# peers.v1.Ask, with a payload.
MESSAGE = b"\x0a\x05hello"
MALFORMED = b"\x0a\x7fhello"


@dataclass(frozen=True)
class Placement:
    """Where a value goes, in which calls, and how the upstream finds it."""

    name: str
    value: Callable[[], str]
    arrived: Callable[[Received], list[str]]
    server: dict[str, Any] = field(default_factory=dict)
    # The server's injections, for the name of its secret.
    injections: Callable[[str], list[dict[str, Any]]] | None = None
    # The path of the server's URL, for the name of its secret.
    path: Callable[[str], str] = lambda secret: ""
    # What an HTTP call sends.
    body: bytes = QUESTION
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    is_grpc: bool = False

    def __str__(self) -> str:
        return self.name


def in_header(received: Received) -> list[str]:
    return [value for name, value in received.headers.items() if name.startswith("x-mcp-secret-canary-")]


def in_bearer(received: Received) -> list[str]:
    return [received.headers["authorization"].removeprefix("Bearer ")]


def in_basic(received: Received) -> list[str]:
    credentials = base64.b64decode(received.headers["authorization"].removeprefix("Basic "))
    return [credentials.decode().removeprefix("user:")]


def in_cookie(received: Received) -> list[str]:
    """From the injector's cookie, beside that of the program."""
    own, program = received.headers["cookie"].split("; ")
    assert program == "a=1"
    return [own.removeprefix("session=")]


def in_query(received: Received) -> list[str]:
    return parse_qs(received.target.partition("?")[2])["key"]


def in_path(received: Received) -> list[str]:
    return [unquote(received.target.split("/")[1]).removeprefix("bot")]


def in_form(received: Received) -> list[str]:
    """From the injector's field, beside that of the program."""
    fields = parse_qs(received.body.decode())
    assert "question" in fields
    return fields["token"]


def at_pointer(received: Received) -> list[str]:
    return [json.loads(received.body)["params"]["_meta"]["token"]]


def basic(secret: str) -> list[dict[str, Any]]:
    return [{"basic": {"username": "user", "password": f"${{{secret}}}"}}]


def cookie(secret: str) -> list[dict[str, Any]]:
    return [{"cookie": {"name": "session", "value": f"${{{secret}}}"}}]


def query(secret: str) -> list[dict[str, Any]]:
    return [{"query": {"name": "key", "value": f"${{{secret}}}"}}]


def variable(secret: str) -> list[dict[str, Any]]:
    return [{"path": {"variable": secret}}]


def form(secret: str) -> list[dict[str, Any]]:
    return [{"form": {"field": "token", "value": f"${{{secret}}}"}}]


def pointer(secret: str) -> list[dict[str, Any]]:
    return [{"json": {"pointer": "/params/_meta/token", "value": f"${{{secret}}}"}}]


def in_json(received: Received) -> list[str]:
    return list(json.loads(received.body)["secrets"].values())


def in_messages(received: Received) -> list[str]:
    """From the entries of the map, each a key and a value of fewer than 128 bytes."""
    _, *entries = received.body.split(b"CANARY_")
    values = [entry.partition(b"\x12")[2] for entry in entries]
    return [value[1 : 1 + value[0]].decode() for value in values]


BODY = {"authType": "AUTH_TYPE_SKILL"}
MESSAGES = {**BODY, "protobufSecretsField": 7, "grpcMethods": ["any/*"]}

HEADERS = Placement("headers", header_value, in_header)
BEARER = Placement("bearer", header_value, in_bearer, {"authType": "AUTH_TYPE_BEARER"})
BASIC = Placement("basic", header_value, in_basic, injections=basic)
COOKIE = Placement("cookie", cookie_value, in_cookie, injections=cookie, headers={"cookie": "a=1"})
QUERY = Placement("query", url_value, in_query, injections=query)
PATH = Placement("path", url_value, in_path, injections=variable, path=lambda secret: f"/bot${{{secret}}}")
FORM = Placement("form", text_value, in_form, injections=form, body=QUESTION_IN_A_FORM, content_type=FORM_TYPE)
POINTER = Placement("json-pointer", text_value, at_pointer, injections=pointer)
METADATA = Placement("metadata", header_value, in_header, is_grpc=True)
JSON = Placement("json", text_value, in_json, BODY)
LARGE_JSON = Placement("large-json", text_value, in_json, BODY, body=LARGE)
FIRST = Placement("first-message", text_value, in_messages, MESSAGES, is_grpc=True)
ALL = Placement(
    "all-messages", text_value, in_messages, {**MESSAGES, "protobufMessages": "PROTOBUF_MESSAGES_ALL"}, is_grpc=True
)
# Over HTTP/2 this head is cut into frames.
IN_LARGE_HEAD = Placement("large-head", header_value, in_header, headers=LARGE_HEAD)
# Values for which there is no placeholder where HTTP/2 is possible.
SHORT = Placement("short-header", partial(random, 11), in_header)
SHORT_QUERY = Placement("short-query", partial(random, 11), in_query, injections=query)


# --- A server and its upstream -----------------------------------------------------------------------------------


@dataclass
class Site:
    """A server that gets a secret of its own, and the upstream that it is."""

    pair: Apart
    workspace: str
    name: str
    secret: str
    wire: Wire
    placement: Placement
    upstream: Upstream
    value: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.placement}, {self.wire}"

    def call(self, how: str = "ok") -> None:
        """A call that ends well."""
        if self.placement.is_grpc:
            assert talk(self, how) == b""
        else:
            assert post(self, how) == 200

    def calls(self, count: int, call: Callable[[], None]) -> None:
        """So many, some at once; all of them do what they should."""
        with ThreadPoolExecutor(10) as callers:
            for called in [callers.submit(call) for _ in range(count)]:
                called.result(SECONDS)

    def path(self, how: str, call: str = "any") -> str:
        return f"/{self.workspace}/{self.name}/{call}/{how}"

    def holds(self, call: str) -> None:
        """Waits until a call has reached the upstream, which holds it."""
        eventually(f"{call} is held", lambda: call in self.upstream.holds)

    @property
    def naming(self) -> list[tuple[str, str]]:
        return [("x-aerostack-workspace", self.workspace), ("x-aerostack-server", self.name)]

    def arrived(self) -> None:
        """The last call had the value."""
        values = self.placement.arrived(self.upstream.received[-1])
        assert values and set(values) == {self.value}, f"{len(values)} values arrived"


@contextlib.contextmanager
def site(
    pair: Apart, workspace: str, number: int, wire: Wire, placement: Placement, value: str | None, more: dict[str, Any]
) -> Iterator[Site]:
    """Makes one, whose upstream is not open yet. `more` are fields of the server."""
    pki, name, secret = pair.folder / "pki", f"canary-{number}", f"CANARY_{number}"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if wire.tls else None
    if tls:
        tls.load_cert_chain(pki / "vault.pem", pki / "vault-key.pem")
        tls.set_alpn_protocols(["h2", "http/1.1"])
    value = value or placement.value()
    put = {"workspace": workspace, "name": secret, "text": value}
    pair.call(pair.vault, "vault.v1.SecretService/PutSecret", put)
    pair.values += [text for piece in map(forms, pieces(value)) for text in (*piece["raw"], *piece["percent"])]
    server = {"protocol": f"PROTOCOL_HTTP{wire.version}", **placement.server, **more}
    if placement.injections:
        server["injections"] = placement.injections(secret)
    else:
        server.setdefault("secrets", [secret])
    if wire.tls:
        server.setdefault("tls", {"caPem": (pki / "ca.pem").read_text()})
    with upstream(tls) as at:
        pair.add_server(workspace, name, at.url + placement.path(secret), **server)
        yield Site(pair, workspace, name, secret, wire, placement, at, value)


# --- Calls -------------------------------------------------------------------------------------------------------


def post(site: Site, how: str, body: bytes | None = None) -> int:
    """A call of a program, over a connection of its own."""
    headers = {"content-type": site.placement.content_type, **site.placement.headers}
    with contextlib.closing(http.client.HTTPConnection(*site.pair.address, timeout=SECONDS)) as connection:
        connection.request("POST", site.path(how), body or site.placement.body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def sent(site: Site, path: str, length: int, body: bytes, *lines: str) -> socket.socket:
    """A connection with a call that says how long its body is, and what is sent of it."""
    content_type = f"Content-Type: {site.placement.content_type}"
    head = [f"POST {path} HTTP/1.1", "Host: localhost", content_type, f"Content-Length: {length}"]
    connection = socket.create_connection(site.pair.address, timeout=SECONDS)
    connection.sendall("\r\n".join([*head, *lines, "", ""]).encode() + body)
    return connection


@contextlib.contextmanager
def channel(site: Site) -> Iterator[grpc.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(site.pair.data_plane, options=options) as channel:
        yield channel


def talk(site: Site, how: str, messages: Sequence[bytes] = (MESSAGE,) * 3, timeout: float = SECONDS) -> bytes:
    """A gRPC call."""
    with channel(site) as made:
        call = made.stream_unary(f"/any/{how}")
        return call(iter(messages), metadata=site.naming, timeout=timeout)


# --- Calls that fail ---------------------------------------------------------------------------------------------

Failing = Callable[[Site], None]


def refused(site: Site, how: str = "ok", status: int = 502) -> None:
    assert post(site, how) == status


def cut_off(site: Site) -> None:
    """Within the answer's body."""
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        post(site, "part")


def given_up(site: Site) -> None:
    """The program goes away while the upstream keeps it waiting."""
    call, placement = random(12), site.placement
    lines = [f"{name}: {value}" for name, value in placement.headers.items()]
    with sent(site, site.path("hold", call), len(placement.body), placement.body, *lines):
        site.holds(call)


def truncated(site: Site) -> None:
    """The program says that it has sent all, and has not."""
    body = site.placement.body[:-2]
    with sent(site, site.path("ok"), 2 * len(body), body) as connection:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def invalid_at_its_end(site: Site) -> None:
    assert post(site, "ok", site.placement.body + b"}") == 400


def failing(site: Site, how: str, code: grpc.StatusCode, **more: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        talk(site, how, **more)
    assert raised.value.code() == code, raised.value


def cancelled(site: Site) -> None:
    call = random(12)
    with channel(site) as made:
        metadata = [*site.naming, ("x-call", call)]
        calling = made.stream_unary("/any/hold").future(iter([MESSAGE] * 3), metadata=metadata)
        site.holds(call)
        calling.cancel()


late = partial(failing, how="hold", code=grpc.StatusCode.DEADLINE_EXCEEDED, timeout=0.5)
malformed_later = partial(failing, how="ok", code=grpc.StatusCode.INVALID_ARGUMENT, messages=(MESSAGE, MALFORMED))
breaks, reset, goaway = (partial(refused, how=how) for how in ("break", "reset", "goaway"))
