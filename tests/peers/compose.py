"""The pair as docker compose runs it, from a copy of the repository as somebody who cloned it has it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import secrets
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pair import BINARY, REPOSITORY

# Where `.ci/docker-engine` keeps what it has.
ENGINE = Path(os.environ.get("PEERS_ENGINE", REPOSITORY / "target" / "peers" / "docker"))

BUILD_SECONDS = 1800
SECONDS = 120

# The profile of Cargo.toml. `dist`, with which images are built otherwise, takes many minutes longer.
PROFILE = os.environ.get("BUILD_PROFILE", "quick")

PORTS = {"VAULT_PORT": "7150", "INJECTOR_PORT": "7151", "VAULT_METRICS_PORT": "9051", "INJECTOR_METRICS_PORT": "9052"}


def fingerprint(value: str) -> str:
    """What the demo upstream shows of a secret."""
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:32]}…"


def clone(folder: Path) -> None:
    """What git would give to somebody who cloned this, with what is not committed yet."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        source, copy = REPOSITORY / name, folder / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def written(block: str) -> str:
    """The commands of a block of docs/compose.md, which the comment `<!-- compose: BLOCK -->` marks."""
    page = (REPOSITORY / "docs" / "compose.md").read_text()
    found = re.findall(rf"^<!-- compose: {block} -->\n+```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"docs/compose.md has {len(found)} blocks of commands marked {block}"
    return found[0]


def free_ports(count: int) -> list[str]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@dataclass
class Stack:
    """A project of its own: `command` is the compose under test, `docker compose` or `docker-compose`."""

    folder: Path
    command: str
    project: str = field(default_factory=lambda: f"aerostack-test-{secrets.token_hex(4)}")

    def __post_init__(self) -> None:
        clone(self.folder)
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        plain = {name: value for name, value in os.environ.items() if not re.match("COMPOSE_|DOCKER_BUILDKIT", name)}
        self.environment = {
            **plain,
            **self.ports,
            "BUILD_PROFILE": PROFILE,
            "COMPOSE_PROJECT_NAME": self.project,
            "PATH": f"{BINARY.parent}:{os.environ['PATH']}",
        }
        if self.command == "docker compose":
            self.environment["DOCKER_CONFIG"] = str(ENGINE / "config")
        # So that its remains can be removed even when this process cannot do it.
        with (ENGINE / "projects").open("a") as projects:
            projects.write(f"{self.project}\n")

    def run(self, *command: str, check: bool = True, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(*self.command.split(), *arguments, check=check)

    def execute(self, service: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.compose("exec", "-T", service, *command, check=check)

    def as_written(self, block: str, seconds: float = SECONDS) -> str:
        """Runs commands of docs/compose.md as they are, in a terminal: only the compose under test and the ports that are
        free are put in. Answers what they print."""
        commands = written(block).replace("docker compose", self.command)
        for name, usual in PORTS.items():
            commands = commands.replace(f"localhost:{usual}", f"localhost:{self.ports[name]}")
        ours, theirs = pty.openpty()
        output = bytearray()
        with subprocess.Popen(
            ["timeout", "--kill-after=5", str(seconds), "bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            try:
                while chunk := os.read(ours, 65536):
                    output += chunk
            except OSError:
                # How a terminal ends on Linux.
                pass
        os.close(ours)
        text = output.decode(errors="replace").replace("\r\n", "\n")
        assert process.returncode == 0, f"{commands}ended with {process.returncode}:\n{text[-3000:]}"
        return text

    def called(self, path: str) -> dict[str, str]:
        """What the demo upstream received of a call that the sample application made."""
        return json.loads(self.execute("app", "curl", "-sS", f"http://localhost:7100/{path}").stdout)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container."""
        label = f"label=com.docker.compose.project={self.project}"
        ids = self.run("docker", "ps", "--all", "--quiet", "--filter", label).stdout.split()
        found = json.loads(self.run("docker", "inspect", *ids).stdout)
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def health(self, service: str) -> str:
        return self.containers()[service]["State"]["Health"]["Status"]

    def grpcurl(self, port: str, method: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """A call from the host; None when there was no good answer."""
        pki = self.folder / "deploy" / "compose" / "admin" / "pki"
        done = self.run(
            *("grpcurl", "-max-time", "5", "-cacert", f"{pki}/ca.pem", "-cert", f"{pki}/admin.pem"),
            *("-key", f"{pki}/admin-key.pem", "-d", json.dumps(request), f"localhost:{self.ports[port]}", method),
            check=False,
        )
        return json.loads(done.stdout or "{}") if done.returncode == 0 else None

    def remove(self) -> None:
        """Leaves nothing behind but what the builder keeps for the next time."""
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "all", check=False)


def shown(output: str) -> list[dict[str, str]]:
    """The JSON objects among what commands printed."""
    return [json.loads(each) for each in re.findall(r"^\{.*?^\}", output, re.MULTILINE | re.DOTALL)]
