"""`injector-service webhook` as a process of its own, and reviews that are posted to it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pair import BINARY, eventually

SECONDS = 20
INJECTOR = BINARY.with_name("injector-service")

VAULT = {
    "--image": "registry.example.org/aerostack/injector:test",
    "--vault": "aerostack-vault.aerostack.svc:7150",
    "--vault-id": "spiffe://aerostack/vault",
}


class Webhook:
    def __init__(self, process: subprocess.Popen[bytes], log: Path, address: str, probes: str) -> None:
        self.process = process
        self.log = log
        self.address = address
        self.probes = probes

    def get(self, path: str) -> tuple[int, str]:
        """Asks one of the probes."""
        connection = http.client.HTTPConnection(self.probes, timeout=SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def connect(self, ca: Path | str, name: str) -> http.client.HTTPSConnection:
        """A connection of a client that trusts `ca`, a file or a PEM text, and expects this name."""
        trusted = {"cafile": ca} if isinstance(ca, Path) else {"cadata": ca}
        return NamedConnection(self.address, name, ssl.create_default_context(**trusted))

    def review(self, ca: Path | str, review: Any, name: str = "localhost") -> dict[str, Any]:
        """What the webhook answers to a review."""
        code, body = self.post(ca, json.dumps(review).encode(), name)
        assert code == 200, body
        return json.loads(body)["response"]

    def post(self, ca: Path | str, body: bytes, name: str = "localhost", path: str = "/mutate") -> tuple[int, str]:
        connection = self.connect(ca, name)
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


class NamedConnection(http.client.HTTPSConnection):
    """Dials one address, and verifies that the server has another name, as an API server does for a Service."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        super().__init__(address, timeout=SECONDS, context=context)
        self.name = name
        self.tls = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self.tls.wrap_socket(self.sock, server_hostname=self.name)


def patch_of(response: Mapping[str, Any]) -> list[Any]:
    assert response["patchType"] == "JSONPatch"
    return json.loads(base64.b64decode(response["patch"]))


@contextmanager
def webhook(
    log: Path, arguments: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> Iterator[Webhook]:
    """Starts a webhook on free ports, and ends it as Kubernetes does."""
    assert INJECTOR.exists(), f"{INJECTOR} is not there: cargo build --release -p injector-service"
    fixed = [argument for pair in VAULT.items() for argument in pair]
    ports = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--shutdown-delay", "0ms"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [INJECTOR, "webhook", *ports, *fixed, *arguments],
            env={"PATH": os.environ["PATH"], **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def addresses() -> re.Match[str] | None:
        assert process.poll() is None, f"the webhook ended with {process.returncode}:\n{log.read_text()}"
        return re.search(r"webhook is serving address=(\S+) metrics=(\S+)", log.read_text())

    try:
        found = eventually("the addresses in the log", addresses)
        yield Webhook(process, log, found[1], found[2])
    finally:
        process.terminate()
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert code == 0, f"the webhook ended with {code}:\n{log.read_text()}"
