"""Pods as podman runs them, with a storage and a network of its own and without a registry. Images are made of one program of this
machine and the libraries that it needs."""

from __future__ import annotations

import json
import os
import re
import resource
import secrets
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from pair import REPOSITORY, eventually

# `.ci/peers` removes what is left of the pods here.
PODMAN = Path(os.environ.get("PEERS_PODMAN", REPOSITORY / "target" / "peers" / "podman"))
SECONDS = 120
NETWORK = "aerostack-test"
# podman lowers its own limit of processes to this number, and containers cannot have more.
MAX_PROCESSES = 32768


def _limits() -> str:
    """A container cannot have higher limits than this process, because a machine of CI has no CAP_SYS_RESOURCE."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    processes = MAX_PROCESSES if processes < 0 else min(processes, MAX_PROCESSES)
    files = 1048576 if files < 0 else files
    return f'"nofile={files}:{files}", "nproc={processes}:{processes}"'


class Podman:
    def __init__(self) -> None:
        shutil.rmtree(PODMAN, ignore_errors=True)
        PODMAN.mkdir(parents=True)
        # Debian's podman would use crun and systemd, which a machine of CI may not have.
        config = (
            f'[containers]\ndefault_ulimits = [{_limits()}]\n[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
        )
        (PODMAN / "containers.conf").write_text(config + 'events_logger = "none"\n')
        own = {name: str(PODMAN / name) for name in ("root", "runroot", "tmpdir", "network-config-dir")}
        options = " ".join(f"--{name}={path}" for name, path in own.items())
        self._command = PODMAN / "podman"
        self._command.write_text(
            f'#!/bin/sh\nCONTAINERS_CONF={PODMAN}/containers.conf exec podman {options} --storage-driver=overlay "$@"\n'
        )
        self._command.chmod(0o755)
        self.prefix = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
        self.gateway = f"{self.prefix}.1"
        subnet = [f"--subnet={self.prefix}.0/24", f"--gateway={self.gateway}", "--disable-dns"]
        self.run("network", "create", *subnet, NETWORK)
        # The bridge, and with it the address that servers of the test listen on, exists from the first pod on.
        self.play({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bridge"}, "spec": {"containers": []}}, 2)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._command, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
        assert not check or done.returncode == 0, (
            f"podman {command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done

    def image(self, name: str, programs: list[Path], entrypoint: list[str]) -> None:
        """An image with these programs in /usr/local/bin, the libraries that they need, and the CAs of this machine."""
        archive = PODMAN / "image.tar"
        libraries = {path for each in programs for path in _libraries(each)}
        with tarfile.open(archive, "w") as tar:
            for each in programs:
                tar.add(_stripped(each), f"usr/local/bin/{each.name}")
            for path in [*libraries, "/etc/ssl/certs/ca-certificates.crt"]:
                tar.add(os.path.realpath(path), path.lstrip("/"))
        changes = ["--change=ENV PATH=/usr/local/bin", "--change=USER 65532:65532"]
        if entrypoint:
            changes.append(f"--change=ENTRYPOINT {json.dumps(entrypoint)}")
        self.run("import", "--quiet", *changes, str(archive), name)
        archive.unlink()

    def play(self, pod: dict[str, Any], number: int) -> str:
        """Starts a pod at an address of its own, and answers the address."""
        address = f"{self.prefix}.{number}"
        file = PODMAN / f"{pod['metadata']['name']}.json"
        file.write_text(json.dumps(pod))
        # Of a pod that takes the address of an earlier one, the neighbours know the hardware address already.
        hardware = f"--mac-address=0a:58:00:00:00:{number:02x}"
        self.run("kube", "play", "--quiet", f"--network={NETWORK}", f"--ip={address}", hardware, str(file))
        return address

    def container(self, name: str) -> dict[str, Any]:
        return json.loads(self.run("container", "inspect", name).stdout)[0]

    def logs(self, name: str) -> str:
        done = self.run("logs", name, check=False)
        return done.stdout + done.stderr

    def stop(self, name: str, grace: int = 30) -> int:
        """Sends SIGTERM to a container, and SIGKILL after the grace period. Answers the exit code."""
        self.run("stop", f"--time={grace}", name)
        return int(self.container(name)["State"]["ExitCode"])

    def exit_code(self, name: str, seconds: float = 30) -> int:
        """Waits for a container that ends by itself."""
        eventually(f"{name} ends", lambda: self.container(name)["State"]["Status"] == "exited", seconds)
        return int(self.container(name)["State"]["ExitCode"])

    def remove(self, pod: str) -> None:
        self.run("pod", "rm", "--force", "--time=0", pod)

    def close(self) -> None:
        self.run("pod", "rm", "--all", "--force", "--time=0", check=False)
        self.run("network", "rm", "--force", NETWORK, check=False)
        self.run("rmi", "--all", "--force", check=False)
        shutil.rmtree(PODMAN, ignore_errors=True)


def _libraries(program: Path) -> list[str]:
    return re.findall(
        r"(/\S+) \(0x", subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    )


def _stripped(program: Path) -> Path:
    """A debug build has hundreds of megabytes that no container needs."""
    copy = PODMAN / program.name
    subprocess.run(["strip", "-o", copy, program], check=True)
    return copy
