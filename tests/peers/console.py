"""A running `aerostack console`, and scenarios in a browser that uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from pair import BINARY, STOP_SECONDS, Pair

SCENARIOS = Path(__file__).parent / "console"
SCENARIO_SECONDS = 240


class Console:
    """A console that administers a pair. Its creator stops it."""

    def __init__(self, pair: Pair, *flags: str) -> None:
        services = ["--vault", pair.vault, "--injector", pair.injector, "--data-plane", pair.data_plane, *metrics(pair)]
        self.log = pair.folder.with_name(f"{pair.folder.name}-console.log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "--dir", pair.folder, *services, *ids(pair), "console", "--no-open", "--listen", "127.0.0.1:0", *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        self.link = self.process.stdout.readline().strip()
        assert self.link.startswith("http"), self.log.read_text()

    @property
    def host(self) -> str:
        return urlsplit(self.link).netloc

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(STOP_SECONDS) == 0, self.log.read_text()


def ids(pair: Pair) -> list[str]:
    domain = "spiffe://aerostack.localhost"
    return ["--vault-id", f"{domain}/vault", "--injector-id", f"{domain}/injector"]


def metrics(pair: Pair) -> list[str]:
    """The addresses of the metrics, which `aerostack dev` writes down. The console knows them by itself only without `--vault`."""
    ports = pair.folder / "ports.json"
    known = json.loads(ports.read_text()) if ports.exists() else {}
    names = [name for name in ("vault_metrics", "injector_metrics") if name in known]
    return [flag for name in names for flag in (f"--{name.replace('_', '-')}", f"http://{known[name]}")]


class Visitor:
    """A browser without scripts: one connection, and the session's cookie and token."""

    def __init__(self, console: Console) -> None:
        self.connection = HTTPConnection(console.host, timeout=20)
        self.headers: dict[str, str] = {}
        self.csrf = ""

    def send(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        response, text = self.answer(method, path, body, **headers)
        return response.status, text

    def answer(self, method: str, path: str, body: str | None, **headers: str) -> tuple[HTTPResponse, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, {**self.headers, **named})
        response = self.connection.getresponse()
        text = response.read().decode()
        # The console closes a connection on which it refused a request before it read the body.
        if response.status >= 400:
            self.connection.close()
        return response, text

    def post(self, path: str, fields: dict[str, str], **headers: str) -> tuple[int, str]:
        form = {"content_type": "application/x-www-form-urlencoded", **headers}
        return self.send("POST", path, urlencode(fields), **form)

    def sign_in(self, console: Console) -> Visitor:
        response, _ = self.answer("GET", console.link.partition(console.host)[2], None)
        assert response.status == 200
        self.headers["Cookie"] = response.headers["Set-Cookie"].partition(";")[0]
        _, form = self.send("GET", "/workspaces/new")
        self.csrf = form.partition('name="csrf" value="')[2].partition('"')[0]
        assert self.csrf
        return self


class Scenario:
    """A program in `console/` that drives a browser. It is killed when it takes too long."""

    def __init__(self, name: str, console: Console, **data: str) -> None:
        chromium = shutil.which("chromium")
        assert chromium, "chromium is not on the PATH: apt-get install chromium"
        config = {"link": console.link, **data}
        self.process = subprocess.Popen(
            ["node", SCENARIOS / f"{name}.mjs"],
            env={**os.environ, "CONSOLE_TEST": json.dumps(config), "PEERS_CHROMIUM": chromium},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, step: str) -> None:
        """Waits until the scenario hands over with these words."""
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if line != step:
            self.end()
        assert line == step, f"the scenario said {line!r} and not {step!r}"

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> str:
        try:
            said, errors = self.process.communicate(timeout=SCENARIO_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            said, errors = self.process.communicate()
        assert self.process.returncode == 0, f"the scenario ended with {self.process.returncode}:\n{said}\n{errors}"
        return said


def run(name: str, console: Console, **data: str) -> str:
    return Scenario(name, console, **data).end()


def aerostack(pair: Pair, *arguments: str, stdin: str = "") -> str:
    """Runs the command line against a pair."""
    services: Sequence[str] = ["--vault", pair.vault, "--injector", pair.injector, *ids(pair)]
    command = [str(BINARY), "--dir", str(pair.folder), *services, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout
