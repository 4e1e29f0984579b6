"""gRPC's reference implementation on both sides of the injector: cleartext HTTP/2, the server named by metadata."""

from __future__ import annotations

import hashlib
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from digests import digest
from grpc_server import FAILURE, NO_LIMIT, Answer, Ask, GrpcPeer, Metadata, ProbeServiceStub, failure, grpc_peer
from pair import Pair, eventually

SECONDS = 20
"""The deadline of a call that should not need one."""


@dataclass
class Route:
    """A way to the server: what to connect to, and the metadata that names the server there."""

    stub: ProbeServiceStub
    naming: Sequence[tuple[str, str]]

    def __call__(self, method: str, request: Any, metadata: Metadata | None = None, **options: Any) -> Any:
        options.setdefault("timeout", SECONDS)
        return getattr(self.stub, method)(request, metadata=[*self.naming, *(metadata or [])], **options)

    def start(self, method: str, request: Any, **options: Any) -> Any:
        """A unary call that does not wait for the answer."""
        return getattr(self.stub, method).future(request, metadata=[*self.naming], **options)


@pytest.fixture(scope="module")
def peer() -> Iterator[GrpcPeer]:
    with grpc_peer() as peer:
        yield peer


@pytest.fixture
def connect() -> Iterator[Callable[..., Route]]:
    """Makes channels, and closes them when the test is over."""
    channels: list[grpc.Channel] = []

    def connect(address: str, naming: Sequence[tuple[str, str]] = ()) -> Route:
        channels.append(grpc.insecure_channel(address, options=[*NO_LIMIT, ("grpc.use_local_subchannel_pool", 1)]))
        return Route(ProbeServiceStub(channels[-1]), naming)

    yield connect
    for channel in channels:
        channel.close()


@pytest.fixture(params=["direct", "injector"])
def route(request: pytest.FixtureRequest, peer: GrpcPeer, connect: Callable[..., Route]) -> Route:
    """The answers have to be the same, through the injector as without it."""
    if request.param == "direct":
        return connect(peer.address)
    pair, workspace = request.getfixturevalue("pair"), request.getfixturevalue("workspace")
    pair.add_server(workspace, "probe", f"http://{peer.address}")
    return connect(pair.data_plane, naming(workspace, "probe"))


def naming(workspace: str, server: str) -> Metadata:
    return [("x-aerostack-workspace", workspace), ("x-aerostack-server", server)]


def asks(count: int) -> Iterator[Ask]:
    return (Ask(payload=b"%d" % number) for number in range(count))


def sha256_of(count: int) -> bytes:
    return hashlib.sha256(b"".join(b"%d" % number for number in range(count))).digest()


def test_the_four_kinds_of_call(route: Route) -> None:
    assert route("Unary", Ask(payload=b"one")).payload == b"one"
    assert [answer.payload for answer in route("ServerStream", Ask(payload=b"x", answers=5000))] == [b"x"] * 5000
    assert route("ServerStream", Ask(answers=0)).code() == grpc.StatusCode.OK
    whole = route("ClientStream", asks(5000))
    assert (whole.asks, whole.payload) == (5000, sha256_of(5000))
    assert [answer.asks for answer in route("Bidi", asks(5000))] == list(range(1, 5001))


def test_large_and_compressed_messages(route: Route) -> None:
    large = Ask(payload=bytes(range(256)) * 2**16)
    assert route("Unary", large).payload == large.payload, "16 MiB each way"
    assert route("Unary", large, compression=grpc.Compression.Gzip).payload == large.payload
    assert route("Unary", Ask()).payload == b"", "an empty message"


def test_each_answer_of_a_stream_comes_before_the_next_question(route: Route) -> None:
    answers: list[Answer] = []

    def questions() -> Iterator[Ask]:
        for number in range(20):
            eventually(f"{number} answers", lambda expected=number: len(answers) == expected)
            yield Ask(payload=b"%d" % number)

    for answer in route("Bidi", questions()):
        answers.append(answer)
    assert len(answers) == 20


def test_the_server_may_end_a_call_that_the_client_has_not_finished(route: Route) -> None:
    def questions() -> Iterator[Ask]:
        yield Ask(payload=b"a")
        yield Ask(payload=b"b", enough=True)
        yield from itertools.repeat(Ask(payload=b"c" * 1024))

    assert route("ClientStream", questions()).asks == 2
    answers = route("Bidi", questions())
    assert [answer.payload for answer in answers] == [b"a", b"b"]
    assert answers.code() == grpc.StatusCode.OK


