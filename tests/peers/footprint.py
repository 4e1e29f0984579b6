"""Measures what an injector takes: memory and processor time when it is idle, and under a steady load.

    cargo build --release && python3 tests/peers/footprint.py target/release

The load is bounded: each of the connections sends its next call at a fixed time, and never two at once. Only Python's
standard library is needed. The vault, the injector and the upstream are processes of their own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONNECTIONS, CALLS_PER_SECOND, SECONDS, IDLE_SECONDS = 50, 1000, 20, 10
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REQUEST = b"GET /w/api/ HTTP/1.1\r\nhost: localhost\r\n\r\n"
CPUS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def used(pid: int) -> tuple[float, float, float]:
    """Returns the processor seconds, the resident MiB and the highest resident MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    mib = lambda field: int(status[field].split()[0]) / 1024  # noqa: E731
    return (int(fields[11]) + int(fields[12])) / CPUS, mib("VmRSS"), mib("VmHWM")


def report(what: str, pid: int, before: float, seconds: float) -> None:
    cpu, resident, highest = used(pid)
    print(f"{what}: {resident:.0f} MiB resident, {highest:.0f} MiB at most, {(cpu - before) / seconds * 1000:.0f} m of a core")


async def upstream(port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


async def connection(port: int, first: float, latencies: list[float]) -> None:
    """Sends calls at fixed times, from `first` on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    interval = CONNECTIONS / CALLS_PER_SECOND
    for number in range(SECONDS * CALLS_PER_SECOND // CONNECTIONS):
        due = first + number * interval
        await asyncio.sleep(max(0, due - time.monotonic()))
        began = time.monotonic()
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(2)
        latencies.append(time.monotonic() - began)
    writer.close()


async def load(port: int) -> list[float]:
    began, latencies = time.monotonic() + 0.5, []
    offsets = [began + number / CALLS_PER_SECOND for number in range(CONNECTIONS)]
    await asyncio.gather(*(connection(port, first, latencies) for first in offsets))
    return sorted(latencies)


def main(binaries: Path) -> None:
    vault, injector, data_plane, metrics, served = (free_port() for _ in range(5))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        aerostack = [binaries / "aerostack", "--dir", folder / "admin"]
        (folder / "admin").mkdir()
        subprocess.run(
            [binaries / "aerostack", "init", "--ca-dir", folder / "ca", "--root-key-file", folder / "root.key"]
            + ["--vault-dir", folder / "vault", "--injector-dir", folder / "injector", "--admin-dir", folder / "admin"]
            + ["--vault-name", "localhost", "--injector-name", "localhost"]
            + ["--vault-addr", f"127.0.0.1:{vault}", "--injector-addr", f"127.0.0.1:{injector}"],
            check=True, stdout=subprocess.DEVNULL,
        )
        identity = "spiffe://aerostack.localhost/"

        def service(kind: str, port: int, *flags: str) -> subprocess.Popen[bytes]:
            own = folder / kind
            tls = ["--tls-cert", own / f"{kind}.pem", "--tls-key", own / f"{kind}-key.pem", "--client-ca", own / "ca.pem"]
            listen = ["--listen", f"127.0.0.1:{port}", "--admin", f"{identity}admin"]
            return subprocess.Popen(
                [binaries / f"{kind}-service", *listen, *tls, *flags], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )

        processes = [
            service("vault", vault, "--metrics-listen", "127.0.0.1:0", "--data-dir", str(folder / "data"),
                    "--root-key-file", str(folder / "root.key"), "--injector", f"{identity}injector=*"),
            service("injector", injector, "--metrics-listen", f"127.0.0.1:{metrics}",
                    "--data-plane-listen", f"127.0.0.1:{data_plane}", "--servers", str(folder / "servers.yaml"),
                    "--vault", f"127.0.0.1:{vault}", "--vault-id", f"{identity}vault",
                    "--vault-ca", str(folder / "injector/ca.pem"), "--vault-cert", str(folder / "injector/injector.pem"),
                    "--vault-key", str(folder / "injector/injector-key.pem")),
            subprocess.Popen([sys.executable, __file__, "--upstream", str(served)]),
        ]
        pid = processes[1].pid
        try:
            ready = [binaries / "injector-service", "healthcheck", "--metrics-listen", f"127.0.0.1:{metrics}"]
            while subprocess.run(ready, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode:
                time.sleep(0.1)
            for command in (["workspace", "create", "w"], ["workspace", "secret", "set", "w", "TOKEN", "-"],
                            ["workspace", "server", "add", "w", "api", "--secrets", "TOKEN", "--url", f"http://127.0.0.1:{served}"]):
                subprocess.run([*aerostack, *command], input=b"0123456789abcdef", check=True, capture_output=True)
            before = used(pid)[0]
            time.sleep(IDLE_SECONDS)
            report("idle", pid, before, IDLE_SECONDS)
            before = used(pid)[0]
            latencies = asyncio.run(load(data_plane))
            report(f"{CONNECTIONS} connections, {CALLS_PER_SECOND} calls a second", pid, before, SECONDS)
            at = lambda share: latencies[int(len(latencies) * share)] * 1000  # noqa: E731
            print(f"{len(latencies)} calls: median {at(0.5):.1f} ms, 99 % within {at(0.99):.1f} ms")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--upstream":
        asyncio.run(upstream(int(sys.argv[2])))
    else:
        main(Path(sys.argv[1]).resolve())
