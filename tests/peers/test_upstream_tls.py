"""Upstreams whose TLS is OpenSSL's, with certificates that OpenSSL made: what curl accepts the injector accepts, and what
goes wrong is said by its kind."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from digests import digest
from pair import Pair, eventually

SECONDS = 20
KEYS = {
    "RSA": ["-newkey", "rsa:2048"],
    "P-256": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "P-384": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "P-521": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"],
    "Ed25519": ["-newkey", "ed25519"],
}
SIGNED = [(key, hash) for key in KEYS if key != "Ed25519" for hash in ("-sha256", "-sha384", "-sha512")]
ADDRESS = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]


def openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


def self_signed(folder: Path, *how: str) -> tuple[Path, Path]:
    """A certificate and its key, as `openssl req -x509` makes them."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    openssl("req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost", *how, "-out", cert, "-keyout", key)
    return cert, key


def by_a_ca(folder: Path, key: str, hash: str) -> tuple[Path, Path, Path]:
    """A CA with this kind of key, and a certificate of it with another such key."""
    ca, ca_key, request, extensions = (folder / name for name in ("ca.pem", "ca-key.pem", "request.pem", "ext"))
    cert, cert_key = folder / "cert.pem", folder / "key.pem"
    days = ["-days", "30"]
    openssl("req", "-x509", "-nodes", *days, "-subj", "/CN=CA", *KEYS[key], hash, "-out", ca, "-keyout", ca_key)
    openssl("req", "-nodes", "-subj", "/CN=localhost", *KEYS[key], hash, "-out", request, "-keyout", cert_key)
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    signed = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", extensions, hash]
    openssl("x509", "-req", "-in", request, *days, *signed, "-out", cert)
    return ca, cert, cert_key


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        seen = digest((self.headers.get("x-mcp-secret-token") or "").encode())
        self.send_response(200)
        self.send_header("content-length", str(len(seen)))
        self.end_headers()
        self.wfile.write(seen.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def upstream(
    cert: Path, key: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, clients: Path | None = None
) -> Iterator[str]:
    """`clients` has the CA of the client certificates without which it lets nobody in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.minimum_version = context.maximum_version = version
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    with serving(context) as url:
        yield url


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[str]:
    class Server(ThreadingHTTPServer):
        def get_request(self) -> tuple[socket.socket, object]:
            accepted, address = super().get_request()
            return context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def curl(url: str, ca: Path) -> int:
    command = ["curl", "--silent", "--noproxy", "*", "--max-time", "10", "--cacert", str(ca), url]
    return subprocess.run(command, capture_output=True, timeout=SECONDS).returncode


def get(pair: Pair, workspace: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(pair.data_plane, timeout=SECONDS)
    try:
        connection.request("GET", f"/{workspace}/api/")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def injects(pair: Pair, workspace: str, value: Callable[[], str]) -> Callable[..., None]:
    """Calls an upstream through the injector, and checks that the secret arrived."""
    token = value()
    pair.put_secret(workspace, "TOKEN", token)

    def call(url: str, ca: Path) -> None:
        pair.add_server(workspace, "api", url, ["TOKEN"], tls={"caPem": ca.read_text()})
        assert get(pair, workspace) == (200, digest(token.encode()))

    return call


def versions(key: str) -> list[ssl.TLSVersion]:
    # In TLS 1.2 a server uses a P-521 key only for clients that also exchange keys with P-521, which ours does not.
    return [ssl.TLSVersion.TLSv1_3] + [ssl.TLSVersion.TLSv1_2] * (key != "P-521")


@pytest.mark.parametrize(
    ("key", "hash", "version"),
    [(key, hash, version) for key, hash in [*SIGNED, ("Ed25519", "")] for version in versions(key)],
)
def test_a_pinned_certificate_of_openssl_is_accepted(
    injects: Callable[..., None], tmp_path: Path, key: str, hash: str, version: ssl.TLSVersion
) -> None:
    cert, private = self_signed(tmp_path, *KEYS[key], *filter(None, [hash]), *ADDRESS)
    with upstream(cert, private, version) as url:
        assert curl(url, cert) == 0
        injects(url, cert)


@pytest.mark.parametrize(("key", "hash"), SIGNED)
def test_a_ca_of_openssl_is_accepted(
    injects: Callable[..., None], tmp_path: Path, key: str, hash: str
) -> None:
    ca, cert, private = by_a_ca(tmp_path, key, hash)
    with upstream(cert, private) as url:
        assert curl(url, ca) == 0
        injects(url, ca)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("key", ["RSA", "P-256", "P-384"])
def test_a_client_certificate_comes_from_the_vault(
    pair: Pair, workspace: str, tmp_path: Path, key: str, version: ssl.TLSVersion
) -> None:
    ca, cert, private = by_a_ca(tmp_path, key, "-sha256")
    with upstream(cert, private, version, clients=ca) as url:
        tls = {"caPem": ca.read_text(), "clientCertSecret": "CLIENT"}
        pair.add_server(workspace, "api", url, [], tls=tls)
        assert get(pair, workspace)[0] == 502
        pair.put_secret(workspace, "CLIENT", cert.read_text() + private.read_text())
        assert get(pair, workspace)[0] == 200


def fault(pair: Pair, workspace: str, url: str, ca: Path) -> tuple[str, str, str]:
    """The reason and the detail of an answer, and what the log says of it."""
    pair.add_server(workspace, "api", url, [], tls={"caPem": ca.read_text()})
    status, text = get(pair, workspace)
    assert status == 502, text
    problem = json.loads(text)
    address = url.removeprefix("https://")

    def line() -> str | None:
        lines = pair.log.read_text().splitlines()
        return next((line for line in lines if "the TLS of an upstream failed" in line and address in line), None)

    return problem["reason"], problem["detail"], eventually("the log names the address", line)


def test_each_kind_of_fault_has_its_own_reason_and_the_log_says_what_was_presented(
    pair: Pair, workspace: str, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "other", "name")]
    for folder in folders:
        folder.mkdir()
    one, other, name = folders
    pinned, _ = self_signed(one, *KEYS["P-256"], *ADDRESS)
    cert, key = self_signed(other, *KEYS["P-256"], *ADDRESS)
    with upstream(cert, key) as url:
        reason, detail, line = fault(pair, workspace, url, pinned)
    assert reason == "UPSTREAM_CERTIFICATE_UNTRUSTED" and "no CA that is trusted" in detail
    assert "CN=localhost" in line and "IP 127.0.0.1" in line and url.removeprefix("https://") in line
    pair.call(pair.injector, "injector.v1.ServerService/RemoveServer", {"workspace": workspace, "name": "api"})

    ca, cert, key = by_a_ca(name, "P-256", "-sha256")
    with upstream(cert, key) as url:
        renamed = {"caPem": ca.read_text(), "serverName": "other.example"}
        pair.add_server(workspace, "api", url, [], tls=renamed)
        status, text = get(pair, workspace)
    assert status == 502 and json.loads(text)["reason"] == "UPSTREAM_CERTIFICATE_NAME_MISMATCH", text
    pair.call(pair.injector, "injector.v1.ServerService/RemoveServer", {"workspace": workspace, "name": "api"})

    plain = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    try:
        reason, detail, _ = fault(pair, workspace, f"https://127.0.0.1:{plain.server_port}", ca)
    finally:
        plain.shutdown()
        plain.server_close()
    assert reason == "UPSTREAM_NOT_TLS" and "does not speak TLS" in detail