def by_name(metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """Sorted by name, the values of one name in their order."""
    return sorted(metadata, key=lambda pair: pair[0])


METADATA = by_name(
    [
        ("echo-text", "some text, with  spaces; and = signs"),
        ("echo-twice", "first"),
        ("echo-twice", "second"),
        ("echo-zero-bin", b""),
        ("echo-one-bin", b"\x00"),
        ("echo-two-bin", b"\xff\xfe"),
        ("echo-three-bin", b"\r\n\x00"),
        ("echo-all-bin", bytes(range(256))),
    ]
)


@pytest.mark.parametrize("fail", [False, True], ids=["ok", "error"])
def test_metadata_arrives_at_the_server_and_comes_back_in_headers_and_trailers(route: Route, fail: bool) -> None:
    call = route("ServerStream", Ask(answers=1, fail=fail), METADATA)
    headers = [(name, value) for name, value in call.initial_metadata() if name.startswith("echo-")]
    assert by_name(headers) == METADATA
    answers = []
    try:
        answers.extend(call)
    except grpc.RpcError as error:
        assert fail and error.code() == grpc.StatusCode.OUT_OF_RANGE
    assert len(answers) == 1
    trailers = [(name.removeprefix("trailing-"), value) for name, value in call.trailing_metadata()]
    assert by_name(pair for pair in trailers if pair[0].startswith("echo-")) == METADATA
    assert not [name for name in answers[0].metadata if name.startswith("x-aerostack-")], "those are the injector's own"


@pytest.mark.parametrize(
    "method, request_, before",
    [
        ("Unary", Ask(fail=True), 0),
        ("ServerStream", Ask(answers=3, fail=True), 3),
        ("ClientStream", [Ask(), Ask(fail=True)], 0),
        ("Bidi", [Ask(), Ask(fail=True)], 2),
    ],
    ids=["Unary", "ServerStream", "ClientStream", "Bidi"],
)
def test_an_error_keeps_its_code_its_message_and_its_details(
    route: Route, method: str, request_: Any, before: int
) -> None:
    answers = []
    with pytest.raises(grpc.RpcError) as raised:
        call = route(method, iter(request_) if isinstance(request_, list) else request_)
        for answer in call:
            answers.append(answer)
    assert len(answers) == before
    error = raised.value
    assert (error.code(), error.details()) == (grpc.StatusCode.OUT_OF_RANGE, FAILURE)
    status = rpc_status.from_call(error)
    assert status == failure()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info) and info.metadata["limit"] == "100 %"


def test_the_server_sees_the_deadline(route: Route) -> None:
    # grpcio rounds up what it sends: 10 s go out as 10.1.
    assert 9 < route("Unary", Ask(), timeout=10).seconds_left < 10.2
    assert 3590 < route("Unary", Ask(), timeout=3600).seconds_left < 3700
    assert route("Unary", Ask(), timeout=None).seconds_left == 0, "none when the client set none"


@pytest.mark.parametrize("method", ["Unary", "ServerStream"])
def test_a_call_past_its_deadline_ends_on_both_sides(route: Route, peer: GrpcPeer, method: str) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as raised:
        list(route(method, Ask(hang=True, answers=1), timeout=1))
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 3
    assert peer.calls.hanging.acquire(timeout=5), "the call did reach the server"
    assert peer.calls.over.acquire(timeout=5), "the server learns that the call is over"


def test_a_cancellation_reaches_the_server(route: Route, peer: GrpcPeer) -> None:
    waiting = route.start("Unary", Ask(hang=True), timeout=SECONDS)
    assert peer.calls.hanging.acquire(timeout=5)
    waiting.cancel()
    assert peer.calls.over.acquire(timeout=5), "of a call that has no answer yet"

    stream = route("ServerStream", Ask(answers=2, hang=True))
    assert [next(stream).asks, next(stream).asks] == [1, 1]
    assert peer.calls.hanging.acquire(timeout=5)
    stream.cancel()
    assert peer.calls.over.acquire(timeout=5), "of a stream that has answered"

    talk = route("Bidi", iter([Ask(hang=True)]))
    next(talk)
    assert peer.calls.hanging.acquire(timeout=5)
    talk.cancel()
    assert peer.calls.over.acquire(timeout=5), "of a stream whose client had finished"


def secrets_of(answer: Answer) -> list[tuple[str, str]]:
    return [(secret.name, secret.sha256) for secret in answer.secrets]


def test_the_secret_is_metadata_in_every_kind_of_call(
    pair: Pair, workspace: str, value: Callable[[], str], peer: GrpcPeer, connect: Callable[..., Route]
) -> None:
    secret = value()
    pair.put_secret(workspace, "api.token", secret)
    pair.put_secret(workspace, "nobodys", value())
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["API_TOKEN"])
    route = connect(pair.data_plane, naming(workspace, "probe"))
    expected = [("x-mcp-secret-api-token", digest(secret))]

    assert secrets_of(route("Unary", Ask())) == expected
    assert [secrets_of(answer) for answer in route("ServerStream", Ask(answers=2))] == [expected, expected]
    assert secrets_of(route("ClientStream", asks(2))) == expected
    assert [secrets_of(answer) for answer in route("Bidi", asks(2))] == [expected, expected]


