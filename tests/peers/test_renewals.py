"""Certificates that are renewed every five seconds while programs call. The test works little and waits long, so it runs beside other
files (`.ci/peers` runs two at a time)."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from apart import Apart, certificates
from leaf import renew
from pair import eventually

SECONDS = 120
INTERVAL = 5
PROGRAMS = 4
VALUE = "value-that-the-upstream-demands"


class Upstream(ThreadingHTTPServer):
    """Answers with the digest of the credential."""

    daemon_threads = True

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                content = digest(self.headers.get("x-api-key", ""))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def digest(value: str) -> bytes:
    return hashlib.sha256(value.encode()).hexdigest().encode()


def presented(address: str) -> bytes:
    """The certificate that a listener presents."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as plain, context.wrap_socket(plain) as connection:
        return connection.getpeercert(True) or b""


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    pair = Apart.run(tmp_path / "pair", certificates(tmp_path / "dev"))
    try:
        yield pair
    finally:
        code = pair.stop()
    assert code == 0


class Program:
    """Calls again and again on one connection, with a short rest, and counts the answers."""

    def __init__(self, pair: Apart, over: threading.Event) -> None:
        self.answers: Counter[str] = Counter()
        self.thread = threading.Thread(target=self.run, args=(pair, over))
        self.thread.start()

    def run(self, pair: Apart, over: threading.Event) -> None:
        connection = http.client.HTTPConnection(*pair.address, timeout=20)
        while not over.wait(0.01):
            try:
                connection.request("GET", "/shop/upstream/")
                answer = connection.getresponse()
                body = answer.read()
                self.answers["good" if body == digest(VALUE) else f"{answer.status} {body[:200]!r}"] += 1
            except (OSError, http.client.HTTPException) as error:
                self.answers[repr(error)] += 1
                connection.close()
        connection.close()


@pytest.mark.timeout(300)
def test_two_minutes_of_renewals_under_load_fail_no_call(apart: Apart) -> None:
    upstream = Upstream()
    apart.create_workspace("shop")
    apart.put_secret("shop", "KEY", VALUE)
    inject = {"header": {"name": "x-api-key", "value": "${KEY}"}}
    apart.add_server("shop", "upstream", f"http://127.0.0.1:{upstream.server_port}", injections=[inject])
    over = threading.Event()
    programs = [Program(apart, over) for _ in range(PROGRAMS)]
    renewals = 0
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            before = presented(apart.vault), presented(apart.injector)
            counted = [program.answers.total() for program in programs]
            begun = time.monotonic()
            for name in ("vault", "injector"):
                renew(apart.folder / "pki", name)
            eventually("the vault presents the new one", lambda: presented(apart.vault) != before[0])
            eventually("the injector presents the new one", lambda: presented(apart.injector) != before[1])
            renewals += 1
            over.wait(max(0.0, begun + INTERVAL - time.monotonic()))
            for program, count in zip(programs, counted, strict=True):
                assert program.answers.total() > count, "a program waits"
    finally:
        over.set()
        for program in programs:
            program.thread.join()
        upstream.shutdown()
    answers = sum((program.answers for program in programs), Counter())
    assert renewals >= SECONDS // INTERVAL - 2
    assert set(answers) == {"good"} and answers["good"] > 1000, answers
    assert apart.values_in_log() == 0
