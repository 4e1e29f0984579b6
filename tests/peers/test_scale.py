"""Very many connections, streams and calls, and what both services hold of them: each is a process of its own, so that
what one holds is its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

import frames
from apart import MIB, Apart, Held, Service, certificates, open_files
from pair import SOAK, eventually

# What each process has to be allowed.
FILES = 20_000
CONNECTIONS = 10_000
# With two connections each, and some more for the rest, within what FILES allows.
STREAMS = 9_900
# Connections that are made at once: fewer than what waits to be accepted.
AT_ONCE = 200
# What anybody else's calls may take meanwhile: all but one in twenty, and those. This process has thousands of connections
# itself, and may be late.
OTHERS_SECONDS, ONE_IN_TWENTY_SECONDS = 1.0, 3.0
SECONDS = 30

# The whole resident memory, most of which is the code of the binary, and the memory that the injector itself has taken.
IDLE_MIB, IDLE_OWN_MIB = 20, 8
# What an event stream may take of the injector's memory, both of its connections included: half more than it takes.
STREAM_KIB = 64
STREAM_HTTP2_KIB = 40

Say = Callable[[str, object], None]

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with open_files(FILES):
        yield certificates(tmp_path_factory.mktemp("pki") / "dev")


class Upstream:
    """`scale_upstream.py`, running."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("scale_upstream.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = f"http://127.0.0.1:{self._read()['port']}"

    def _read(self) -> dict[str, int]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def tell(self, **command: Any) -> dict[str, int]:
        """Has it do something. What it has counted."""
        assert self.process.stdin
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return self._read()

    @property
    def counts(self) -> dict[str, int]:
        return self.tell()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    counts = upstream.counts
    upstream.stop()
    assert counts["calls"] > 0 and counts["without"] == 0, f"calls came without their secret: {counts}"


@pytest.fixture
def start(tmp_path: Path, pki: Path, upstream: Upstream, value: Callable[[], str]) -> Iterator[Callable[..., Apart]]:
    """Starts pairs that end with the test. The workspace `w` has the servers `http1` and `http2`, by the version that
    the upstream is spoken to in."""
    pairs: list[Apart] = []

    def start(*flags: str) -> Apart:
        pair = Apart.run(tmp_path / f"pair-{len(pairs)}", pki, *flags)
        pairs.append(pair)
        workspace = {"name": "w", "plan": "PLAN_ENTERPRISE"}
        pair.call(pair.vault, "vault.v1.WorkspaceService/CreateWorkspace", {"workspace": workspace})
        put(pair, upstream, value())
        for version in (1, 2):
            how = {"protocol": f"PROTOCOL_HTTP{version}", "requiredSecrets": ["TOKEN"]}
            pair.add_server("w", f"http{version}", upstream.url, ["TOKEN"], **how)
        return pair

    try:
        yield start
        assert [pair.stop() for pair in pairs] == [0] * len(pairs), [pair.folder for pair in pairs]
        assert [pair.values_in_log() for pair in pairs] == [0] * len(pairs), "a log holds values of secrets"
    finally:
        for pair in pairs:
            pair.kill()


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """What is said is printed beside the test's name."""
    return record_property


def put(pair: Apart, upstream: Upstream, value: str) -> None:
    """From now on this is what every call has to carry."""
    pair.put_secret("w", "TOKEN", value)
    upstream.tell(values=[value])


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def call(pair: Apart, path: str = "/w/http1/", seconds: float = 10) -> tuple[int, float]:
    """A call over a connection of its own: its status, and how long it took."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(pair.data_plane, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, time.monotonic() - started
    finally:
        connection.close()


class Others:
    """Calls that somebody else makes meanwhile, one after the other."""

    def __init__(self, pair: Apart) -> None:
        self.pair, self.stopping = pair, threading.Event()
        self.took: list[float] = []
        self.failures: list[str] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        paths = ("/w/http1/", "/w/http2/")
        while not self.stopping.wait(0.05):
            try:
                status, took = call(self.pair, paths[len(self.took) % 2])
            except (OSError, http.client.HTTPException) as failure:
                self.failures.append(repr(failure))
                return
            self.took.append(took)
            if status != 200:
                self.failures.append(f"status {status}")

    def were_served(self) -> float:
        """Ends them. How long the slowest took."""
        self.stopping.set()
        self.thread.join(SECONDS)
        assert not self.failures, f"others are not served: {self.failures[:3]}"
        assert len(self.took) >= 5, f"others are hardly served: {self.took}"
        took = sorted(self.took)
        of_most, slowest = took[-1 - len(took) // 20], took[-1]
        assert of_most < OTHERS_SECONDS and slowest < ONE_IN_TWENTY_SECONDS, f"others wait: {took}"
        return slowest


@contextmanager
def others(pair: Apart) -> Iterator[Others]:
    others = Others(pair)
    try:
        yield others
    finally:
        others.stopping.set()


class Client(asyncio.Protocol):
    """One connection of a program."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.received = bytearray()
        self.began = self.closed = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = time.monotonic()

    def send(self, data: bytes) -> None:
        self.began = self.began or time.monotonic()
        self.transport.write(data)


