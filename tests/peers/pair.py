"""The pair under test: both services as `aerostack dev` starts them, in a folder of their own, and grpcurl to
administer them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("PEERS_BINARY", REPOSITORY / "target" / "release" / "aerostack"))

# Set by `.ci/soak`: the long rounds of tests that otherwise take fewer.
SOAK = bool(os.environ.get("PEERS_SOAK"))

START_SECONDS = 30
STOP_SECONDS = 20
CALL_SECONDS = 10

Answer = TypeVar("Answer")


def eventually(what: str, probe: Callable[[], Answer | None], seconds: float = 10) -> Answer:
    """What `probe` answers, once it answers something true. Fails after `seconds` and says what it waited for."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)
    return answer


class Refused(Exception):
    """A gRPC error, as grpcurl reports it. `code` is a number of `google.rpc.Code`."""

    def __init__(self, call: str, code: int, output: str) -> None:
        super().__init__(f"{call}: {output.strip()}")
        self.code = code


def call(pki: Path, address: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
    """One call by grpcurl, as the admin, with nothing but reflection to go by. Raises `Refused`."""
    grpcurl = shutil.which("grpcurl")
    assert grpcurl, "grpcurl is not on the PATH: pip install -r requirements.txt"
    done = subprocess.run(
        [
            *(grpcurl, "-max-time", str(CALL_SECONDS)),
            *("-cacert", str(pki / "ca.pem"), "-cert", str(pki / "admin.pem"), "-key", str(pki / "admin-key.pem")),
            *("-d", "@", address, method),
        ],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=3 * CALL_SECONDS,
    )
    # grpcurl exits with 64 and the gRPC code.
    if done.returncode > 64:
        raise Refused(method, done.returncode - 64, done.stderr.decode())
    assert done.returncode == 0, f"{method}: grpcurl ended with {done.returncode}: {done.stderr.decode()}"
    return json.loads(done.stdout or "{}")


class Pair:
    """Both services, ready to be called. Its creator stops it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], log: Path, ports: dict[str, str]) -> None:
        self.folder = folder
        self.process = process
        self.log = log
        self.vault = ports["vault"]
        self.injector = ports["injector"]
        self.data_plane = ports["data_plane"]
        self.values: list[bytes] = []

    @classmethod
    def start(cls, folder: Path, under: Sequence[str] = (), ports: Mapping[str, int] | None = None) -> Pair:
        """Starts the pair on free ports, or on given ones. `under` is a command to run it under, which has to keep its process
        id."""
        assert BINARY.exists(), f"{BINARY} is not there: cargo build --release -p aerostack"
        log = folder.with_suffix(".log")
        wanted = ports or dict.fromkeys(("vault", "injector", "data-plane"), 0)
        addresses = [
            argument for name, port in wanted.items() for argument in (f"--{name}-addr", f"127.0.0.1:{port}")
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*under, str(BINARY), "dev", "--no-console", "--dir", str(folder), *addresses],
                cwd=folder.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def found() -> dict[str, str] | None:
            assert process.poll() is None, f"aerostack dev ended with {process.returncode}:\n{log.read_text()}"
            try:
                return json.loads((folder / "ports.json").read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                return None

        try:
            return cls(folder, process, log, eventually("ports.json of aerostack dev", found, START_SECONDS))
        except BaseException:
            process.kill()
            process.wait()
            raise

    def stop(self) -> int:
        """Asks both services to end, as a supervisor does, and answers the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def values_in_log(self) -> int:
        """How many of the values put so far stand in what the services printed, as they are or in base64."""
        printed = self.log.read_bytes()
        return sum(value in printed or base64.b64encode(value) in printed for value in self.values)

    def call(self, address: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
        return call(self.folder / "pki", address, method, request)

    def create_workspace(self, name: str) -> None:
        self.call(self.vault, "vault.v1.WorkspaceService/CreateWorkspace", {"workspace": {"name": name}})

    def put_secret(self, workspace: str, name: str, value: str | bytes, **more: Any) -> dict[str, Any]:
        """Makes a secret, or replaces its value: text from a `str`, data from `bytes`. `more` are other fields of the request, as
        JSON spells them."""
        if isinstance(value, str):
            field, raw = {"text": value}, value.encode()
        else:
            field, raw = {"data": base64.b64encode(value).decode()}, value
        # A short one may stand in a log by chance.
        if len(raw) >= 12:
            self.values.append(raw)
        put = {"workspace": workspace, "name": name, **field, **more}
        return self.call(self.vault, "vault.v1.SecretService/PutSecret", put)

    def delete_secret(self, workspace: str, name: str) -> None:
        self.call(self.vault, "vault.v1.SecretService/DeleteSecret", {"workspace": workspace, "name": name})

    def add_server(self, workspace: str, name: str, url: str, secrets: Sequence[str] = (), **more: Any) -> None:
        """Makes a server known to the injector. `more` are fields of `injector.v1.Server`, as JSON spells them."""
        server = {"workspace": workspace, "name": name, "url": url, "injectSecrets": list(secrets), **more}
        self.call(self.injector, "injector.v1.ServerService/AddServer", {"server": server})

    def url(self, workspace: str, server: str) -> str:
        """Where a program that calls through the injector finds a server: the path names it."""
        return f"http://{self.data_plane}/{workspace}/{server}"
