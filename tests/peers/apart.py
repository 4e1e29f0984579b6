"""The two services as processes of their own, as in production, and what each of them holds."""

from __future__ import annotations

import base64
import http.client
import os
import resource
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pair import BINARY, START_SECONDS, STOP_SECONDS, Pair, eventually

# Who is who in the certificates that `aerostack dev` makes.
VAULT, INJECTOR, ADMIN = (f"spiffe://aerostack.localhost/{who}" for who in ("vault", "injector", "admin"))

MIB = 1 << 20


@contextmanager
def open_files(wanted: int) -> Iterator[None]:
    """Allows this process, and those that it starts meanwhile, to have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        try:
            # Root may usually raise the hard limit, too.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard if hard == unlimited else max(hard, wanted)))
        except (ValueError, PermissionError):
            pytest.fail(f"each process needs {wanted} open files, and {hard} are allowed: raise `ulimit -Hn`")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@dataclass(frozen=True)
class Held:
    """What a process has. `memory` is what is resident, in bytes; `tasks` are those of its connections."""

    memory: int
    descriptors: int
    threads: int
    tasks: int

    def __str__(self) -> str:
        return (
            f"{self.memory / MIB:.1f} MiB, {self.descriptors} descriptors, {self.threads} threads, {self.tasks} tasks"
        )


class Service:
    """One of the two, running. What it says goes to the end of `log`."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        binary = BINARY.with_name(name)
        assert binary.exists(), f"{binary} is not there: cargo build --release -p {name}"
        self.name, self.log = name, log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(binary), "--metrics-listen", "127.0.0.1:0", *arguments],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.pid = self.process.pid

    def addresses(self, count: int) -> list[str]:
        """Where it listens, once that is so many addresses: its own, in the order in which it bound them."""

        def listening() -> list[str] | None:
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.said()}"
            found = sorted(_listening(self.pid))
            return [address for _, address in found] if len(found) == count else None

        return eventually(f"{self.name} listens on {count} addresses", listening, START_SECONDS)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-10_000:]

    def get(self, metrics: str, path: str) -> tuple[int, str]:
        """Asks its probes, which are at `metrics`."""
        connection = http.client.HTTPConnection(metrics, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def memory(self) -> int:
        """Resident, in bytes."""
        return 1024 * self._status("VmRSS")

    def own_memory(self) -> int:
        """Resident memory without the pages of the binary and its libraries, in bytes."""
        return 1024 * self._status("RssAnon")

    def leave(self, memory: int) -> None:
        """From now on it gets this much memory more, and then no more."""
        most = 1024 * self._status("VmSize") + memory
        resource.prlimit(self.pid, resource.RLIMIT_AS, (most, most))

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def threads(self) -> int:
        return self._status("Threads")

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0])
        raise AssertionError(f"{self.name} has no {field}: it has ended\n{self.said()}")

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Asks it to end, as a supervisor does, and answers the exit code."""
        self.process.terminate()
        return self.ended(seconds)

    def ended(self, seconds: float = STOP_SECONDS) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        if self.process.poll() is None:
            # One that was stopped is killed all the same.
            self.process.kill()
            self.process.wait()


def _listening(pid: int) -> Iterator[tuple[int, str]]:
    """The descriptors of a process that listen on IPv4, and where."""
    listens = "0A"
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == listens:
            address, port = fields[1].split(":")
            octets = reversed(bytes.fromhex(address))
            inodes[fields[9]] = f"{'.'.join(map(str, octets))}:{int(port, 16)}"
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:[") and (address := inodes.get(target[8:-1])):
            yield int(descriptor.name), address


class Apart(Pair):
    """Both services, each a process. Its creator stops it."""

    vault_service: Service
    injector_service: Service

    def __init__(self, folder: Path, pki: Path) -> None:
        folder.mkdir()
        (folder / "pki").symlink_to(pki)
        self.folder = folder
        self.vault = self.injector = self.data_plane = "127.0.0.1:0"
        self.values = []
        key = folder / "root.key"
        subprocess.run([BINARY.with_name("vault-service"), "keygen", key], check=True, stdout=subprocess.DEVNULL)

    @classmethod
    def run(cls, folder: Path, pki: Path, *flags: str, vault_flags: Sequence[str] = ()) -> Apart:
        """Starts both; `flags` are the injector's."""
        pair = cls(folder, pki)
        try:
            pair.start_vault(*vault_flags)
            pair.start_injector(*flags)
        except BaseException:
            pair.kill()
            raise
        return pair

    def start_vault(self, *flags: str, **env: str) -> None:
        """Starts the vault on the store of this folder, where it was when it ran before."""
        pki, folder = self.folder / "pki", self.folder
        self.vault_service = Service(
            "vault-service",
            [
                *("--listen", self.vault, "--data-dir", str(folder / "store")),
                *("--root-key-file", str(folder / "root.key"), "--client-ca", str(pki / "ca.pem")),
                *("--tls-cert", str(pki / "vault.pem"), "--tls-key", str(pki / "vault-key.pem")),
                *("--admin", ADMIN, "--injector", f"{INJECTOR}=*", *flags),
            ],
            folder / "vault.log",
            env,
        )
        self.vault, self.vault_metrics = self.vault_service.addresses(2)

    def start_injector(self, *flags: str, **env: str) -> None:
        """Starts the injector with the servers of this folder, and waits until it has found the vault."""
        pki, folder = self.folder / "pki", self.folder
        self.injector_service = Service(
            "injector-service",
            [
                *("--listen", self.injector, "--data-plane-listen", self.data_plane),
                *("--servers", str(folder / "servers.yaml"), "--vault", self.vault, "--vault-id", VAULT),
                *("--vault-ca", str(pki / "ca.pem"), "--client-ca", str(pki / "ca.pem"), "--admin", ADMIN),
                *("--vault-cert", str(pki / "injector.pem"), "--vault-key", str(pki / "injector-key.pem")),
                *("--tls-cert", str(pki / "injector.pem"), "--tls-key", str(pki / "injector-key.pem"), *flags),
            ],
            folder / "injector.log",
            env,
        )
        service = self.injector_service
        dedicated = flags.count("--listen-server")
        self.injector, self.data_plane, *self.dedicated, self.injector_metrics = service.addresses(3 + dedicated)
        eventually("the injector is ready", lambda: service.get(self.injector_metrics, "/readyz")[0] == 200, 20)

    @property
    def address(self) -> tuple[str, int]:
        """The data plane."""
        host, _, port = self.data_plane.rpartition(":")
        return host, int(port)

    def metric(self, service: Service, name: str) -> int:
        """The sum of all that a service shows under a name."""
        metrics = self.vault_metrics if service is self.vault_service else self.injector_metrics
        lines = service.get(metrics, "/metrics")[1].splitlines()
        found = [line.rpartition(" ")[2] for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        assert found, f"{service.name} has no metric {name}"
        return sum(map(int, found))

    def held(self, service: Service) -> Held:
        tasks = self.metric(service, "aerostack_tasks")
        return Held(service.memory(), service.descriptors(), service.threads(), tasks)

    def services(self) -> list[Service]:
        return [getattr(self, name) for name in ("injector_service", "vault_service") if hasattr(self, name)]

    def kill(self) -> None:
        for service in self.services():
            service.kill()

    def stop(self) -> int:
        """Asks both to end, the injector first: it needs the vault for calls under way."""
        codes = [service.stop() for service in self.services() if service.process.poll() is None]
        return max(codes, default=0)

    def values_in_log(self) -> int:
        """How many of the values put so far stand in what the services said, as they are or in base64."""
        held = 0
        for name in ("vault.log", "injector.log"):
            if not (self.folder / name).exists():
                continue
            # A log may be longer than what one likes to have in memory.
            wanted = dict(zip(self.values, map(_forms, self.values), strict=True))
            found = set()
            with (self.folder / name).open("rb") as log:
                for line in log:
                    found |= {value for value, forms in wanted.items() if any(form in line for form in forms)}
            held += len(found)
        return held


def _forms(value: bytes) -> list[bytes]:
    return [value, base64.b64encode(value)]


def certificates(folder: Path) -> Path:
    """What `aerostack dev` makes for both ends of each connection."""
    pair = Pair.start(folder)
    assert pair.stop() == 0
    return folder / "pki"