class Http2Client(Client):
    """One connection with many calls."""

    def __init__(self) -> None:
        super().__init__()
        # What came on each stream.
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        # Whether it was told to make no further calls.
        self.is_to_go = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0))

    def data_received(self, data: bytes) -> None:
        left, whole = frames.frames(bytes(self.received) + data)
        self.received = bytearray(left)
        for kind, flags, stream, payload in whole:
            if kind == frames.DATA:
                self.bodies[stream] += payload
            elif kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
                self.send(frames.frame(kind, frames.ACK, 0, payload if kind == frames.PING else b""))
            self.is_to_go |= kind == frames.GOAWAY
            if kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM or kind == frames.RST_STREAM:
                self.ended.add(stream)

    def call(self, path: str) -> None:
        stream = 2 * len(self.bodies) + 1
        self.bodies[stream] = bytearray()
        head = frames.frame(
            frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, frames.request(path)
        )
        self.send(head)


async def until(what: str, check: Callable[[], bool], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def connected(
    pair: Apart, count: int, first: Callable[[int], bytes] = lambda _: b"", kind: type[Client] = Client
) -> AsyncIterator[list[Any]]:
    """So many connections, each of which sends something first; closed at the end. A call is answered before further
    ones are made."""
    loop = asyncio.get_running_loop()
    clients: list[Any] = []
    try:
        for begin in range(0, count, AT_ONCE):
            end = min(begin + AT_ONCE, count)
            connecting = [loop.create_connection(kind, *pair.address) for _ in range(begin, end)]
            made = [protocol for _, protocol in await asyncio.gather(*connecting)]
            clients += made
            for number, client in enumerate(made, begin):
                if data := first(number):
                    client.send(data)
            called = [client for number, client in enumerate(made, begin) if b"\r\n\r\n" in first(number)]
            await until("calls are answered", lambda called=called: all(client.received for client in called))
            # What waits to be accepted is bounded.
            await until(
                "they are accepted",
                lambda: pair.injector_service.descriptors() > sum(not client.closed for client in clients),
            )
        yield clients
    finally:
        for client in clients:
            client.transport.abort()
        await until("connections are closed", lambda: all(client.closed for client in clients))


def warmed_up(pair: Apart) -> None:
    for _ in range(20):
        for server in ("http1", "http2"):
            assert call(pair, f"/w/{server}/")[0] == 200


def held(pair: Apart) -> Held:
    """What the injector has."""
    return pair.held(pair.injector_service)


def goes_back(pair: Apart, before: Held) -> None:
    """Descriptors and tasks, but for connections to the upstream that are kept: as many as --upstream-max-idle."""
    kept = 2 * 64
    eventually(
        "descriptors and tasks are as before",
        lambda: (now := held(pair)).descriptors <= before.descriptors + kept
        and now.tasks <= before.tasks + 2 * kept,
    )


def test_an_idle_injector_is_small(start: Callable[..., Apart], say: Say) -> None:
    pair = start()
    at_start = held(pair)
    warmed_up(pair)
    idle = held(pair)
    say("injector at start", at_start)
    say("after a few calls", idle)
    say("vault", pair.held(pair.vault_service))
    own = pair.injector_service.own_memory()
    say("without the code", f"{own / MIB:.1f} MiB")
    assert idle.memory < IDLE_MIB * MIB and own < IDLE_OWN_MIB * MIB


@pytest.mark.parametrize(("calls", "most"), [("none", 100), ("every other", 200), ("all", 320)])
def test_ten_thousand_idle_connections_take_little_and_delay_nobody(
    start: Callable[..., Apart], say: Say, calls: str, most: int
) -> None:
    """Which of them have made a call, and how many MiB the injector may have then. A connection that has made one keeps
    two buffers of 8 KiB, which are the HTTP library's."""
    every = {"none": 0, "every other": 2, "all": 1}[calls]
    pair = start("--max-connections", str(CONNECTIONS + 100))
    warmed_up(pair)
    before = held(pair)

    def first(number: int) -> bytes:
        return get("/w/http1/") if every and number % every == 0 else b""

    async def crowd() -> None:
        with others(pair) as somebody:
            async with connected(pair, CONNECTIONS, first) as clients:
                now = held(pair)
                served = len(somebody.took)
                await until("others are served", lambda: len(somebody.took) >= served + 10)
                assert not any(client.closed for client in clients)
                if every:
                    assert all(client.received.startswith(b"HTTP/1.1 200") for client in clients[::every])
                say("with 10,000 connections", now)
                say("for each", f"{(now.memory - before.memory) / CONNECTIONS / 1024:.1f} KiB")
                say("the slowest of others", f"{somebody.were_served():.3f} s")
                assert now.memory < most * MIB

    asyncio.run(crowd())
    goes_back(pair, before)
    say("afterwards", held(pair))


def test_ten_thousand_heads_that_never_end_are_closed_in_time_and_delay_nobody(
    start: Callable[..., Apart], say: Say
) -> None:
    most, between = 5.0, 1.5
    pair = start("--max-connections", str(CONNECTIONS + 100), "--head-timeout", f"{most:.0f}s")
    warmed_up(pair)
    before = held(pair)
    # What HTTP/2 begins with is a head too, until it is known to be that.
    heads = [get("/w/http1/"), frames.PREFACE]

    async def crowd() -> None:
        with others(pair) as somebody:
            async with connected(pair, CONNECTIONS, lambda number: heads[number % 2][:1]) as clients:
                sent = 1
                deadline = time.monotonic() + 4 * most
                while not all(client.closed for client in clients):
                    assert time.monotonic() < deadline, f"{sum(not client.closed for client in clients)} are open"
                    await asyncio.sleep(between)
                    for number, client in enumerate(clients):
                        # As long as it is not known to be HTTP/2, whose heads have no such time.
                        if not client.closed and sent < 3:
                            client.send(heads[number % 2][sent : sent + 1])
                    sent += 1
                lasted = sorted(client.closed - client.began for client in clients)
                say("closed after", f"{lasted[0]:.2f} to {lasted[-1]:.2f} s, in the median {lasted[5000]:.2f} s")
                say("the slowest of others", f"{somebody.were_served():.3f} s")
                assert lasted[0] > most - 0.1 and lasted[-1] < 2 * most, lasted[:: len(lasted) // 10]

    asyncio.run(crowd())
    goes_back(pair, before)


EVENTS = re.compile(rb"data: (\S+)\n\n")


def every_stream_gets_every_event(
    upstream: Upstream, streams: int, received: Callable[[], Iterator[bytes]], events: Sequence[str]
) -> Callable[[], Any]:
    async def check() -> None:
        await until("the upstream has all streams", lambda: upstream.counts["streams"] == streams)
        for number, event in enumerate(events, 1):
            upstream.tell(event=event)
            wanted = f"data: {event}\n\n".encode()
            await until(f"event {number} comes", lambda wanted=wanted: all(wanted in one for one in received()))
        wanted = [event.encode() for event in events]
        for one in received():
            assert EVENTS.findall(one) == wanted

    return check


def test_ten_thousand_event_streams_over_http1(start: Callable[..., Apart], upstream: Upstream, say: Say) -> None:
    pair = start()
    warmed_up(pair)
    before = held(pair)
    events = [f"event-{number}-{'x' * 40}" for number in range(5)]

    async def crowd() -> None:
        with others(pair) as somebody:
            async with connected(pair, STREAMS, lambda _: get("/w/http1/events")) as clients:
                received = lambda: (bytes(client.received) for client in clients)  # noqa: E731
                await every_stream_gets_every_event(upstream, STREAMS, received, events)()
                now = held(pair)
                each = (now.memory - before.memory) / STREAMS / 1024
                say(f"with {STREAMS} streams", now)
                say("for each", f"{each:.1f} KiB")
                say("the slowest of others", f"{somebody.were_served():.3f} s")
                assert not any(client.closed for client in clients)
                assert each < STREAM_KIB
            await until("the upstream is rid of them", lambda: upstream.counts["streams"] == 0)

    asyncio.run(crowd())
    goes_back(pair, before)
    say("afterwards", held(pair))


def test_ten_thousand_event_streams_over_http2(start: Callable[..., Apart], upstream: Upstream, say: Say) -> None:
    connections, each_has = 100, 100
    streams = connections * each_has
    pair = start()
    warmed_up(pair)
    before = held(pair)
    events = [f"event-{number}-{'x' * 40}" for number in range(5)]

    async def crowd() -> None:
        with others(pair) as somebody:
            async with connected(pair, connections, kind=Http2Client) as clients:
                for number in range(1, each_has + 1):
                    for client in clients:
                        client.call("/w/http1/events")
                    # The upstream is called over a connection for each.
                    wanted = connections * number
                    await until("it has them", lambda wanted=wanted: upstream.counts["streams"] == wanted)
                received = lambda: (bytes(body) for client in clients for body in client.bodies.values())  # noqa: E731
                await every_stream_gets_every_event(upstream, streams, received, events)()
                now = held(pair)
                each = (now.memory - before.memory) / streams / 1024
                say(f"with {streams} streams", now)
                say("for each", f"{each:.1f} KiB")
                say("the slowest of others", f"{somebody.were_served():.3f} s")
                assert not any(client.closed or client.ended for client in clients)
                assert each < STREAM_HTTP2_KIB
            await until("the upstream is rid of them", lambda: upstream.counts["streams"] == 0)

    asyncio.run(crowd())
    goes_back(pair, before)
    say("afterwards", held(pair))


class Talking(asyncio.Protocol):
    """One stream of gRPC messages over HTTP/2, at either end. What it sends may wait until it is taken."""

    transport: asyncio.Transport

    def __init__(self, *, is_client: bool) -> None:
        self.http2 = H2Connection(H2Configuration(client_side=is_client, header_encoding="utf-8"))
        self.stream = 1
        self.received = bytearray()
        self.trailers: dict[str, str] = {}
        self.is_over = False
        self._unsent = memoryview(b"")
        self._last: list[tuple[str, str]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.http2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.http2.receive_data(data):
            if isinstance(event, DataReceived):
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.received += event.data
            elif isinstance(event, RequestReceived):
                self.http2.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
            elif isinstance(event, TrailersReceived):
                self.trailers = dict(event.headers)
            elif isinstance(event, StreamEnded | StreamReset):
                self.is_over = True
                self.over()
        self.flush()

    def over(self) -> None:
        """The other end has said all."""

    def say(self, messages: bytes, last: list[tuple[str, str]]) -> None:
        """Sends these, and then these trailers, or none."""
        self._unsent, self._last = memoryview(messages), last

    def flush(self) -> None:
        while self._unsent and (room := min(self.http2.local_flow_control_window(self.stream), 16_384)):
            self.http2.send_data(self.stream, self._unsent[:room].tobytes())
            self._unsent = self._unsent[room:]
        if not self._unsent and self._last is not None:
            if self._last:
                self.http2.send_headers(self.stream, self._last, end_stream=True)
            else:
                self.http2.end_stream(self.stream)
            self._last = None
        if not self.transport.is_closing():
            self.transport.write(self.http2.data_to_send())


class Echo(Talking):
    """Answers with the messages that it got."""

    def __init__(self) -> None:
        super().__init__(is_client=False)

    def over(self) -> None:
        self.say(bytes(self.received), [("grpc-status", "0")])


MESSAGES = 1_000_000 if SOAK else 200_000


@pytest.mark.parametrize("injected", ["metadata", "first message"])
def test_very_many_messages_pass_both_ways_on_one_stream(
    start: Callable[..., Apart], upstream: Upstream, say: Say, injected: str
) -> None:
    """Each is numbered: a fixed32 in the first field of a protobuf message."""
    messages = b"".join(b"\0\0\0\0\5\x0d" + number.to_bytes(4, "little") for number in range(MESSAGES))
    one = len(messages) // MESSAGES
    pair = start()
    warmed_up(pair)

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        echo = Echo()
        server = await loop.create_server(lambda: echo, "127.0.0.1", 0)
        first = {"authType": "AUTH_TYPE_SKILL", "protobufSecretsField": 7, "grpcMethods": ["any.Service/Method"]}
        how = first if injected == "first message" else {}
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        pair.add_server("w", "echo", url, ["TOKEN"], requiredSecrets=["TOKEN"], **how)
        before = held(pair).memory
        began = time.monotonic()
        _, client = await loop.create_connection(lambda: Talking(is_client=True), *pair.address)
        head = {":method": "POST", ":scheme": "http", ":authority": "localhost", ":path": "/any.Service/Method"}
        head |= {"te": "trailers", "content-type": "application/grpc"}
        head |= {"x-aerostack-workspace": "w", "x-aerostack-server": "echo"}
        client.http2.send_headers(client.stream, list(head.items()))
        client.say(messages, [])
        client.flush()
        most = before

        def is_over() -> bool:
            nonlocal most
            most = max(most, held(pair).memory)
            return client.is_over

        await until("all have come back", is_over, 2 * SECONDS)
        say("messages a second each way", f"{MESSAGES / (time.monotonic() - began):.0f}")
        say("the injector's memory", f"{before / MIB:.1f} MiB, then at most {most / MIB:.1f} MiB")
        client.transport.abort()
        server.close()
        assert client.trailers["grpc-status"] == "0"
        assert client.received == echo.received
        # The first may have got a secret.
        rest = messages[one:]
        assert echo.received.endswith(rest) and len(echo.received) - len(rest) < 200
        assert (b"TOKEN" in echo.received) == (injected == "first message")
        assert most < before + 8 * MIB

    asyncio.run(talk())


LARGE = 100 * 1_000_000
# What is checked whole before a call goes out, more than once, and what is under way between buffers.
LARGE_MIB = 16


class Sink:
    """An upstream that reads one body and keeps the end of it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.taken = 0
        self.end = b""
        self.is_whole = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        connection, _ = self.listener.accept()
        with connection, contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 18):
                self.taken += len(data)
                self.end = (self.end + data)[-4096:]
                self.is_whole = self.end.endswith(b"\r\n0\r\n\r\n") or self.end.endswith(LAST)
                if self.is_whole:
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    return


# What ends a body that is not chunked.
LAST = b'"end":0}'


@pytest.mark.parametrize(
    ("auth_type", "ends", "status"),
    [
        ("AUTH_TYPE_SKILL", b"}", 200),
        ("AUTH_TYPE_SKILL", b"}}", 400),
        ("AUTH_TYPE_SECRET_HEADERS", b"," + LAST, 200),
    ],
    ids=["valid", "with an error at its end", "that nothing is put into"],
)
def test_a_body_of_100_megabytes_takes_no_memory(
    start: Callable[..., Apart], upstream: Upstream, say: Say, auth_type: str, ends: bytes, status: int
) -> None:
    pair = start()
    warmed_up(pair)
    sink = Sink()
    pair.add_server("w", "sink", f"http://127.0.0.1:{sink.port}", ["TOKEN"], authType=auth_type)
    injector = pair.injector_service
    before = most = injector.memory()
    part = b'"' + b"x" * 99_997 + b'",'
    begins = b'{"a":['
    ends = b"0]" + ends
    length = len(begins) + LARGE + len(ends)
    fields = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {length}", "", ""]
    with socket.create_connection(pair.address, timeout=SECONDS) as connection:
        connection.sendall("\r\n".join(["POST /w/sink/ HTTP/1.1", *fields]).encode() + begins)
        for _ in range(LARGE // len(part)):
            connection.sendall(part)
            most = max(most, injector.memory())
        connection.sendall(ends)
        answer = connection.recv(4096)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    sink.thread.join(SECONDS)
    say("the injector's memory", f"{before / MIB:.1f} MiB, then at most {most / MIB:.1f} MiB")
    assert most < before + LARGE_MIB * MIB
    assert sink.taken > 0.9 * LARGE, "it is passed on while it comes"
    assert sink.is_whole == (status == 200)
    # Ours come last.
    is_there = pair.values[0] in sink.end
    assert is_there == (auth_type == "AUTH_TYPE_SKILL" and status == 200)


WARM, CALLS = 100_000, 1_000_000 if SOAK else 300_000


def load(pair: Apart, calls: int) -> None:
    """Calls over all pairs of versions."""
    h2load = shutil.which("h2load")
    assert h2load, "h2load is not there: apt-get install nghttp2-client"
    urls = [f"http://{pair.data_plane}/w/{server}/" for server in ("http1", "http2")]
    # As HTTP/1.1, and then as HTTP/2.
    for arguments in (["--h1", "--clients=50"], ["--clients=10", "--max-concurrent-streams=10"]):
        half = calls // 2
        said = subprocess.run(
            [h2load, f"--requests={half}", "--threads=1", *arguments, *urls],
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        ).stdout
        assert f"{half} succeeded, 0 failed" in said and f"{half} 2xx" in said, said


@pytest.mark.timeout(300)
def test_after_very_many_calls_nothing_has_grown(
    start: Callable[..., Apart], upstream: Upstream, value: Callable[[], str], say: Say
) -> None:
    pair = start()
    load(pair, WARM)
    warm = [pair.held(service) for service in pair.services()]
    # Whoever kept the value would send the old one from here on.
    put(pair, upstream, value())
    started = time.monotonic()
    load(pair, CALLS - WARM)
    took = time.monotonic() - started
    assert upstream.counts["calls"] == CALLS
    assert pair.metric(pair.vault_service, "aerostack_vault_decrypts_total") >= CALLS
    for service, before in zip(pair.services(), warm, strict=True):
        now = pair.held(service)
        say(service.name, f"{before} after {WARM} calls, {now} after {CALLS}")
        # A connection more or less is a matter of chance.
        assert now.memory < before.memory + 8 * MIB
        assert now.descriptors <= before.descriptors + 16
        assert now.threads <= before.threads + 2
        assert now.tasks <= before.tasks + 32
    say("calls a second", f"{(CALLS - WARM) / took:.0f}")


def statuses(pair: Apart, callers: int, seconds: float) -> list[tuple[int, float]]:
    """The status of a call of each of so many programs at once, and how long it took."""

    async def one() -> tuple[int, float]:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection(*pair.address)
        writer.write(get("/w/http1/"))
        answered = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
        writer.transport.abort()
        return int(answered[1]), time.monotonic() - started

    async def all_of_them() -> list[tuple[int, float]]:
        return await asyncio.wait_for(asyncio.gather(*(one() for _ in range(callers))), seconds)

    return asyncio.run(all_of_them())


def test_calls_do_not_pile_up_while_the_vault_stands_still(
    start: Callable[..., Apart], upstream: Upstream, say: Say
) -> None:
    callers, rounds, budget = 200, 4, 2.0
    pair = start()
    vault = pair.vault_service
    assert all(status == 200 for status, _ in statuses(pair, callers, SECONDS))
    before, calls = held(pair), upstream.counts["calls"]
    vault.process.send_signal(signal.SIGSTOP)
    try:
        slowest, most = 0.0, before
        for _ in range(rounds):
            answers = statuses(pair, callers, SECONDS)
            assert {status for status, _ in answers} <= {503, 504}, answers
            slowest = max(slowest, *(took for _, took in answers))
            goes_back(pair, before)
            most = held(pair)
            assert most.memory < before.memory + 8 * MIB, (before, most)
        assert upstream.counts["calls"] == calls, "the upstream was called"
        say("before", before)
        say(f"after {rounds} times {callers} calls in vain", most)
        say("the slowest", f"{slowest:.2f} s")
        assert slowest < budget + 1
    finally:
        vault.process.send_signal(signal.SIGCONT)
    continued = time.monotonic()
    eventually("calls work again", lambda: call(pair)[0] == 200, 10)
    again = time.monotonic() - continued
    say("works again after", f"{again:.2f} s")
    assert again < 2
    assert all(status == 200 for status, _ in statuses(pair, callers, SECONDS))
    goes_back(pair, before)


def whole(received: bytes) -> bool:
    """Whether a chunked answer came to its end."""
    return received.endswith(b"0\r\n\r\n")


def test_open_streams_have_the_grace_period_after_sigterm_and_are_then_cut_off(
    start: Callable[..., Apart], upstream: Upstream, say: Say
) -> None:
    grace, streams = 3.0, 100
    pair = start("--shutdown-grace", f"{grace:.0f}s")

    async def crowd() -> None:
        async with (
            connected(pair, streams, lambda _: get("/w/http1/events")) as over_http1,
            connected(pair, 1, kind=Http2Client) as (over_http2,),
            connected(pair, 1, lambda _: get("/w/http1/")) as (idle,),
        ):
            for _ in range(streams):
                over_http2.call("/w/http1/events")
            await until("the upstream has them", lambda: upstream.counts["streams"] == 2 * streams)
            assert not idle.closed and not over_http2.is_to_go
            injector = pair.injector_service
            assert injector.get(pair.injector_metrics, "/readyz")[0] == 200
            asked = time.monotonic()
            injector.process.terminate()
            await until("a connection without a call is closed", lambda: bool(idle.closed), grace / 2)
            await until("one over HTTP/2 is told to go", lambda: over_http2.is_to_go, grace / 2)
            assert injector.get(pair.injector_metrics, "/readyz") == (503, "not ready: shutting down\n")
            with pytest.raises(OSError):
                await asyncio.open_connection(*pair.address)
            upstream.tell(event="late")
            for client in over_http1:
                await until("events still come", lambda client=client: b"data: late\n\n" in client.received, grace / 2)
            await until("on HTTP/2 too", lambda: all(b"late" in body for body in over_http2.bodies.values()), grace / 2)
            assert not any(client.closed for client in [*over_http1, over_http2])
            assert time.monotonic() - asked < grace, "this machine is too slow to tell"
            everybody = [*over_http1, over_http2]
            await until("all are cut off", lambda: all(client.closed for client in everybody), 2 * grace)
            cut = sorted(client.closed - asked for client in everybody)
            say("cut off after", f"{cut[0]:.2f} to {cut[-1]:.2f} s")
            assert grace - 0.1 < cut[0] and cut[-1] < grace + 1
            assert not any(whole(client.received) for client in over_http1), "cut off as if it was whole"
            assert not over_http2.ended, "ended as if it was whole"
            await until("the upstream is rid of them", lambda: upstream.counts["streams"] == 0)
            assert injector.ended(2) == 0
            say("ended after", f"{time.monotonic() - asked:.2f} s")

    asyncio.run(crowd())


def test_streams_that_end_within_the_grace_period_end_well_and_so_does_the_injector(
    start: Callable[..., Apart], upstream: Upstream, say: Say
) -> None:
    streams = 100
    pair = start("--shutdown-grace", "1h")

    async def crowd() -> None:
        async with connected(pair, streams, lambda _: get("/w/http1/events")) as clients:
            await until("the upstream has them", lambda: upstream.counts["streams"] == streams)
            pair.injector_service.process.terminate()
            upstream.tell(event="last")
            upstream.tell(end=True)
            asked = time.monotonic()
            await until("all are closed", lambda: all(client.closed for client in clients))
            assert all(b"data: last\n\n" in client.received and whole(client.received) for client in clients)
            assert pair.injector_service.ended(2) == 0
            say("ended after", f"{time.monotonic() - asked:.2f} s")

    asyncio.run(crowd())


# The allocator takes addresses for more than it needs, unless it is told to take few at once (in KiB).
FEW = {"MIMALLOC_ARENA_RESERVE": "16384"}
LEFT = 64 * MIB


def ran_out_of_memory(service: Service) -> bool:
    """Whether it ended for want of memory, as it has to: what was allocated so far may not be all that it needs."""
    return service.ended() == -signal.SIGABRT and "memory allocation of" in service.said()


def leaves_no_core(service: Service) -> bool:
    return resource.prlimit(service.pid, resource.RLIMIT_CORE) == (0, 0)


# A body that is read whole before the call goes out, and which never ends.
UNENDED = (
    b"POST /w/skill/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\r\n"
    b'{"a":"' + b"x" * 1_000_000
)


def short_of_memory(pair: Apart, upstream: Upstream, *flags: str, left: int = LEFT) -> None:
    """Starts its injector anew with a server that gets its secret in the body, and little memory left."""
    pair.add_server("w", "skill", upstream.url, ["TOKEN"], authType="AUTH_TYPE_SKILL", requiredSecrets=["TOKEN"])
    assert pair.injector_service.stop() == 0
    pair.start_injector(*flags, **FEW)
    warmed_up(pair)
    pair.injector_service.leave(left)


def test_an_injector_takes_no_more_bodies_than_it_is_told_to_and_refuses_others(
    start: Callable[..., Apart], upstream: Upstream, say: Say
) -> None:
    most, bodies = 16, 600
    pair = start()
    # Beside what is held, hyper reads up to half a megabyte ahead on each connection while a body comes in fast.
    short_of_memory(pair, upstream, "--max-buffered-total", f"{most}MiB", left=bodies * MIB // 2 + 4 * most * MIB)

    def refused(clients: list[Client]) -> int:
        return sum(client.received.startswith(b"HTTP/1.1 503 ") for client in clients)

    async def crowd() -> None:
        loop = asyncio.get_running_loop()
        clients = [(await loop.create_connection(Client, *pair.address))[1] for _ in range(bodies)]
        for client in clients:
            client.send(UNENDED)
        await until("those that are too many are refused", lambda: refused(clients) >= bodies - 2 * most)
        say("refused", f"{refused(clients)} of {bodies} bodies of 1 MB")
        assert refused(clients) < bodies
        assert call(pair)[0] == 200, "what needs no room is served"
        for client in clients:
            client.transport.abort()

    asyncio.run(crowd())
    connection = http.client.HTTPConnection(pair.data_plane, timeout=SECONDS)
    headers = {"content-type": "application/json"}

    def is_served() -> bool:
        connection.request("POST", "/w/skill/", b'{"a":1}', headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status != 503

    eventually("there is room again", is_served)
    assert pair.injector_service.process.poll() is None


def test_an_injector_without_memory_ends_and_calls_nobody_without_a_secret(
    start: Callable[..., Apart], upstream: Upstream, say: Say
) -> None:
    pair = start()
    short_of_memory(pair, upstream)
    injector = pair.injector_service
    assert leaves_no_core(injector)
    most = 10 * LEFT // len(UNENDED)
    answered = 0

    async def crowd() -> None:
        nonlocal answered
        bodies = []
        try:
            while injector.process.poll() is None and len(bodies) < most:
                _, writer = await asyncio.open_connection(*pair.address)
                bodies.append(writer)
                writer.write(UNENDED)
                await asyncio.wait_for(writer.drain(), SECONDS)
                # Calls that have their secrets put in beside them.
                assert call(pair)[0] == 200
                answered += 1
        except OSError:
            pass
        finally:
            for writer in bodies:
                writer.transport.abort()
        say("ended after", f"{len(bodies)} bodies of 1 MB, {answered} calls")

    asyncio.run(crowd())
    assert ran_out_of_memory(injector)
    assert answered > 0
    pair.start_injector()
    warmed_up(pair)


class Puts(asyncio.Protocol):
    """Puts secrets: more than one at once on one connection of an administrator."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.http2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.closed = False
        # What is still to be sent of each, which of them never end, and what was acknowledged.
        self.unsent: dict[int, bytes] = {}
        self.unending: set[int] = set()
        self.names: dict[int, str] = {}
        self.acknowledged: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.http2.initiate_connection()
        self._flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True

    def put(self, name: str, value: str, ends: bool = True) -> None:
        fields = b"".join(_field(at, text.encode()) for at, text in enumerate(("w", name, value), 1))
        stream = self.http2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "https", ":authority": "localhost", "te": "trailers"}
        head |= {":path": "/vault.v1.SecretService/PutSecret", "content-type": "application/grpc"}
        self.http2.send_headers(stream, sorted(head.items()))
        self.names[stream] = name
        message = b"\0" + len(fields).to_bytes(4, "big") + fields
        if not ends:
            self.unending.add(stream)
            message = message[:-1]
        self.unsent[stream] = message
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self.http2.receive_data(data):
            if isinstance(event, DataReceived):
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, ResponseReceived | TrailersReceived) and ("grpc-status", "0") in event.headers:
                self.acknowledged.append(self.names[event.stream_id])
            elif isinstance(event, StreamEnded | StreamReset):
                del self.names[event.stream_id]
                self.unsent.pop(event.stream_id, None)
        self._flush()

    def _flush(self) -> None:
        for stream, unsent in list(self.unsent.items()):
            while unsent and (room := min(self.http2.local_flow_control_window(stream), 16_384)):
                is_last = len(unsent) <= room and stream not in self.unending
                self.http2.send_data(stream, unsent[:room], end_stream=is_last)
                unsent = unsent[room:]
            self.unsent[stream] = unsent
            if not unsent:
                del self.unsent[stream]
        if not self.transport.is_closing():
            self.transport.write(self.http2.data_to_send())


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message."""
    length, left = bytearray(), len(content)
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([number << 3 | 2, *length, left]) + content


def test_a_vault_without_memory_ends_and_has_what_it_acknowledged(
    start: Callable[..., Apart], upstream: Upstream, value: Callable[[], str], say: Say
) -> None:
    connections, at_once, large, most = 40, 60, "y" * 65_000, 500
    pair = start()
    assert pair.vault_service.stop() == 0
    pair.start_vault(**FEW)
    eventually("calls work", lambda: call(pair)[0] == 200)
    vault = pair.vault_service
    assert leaves_no_core(vault)
    vault.leave(LEFT)
    pki = pair.folder / "pki"
    tls = ssl.create_default_context(cafile=pki / "ca.pem")
    tls.load_cert_chain(pki / "admin.pem", pki / "admin-key.pem")
    tls.set_alpn_protocols(["h2"])
    host, _, port = pair.vault.rpartition(":")
    values = {f"S{number}": value() for number in range(most)}
    pair.values += [value.encode() for value in values.values()]
    acknowledged: list[str] = []

    async def crowd() -> None:
        loop = asyncio.get_running_loop()
        wanted = iter(values.items())
        deadline = time.monotonic() + SECONDS

        async def connect() -> Puts:
            _, puts = await loop.create_connection(Puts, host, int(port), ssl=tls, server_hostname="localhost")
            return puts

        small = await connect()
        many: list[Puts] = []
        try:
            while vault.process.poll() is None and not small.closed:
                assert time.monotonic() < deadline, "it still has memory"
                if not small.names and (another := next(wanted, None)):
                    small.put(*another)
                # One more each time, so that some small ones come first.
                if len(many) < connections and len(small.acknowledged) > 5 * len(many):
                    many.append(await connect())
                for number, puts in enumerate(many):
                    # The vault has to keep what never ends, however fast it is.
                    while not puts.closed and len(puts.names) < at_once:
                        puts.put(f"LARGE_{number}", large, ends=False)
                await asyncio.sleep(0.001)
        except OSError:
            pass
        acknowledged.extend(small.acknowledged)
        for puts in [small, *many]:
            puts.transport.abort()

    asyncio.run(crowd())
    assert ran_out_of_memory(vault)
    say("acknowledged before it ended", f"{len(acknowledged)} secrets")
    assert len(acknowledged) >= 5
    assert call(pair)[0] == 503
    pair.start_vault()
    eventually("calls work again", lambda: call(pair)[0] == 200)
    for begin in range(0, len(acknowledged), 50):
        names = acknowledged[begin : begin + 50]
        pair.add_server("w", f"some-{begin}", upstream.url, names, requiredSecrets=names)
        upstream.tell(values=[values[name] for name in names])
        assert call(pair, f"/w/some-{begin}/all")[0] == 200