def test_a_secret_in_binary_metadata(pair: Pair, workspace: str, peer: GrpcPeer, connect: Callable[..., Route]) -> None:
    secret = bytes(range(255, -1, -1))
    pair.put_secret(workspace, "signing-key-bin", secret)
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["SIGNING_KEY_BIN"])
    route = connect(pair.data_plane, naming(workspace, "probe"))
    assert secrets_of(route("Unary", Ask())) == [("x-mcp-secret-signing-key-bin", digest(secret))]


def asked_of(*answers: Answer) -> list[list[tuple[str, str]]]:
    return [[(secret.name, secret.sha256) for secret in ask.secrets] for answer in answers for ask in answer.asked]


@pytest.mark.parametrize("every_message", [False, True], ids=["first", "all"])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate], ids=str)
def test_the_secret_is_in_the_messages_of_every_kind_of_call(
    pair: Pair,
    workspace: str,
    value: Callable[[], str],
    peer: GrpcPeer,
    connect: Callable[..., Route],
    every_message: bool,
    compression: grpc.Compression | None,
) -> None:
    secret = value()
    pair.put_secret(workspace, "TOKEN", secret)
    field = {"authType": "AUTH_TYPE_SKILL", "protobufSecretsField": 7, "grpcMethods": ["peers.v1.ProbeService/*"]}
    messages = {"protobufMessages": "PROTOBUF_MESSAGES_ALL"} if every_message else {}
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["TOKEN"], **field, **messages)
    route = connect(pair.data_plane, naming(workspace, "probe"))
    forged = Ask(payload=b"x" * 10_000, answers=2, secrets={"TOKEN": "forged", "OTHER": "forged"})
    assert asked_of(connect(peer.address)("Unary", forged)) == [
        [("OTHER", digest("forged")), ("TOKEN", digest("forged"))]
    ], "it is sent"

    ours = [("TOKEN", digest(secret))]
    later = ours if every_message else []
    options = {"compression": compression}
    answer = route("Unary", forged, **options)
    assert (asked_of(answer), answer.payload) == ([ours], forged.payload)
    assert secrets_of(answer) == [], "and not in the metadata"
    assert asked_of(*route("ServerStream", forged, **options)) == [ours, ours]
    assert asked_of(route("ClientStream", iter([forged] * 3), **options)) == [[*ours], later, later]
    assert asked_of(*route("Bidi", iter([forged] * 3), **options)) == [[*ours], later, later]


def test_a_message_that_is_too_large_for_a_secret_is_refused(
    pair: Pair, workspace: str, value: Callable[[], str], peer: GrpcPeer, connect: Callable[..., Route]
) -> None:
    pair.put_secret(workspace, "TOKEN", value())
    field = {"authType": "AUTH_TYPE_SKILL", "protobufSecretsField": 7, "grpcMethods": ["peers.v1.ProbeService/*"]}
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["TOKEN"], **field)
    route = connect(pair.data_plane, naming(workspace, "probe"))
    large = Ask(payload=bytes(5 * 2**20))
    for asks in [[large], [Ask(), large]]:
        for compression in [None, grpc.Compression.Gzip]:
            with pytest.raises(grpc.RpcError) as raised:
                list(route("Bidi", iter(asks), compression=compression))
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(raised.value.trailing_metadata())["x-aerostack-reason"] == "LIMIT_EXCEEDED"


def test_a_rotation_and_a_deletion_hold_from_the_next_call_on(
    pair: Pair, workspace: str, value: Callable[[], str], peer: GrpcPeer, connect: Callable[..., Route]
) -> None:
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["TOKEN"])
    route = connect(pair.data_plane, naming(workspace, "probe"))
    assert secrets_of(route("Unary", Ask())) == []
    for _ in range(3):
        secret = value()
        pair.put_secret(workspace, "TOKEN", secret)
        assert secrets_of(route("Unary", Ask())) == [("x-mcp-secret-token", digest(secret))]
    pair.delete_secret(workspace, "TOKEN")
    assert secrets_of(route("Unary", Ask())) == []


