"""A gRPC server with grpcio that tells what reached it: of a secret only the SHA-256 digest."""

from __future__ import annotations

import hashlib
import importlib
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

from digests import digest, is_secret_header

NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

FAILURE = "größer als 100 % — genug"
"""Not ASCII, and with the character that `grpc-message` escapes by."""

Metadata = list[tuple[str, str | bytes]]


def _compile() -> None:
    """Generates `probe_pb2` and `probe_pb2_grpc`, and loads them."""
    with tempfile.TemporaryDirectory(prefix="probe-") as out:
        here = Path(__file__).parent
        assert protoc.main(["", f"-I{here}", f"--python_out={out}", f"--grpc_python_out={out}", "probe.proto"]) == 0
        sys.path.insert(0, out)
        importlib.import_module("probe_pb2_grpc")
        sys.path.remove(out)


_compile()
from probe_pb2 import Answer, Ask, Asked, Digest  # noqa: E402
from probe_pb2_grpc import ProbeServiceServicer, ProbeServiceStub, add_ProbeServiceServicer_to_server  # noqa: E402


def _answer(context: grpc.ServicerContext, **fields: object) -> Answer:
    metadata: Metadata = list(context.invocation_metadata())
    left = context.time_remaining()
    return Answer(
        secrets=[
            Digest(name=name, sha256=digest(value))
            for name, value in metadata
            if is_secret_header(name) or name == "authorization"
        ],
        # Without a deadline, grpcio says so by a span of centuries.
        seconds_left=left if left is not None and left < 1e6 else 0,
        metadata=[name for name, _ in metadata],
        **fields,
    )


def _asked(*asks: Ask) -> list[Asked]:
    return [
        Asked(secrets=[Digest(name=name, sha256=digest(value)) for name, value in sorted(ask.secrets.items())])
        for ask in asks
    ]


def _echoed(context: grpc.ServicerContext) -> Metadata:
    return [(name, value) for name, value in context.invocation_metadata() if name.startswith("echo-")]


def _details() -> list[any_pb2.Any]:
    details = []
    for each in (
        error_details_pb2.ErrorInfo(reason="TOO_MUCH", domain="peers", metadata={"limit": "100 %"}),
        error_details_pb2.BadRequest(field_violations=[{"field": "payload", "description": "größer"}]),
    ):
        packed = any_pb2.Any()
        packed.Pack(each)
        details.append(packed)
    return details


def failure() -> status_pb2.Status:
    """The status that a call with `fail` ends with."""
    return status_pb2.Status(code=code_pb2.OUT_OF_RANGE, message=FAILURE, details=_details())


@dataclass
class Calls:
    """What became of the calls that were told to hang."""

    hanging: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    over: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class _Probe(ProbeServiceServicer):
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def _begin(self, context: grpc.ServicerContext) -> None:
        """Sends back what came under `echo-`, with the headers and again with the trailers."""
        echoed = _echoed(context)
        context.send_initial_metadata(echoed)
        context.set_trailing_metadata([(f"trailing-{name}", value) for name, value in echoed])

    def _maybe_end(self, ask: Ask, context: grpc.ServicerContext) -> None:
        if ask.fail:
            # Keeps the trailing metadata that was set before, unlike `abort_with_status`.
            status = rpc_status.to_status(failure())
            context.set_trailing_metadata([*context.trailing_metadata(), *status.trailing_metadata])
            context.abort(status.code, status.details)
        if ask.hang:
            over = threading.Event()
            assert context.add_callback(over.set)
            self.calls.hanging.release()
            over.wait()
            self.calls.over.release()

    def Unary(self, request: Ask, context: grpc.ServicerContext) -> Answer:
        self._begin(context)
        self._maybe_end(request, context)
        return _answer(context, payload=request.payload, asks=1, asked=_asked(request))

    def ServerStream(self, request: Ask, context: grpc.ServicerContext) -> Iterator[Answer]:
        self._begin(context)
        for _ in range(request.answers):
            yield _answer(context, payload=request.payload, asks=1, asked=_asked(request))
        self._maybe_end(request, context)

    def ClientStream(self, request_iterator: Iterable[Ask], context: grpc.ServicerContext) -> Answer:
        self._begin(context)
        whole = hashlib.sha256()
        asks = 0
        asked = []
        for ask in request_iterator:
            asks += 1
            asked += _asked(ask)
            whole.update(ask.payload)
            if ask.enough:
                break
            self._maybe_end(ask, context)
        return _answer(context, payload=whole.digest(), asks=asks, asked=asked)

    def Bidi(self, request_iterator: Iterable[Ask], context: grpc.ServicerContext) -> Iterator[Answer]:
        self._begin(context)
        for asks, ask in enumerate(request_iterator, start=1):
            yield _answer(context, payload=ask.payload, asks=asks, asked=_asked(ask))
            if ask.enough:
                return
            self._maybe_end(ask, context)


@dataclass
class GrpcPeer:
    """A running server."""

    address: str
    calls: Calls


@contextmanager
def grpc_peer(*interceptors: grpc.ServerInterceptor) -> Iterator[GrpcPeer]:
    """A server on a free port of loopback, in cleartext."""
    calls = Calls()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=NO_LIMIT, interceptors=interceptors)
    add_ProbeServiceServicer_to_server(_Probe(calls), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield GrpcPeer(f"127.0.0.1:{port}", calls)
    finally:
        assert server.stop(grace=1).wait(timeout=10), "the gRPC server does not end"
