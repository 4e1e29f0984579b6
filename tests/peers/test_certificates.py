"""The certificates that `aerostack dev` and `aerostack init` make, and the TLS libraries that users have."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from apart import Apart, certificates
from pair import BINARY

SECONDS = 20
HOSTS = ["localhost", "127.0.0.1"]


@dataclass(frozen=True)
class Vault:
    """A vault that serves with a certificate, and what an administrator calls it with."""

    port: str
    pki: Path
    folder: Path

    def file(self, name: str) -> str:
        return str(self.pki / name)


def made_by_dev(folder: Path) -> Path:
    return certificates(folder / "dev")


def made_by_init(folder: Path) -> Path:
    """What `aerostack init` makes, in one folder."""
    pki = folder / "pki"
    admin = folder / "admin"
    admin.mkdir()
    directories = {"--vault-dir": pki, "--injector-dir": pki, "--ca-dir": folder / "ca", "--admin-dir": admin}
    arguments = [str(part) for pair in directories.items() for part in pair]
    run([str(BINARY), "init", "--root-key-file", str(folder / "init.key"), *arguments])
    for name in ("admin.pem", "admin-key.pem"):
        (pki / name).symlink_to(admin / "pki" / name)
    return pki


@pytest.fixture(scope="module", params=[made_by_dev, made_by_init])
def vault(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    folder = tmp_path_factory.mktemp("certificates")
    pki = request.param(folder)
    pair = Apart(folder / "pair", pki)
    pair.start_vault()
    try:
        yield Vault(pair.vault.rpartition(":")[2], pki, folder)
    finally:
        code = pair.stop()
    assert code == 0


def run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout!r} {done.stderr!r}"


def openssl(vault: Vault, host: str) -> None:
    check = ["-verify_ip", host] if host[0].isdigit() else ["-verify_hostname", host]
    identity = ["-CAfile", vault.file("ca.pem"), "-cert", vault.file("admin.pem"), "-key", vault.file("admin-key.pem")]
    connect = ["openssl", "s_client", "-connect", f"{host}:{vault.port}", "-brief", "-alpn", "h2"]
    run([*connect, "-verify_return_error", *check, *identity])


def boringssl(vault: Vault, host: str) -> None:
    read = [Path(vault.file(name)).read_bytes() for name in ("ca.pem", "admin-key.pem", "admin.pem")]
    with grpc.secure_channel(f"{host}:{vault.port}", grpc.ssl_channel_credentials(*read)) as channel:
        # An empty request and its answer have no fields that a generated class is needed for.
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=SECONDS, wait_for_ready=False) == b"\x08\x01"


def go(vault: Vault, host: str) -> None:
    identity = ["-cacert", vault.file("ca.pem"), "-cert", vault.file("admin.pem"), "-key", vault.file("admin-key.pem")]
    run(["grpcurl", "-max-time", "10", *identity, f"{host}:{vault.port}", "list"])


def rustls(vault: Vault, host: str) -> None:
    identity = ["--ca", vault.file("ca.pem"), "--cert", vault.file("admin.pem"), "--key", vault.file("admin-key.pem")]
    run([str(BINARY), "--vault", f"{host}:{vault.port}", *identity, "workspace", "list"])


def nss(vault: Vault, host: str) -> None:
    database = vault.folder / f"nss-{host}"
    database.mkdir()
    where = ["-d", f"sql:{database}"]
    run(["certutil", "-N", *where, "--empty-password"])
    run(["certutil", "-A", *where, "-n", "ca", "-t", "C,,", "-i", vault.file("ca.pem")])
    # It says nothing and leaves (-Q) once the handshake is over.
    run(["tstclnt", *where, "-h", host, "-p", vault.port, "-V", "tls1.3:tls1.3", "-4", "-Q"])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("client", [openssl, boringssl, go, rustls, nss])
def test_every_tls_library_accepts_them(vault: Vault, client: Callable[[Vault, str], None], host: str) -> None:
    client(vault, host)