@pytest.mark.parametrize(
    "spelling", ["x-mcp-secret-token", "x_mcp_secret_token", "x-mcp-secret.token", "x-mcp-secret-other"]
)
def test_a_secret_that_the_client_sends_itself_is_dropped(
    pair: Pair, workspace: str, value: Callable[[], str], peer: GrpcPeer, connect: Callable[..., Route], spelling: str
) -> None:
    secret = value()
    pair.put_secret(workspace, "TOKEN", secret)
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["TOKEN"])
    forged = [(spelling, "forged")]
    assert secrets_of(connect(peer.address)("Unary", Ask(), forged)) == [(spelling, digest("forged"))], "it is sent"

    route = connect(pair.data_plane, naming(workspace, "probe"))
    assert secrets_of(route("Unary", Ask(), forged)) == [("x-mcp-secret-token", digest(secret))]
    pair.delete_secret(workspace, "TOKEN")
    assert secrets_of(route("Unary", Ask(), forged)) == []


def test_a_bearer_token_replaces_the_one_that_the_client_sends(
    pair: Pair, workspace: str, value: Callable[[], str], peer: GrpcPeer, connect: Callable[..., Route]
) -> None:
    secret = value()
    pair.put_secret(workspace, "TOKEN", secret)
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["TOKEN"], authType="AUTH_TYPE_BEARER")
    route = connect(pair.data_plane, naming(workspace, "probe"))
    forged = [("authorization", "Bearer forged")]
    assert secrets_of(route("Unary", Ask(), forged)) == [("authorization", digest(f"Bearer {secret}"))]
    pair.delete_secret(workspace, "TOKEN")
    assert secrets_of(route("Unary", Ask(), forged)) == [], "also when there is none to replace it by"


def test_a_required_secret_that_is_missing_fails_the_call(
    pair: Pair, workspace: str, peer: GrpcPeer, connect: Callable[..., Route]
) -> None:
    pair.add_server(workspace, "probe", f"http://{peer.address}", ["TOKEN"], requiredSecrets=["TOKEN"])
    with pytest.raises(grpc.RpcError) as raised:
        connect(pair.data_plane, naming(workspace, "probe"))("Unary", Ask())
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert dict(raised.value.trailing_metadata())["x-aerostack-reason"] == "SECRET_REQUIRED_MISSING"


def test_a_server_that_is_down_is_unavailable(pair: Pair, workspace: str, connect: Callable[..., Route]) -> None:
    with grpc_peer() as gone:
        pair.add_server(workspace, "gone", f"http://{gone.address}")
    with pytest.raises(grpc.RpcError) as raised:
        connect(pair.data_plane, naming(workspace, "gone"))("Unary", Ask())
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "metadata, code",
    [
        ([("x-aerostack-workspace", "WORKSPACE"), ("x-aerostack-server", "nobody")], grpc.StatusCode.NOT_FOUND),
        ([("x-aerostack-workspace", "no-such"), ("x-aerostack-server", "nobody")], grpc.StatusCode.NOT_FOUND),
        ([("x-aerostack-workspace", "WORKSPACE")], grpc.StatusCode.INVALID_ARGUMENT),
        (
            [("x-aerostack-workspace", "WORKSPACE"), ("x-aerostack-server", "a"), ("x-aerostack-server", "b")],
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
    ids=["no such server", "no such workspace", "half a name", "two names"],
)
def test_a_server_that_is_not_known_or_not_named_is_refused_in_trailers_alone(
    pair: Pair, workspace: str, connect: Callable[..., Route], metadata: Metadata, code: grpc.StatusCode
) -> None:
    named = [(name, workspace if value == "WORKSPACE" else value) for name, value in metadata]
    with pytest.raises(grpc.RpcError) as raised:
        connect(pair.data_plane, named)("Unary", Ask())
    assert raised.value.code() == code

    headers, ended = first_headers(pair.data_plane, "/peers.v1.ProbeService/Unary", named)
    assert ended, "the headers are the whole answer"
    assert headers[":status"] == "200"
    assert headers["content-type"].startswith("application/grpc")
    assert headers["grpc-status"] == str(code.value[0])
    assert headers["x-aerostack-reason"]


def first_headers(address: str, path: str, metadata: Metadata) -> tuple[dict[str, str], bool]:
    """The first headers that answer a gRPC call with an empty message, and whether they end the answer."""
    host, _, port = address.rpartition(":")
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":authority", address), (":path", path)]
    connection.send_headers(1, [*head, ("te", "trailers"), ("content-type", "application/grpc"), *metadata])
    connection.send_data(1, bytes(5), end_stream=True)
    with socket.create_connection((host, int(port)), timeout=SECONDS) as wire:
        wire.sendall(connection.data_to_send())
        while received := wire.recv(65536):
            for event in connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    return dict(event.headers), event.stream_ended is not None
            wire.sendall(connection.data_to_send())
    raise AssertionError("the connection ended before an answer")
