"""docs/operations.md, run as it is written: certificates, both services by hand, and their administration."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose import free_ports
from pair import BINARY, REPOSITORY, eventually


def written(block: str) -> str:
    """The commands of a block of docs/operations.md, which the comment `<!-- operations: BLOCK -->` marks."""
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    (found,) = re.findall(rf"^<!-- operations: {block} -->\n+```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return found


class Machine:
    """A folder in the place of the root directory, and free ports in the place of the usual ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vault, injector, data_plane, self.vault_metrics, self.injector_metrics = free_ports(5)
        self.places = {
            "/etc/aerostack": str(folder / "etc"),
            "/var/lib/aerostack": str(folder / "lib"),
            "/usr/local/share/aerostack": str(REPOSITORY / "deploy"),
            "10.0.0.5:7150": f"127.0.0.1:{vault}",
            "localhost:7151": f"localhost:{injector}",
        }
        self.environment = {
            "PATH": f"{BINARY.parent}:{os.environ['PATH']}",
            "AEROSTACK_INJECTOR_LISTEN": f"127.0.0.1:{injector}",
            "AEROSTACK_INJECTOR_DATA_PLANE_LISTEN": f"127.0.0.1:{data_plane}",
            "AEROSTACK_INJECTOR_METRICS_LISTEN": f"127.0.0.1:{self.injector_metrics}",
            "AEROSTACK_VAULT_METRICS_LISTEN": f"127.0.0.1:{self.vault_metrics}",
            "AEROSTACK_DATA_PLANE": f"http://127.0.0.1:{data_plane}",
        }
        self.services: list[subprocess.Popen[bytes]] = []
        for name in ("etc", "lib"):
            (folder / name).mkdir()

    def command(self, block: str) -> list[str]:
        commands = written(block)
        for usual, here in self.places.items():
            commands = commands.replace(usual, here)
        return ["bash", "-euo", "pipefail", "-c", commands]

    def run(self, block: str) -> str:
        done = subprocess.run(
            self.command(block), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, block: str, metrics: str) -> None:
        """Starts a service, in a process group of its own because the shell that runs the block is its parent."""
        with (self.folder / f"{block}.log").open("wb") as log:
            service = subprocess.Popen(
                self.command(block), cwd=self.folder, env=self.environment, stdout=log, stderr=log, process_group=0
            )
        self.services.append(service)

        def ready() -> bool:
            assert service.poll() is None, (self.folder / f"{block}.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/readyz", timeout=5) as answer:
                    return answer.status == 200
            except OSError:
                return False

        eventually(f"{block} is ready", ready, 30)

    def stop(self) -> None:
        for service in reversed(self.services):
            os.killpg(service.pid, 15)
            service.wait(30)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        yield machine
    finally:
        machine.stop()


def test_the_commands_lead_from_nothing_to_an_administered_pair(machine: Machine) -> None:
    made = machine.run("certificates")
    assert made.count("Made ") == 4
    # The same commands renew, and nothing is due.
    again = machine.run("certificates")
    assert again.count("Everything was there already.") == 4
    machine.start("vault", machine.vault_metrics)
    machine.start("injector", machine.injector_metrics)
    told = machine.run("administer")
    assert told.count("serving") == 3 and "my-workspace" in told, told
