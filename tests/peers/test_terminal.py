"""The command line on a real terminal, and its completions in a real shell."""

from __future__ import annotations

import http.server
import os
import pty
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pair import BINARY, Pair

PATIENCE_SECONDS = 15


class Terminal:
    """A program on a terminal of its own: `aerostack`, unless another is named."""

    def __init__(self, pair: Pair, *arguments: str, under: tuple[str, ...] = ()) -> None:
        command = [*under, str(BINARY), "--dir", str(pair.folder), *arguments]
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.shown = b""

    def wait_for(self, text: bytes) -> None:
        """Reads what is shown until `text` is."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"waited in vain for {text!r}: {self.shown!r}"
            if select.select([self.master], [], [], left)[0]:
                self.shown += os.read(self.master, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def _read(self, seconds: float) -> bool:
        """Reads what is shown within this time. Whether anything was."""
        try:
            if select.select([self.master], [], [], seconds)[0]:
                shown = os.read(self.master, 4096)
                self.shown += shown
                return bool(shown)
        except OSError:  # the other side is closed
            pass
        return False

    def end(self) -> int:
        """Reads to the end. The exit code, or minus the signal."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self._read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                # What it said last.
                while self._read(0):
                    pass
                os.close(self.master)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"it does not end: {self.shown!r}")


@pytest.fixture
def received() -> Iterator[tuple[str, list[str | None]]]:
    """An upstream, and the secret in each request that it received."""
    seen: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["x-mcp-secret-typed"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()


def aerostack(pair: Pair, *arguments: str) -> str:
    command = [BINARY, "--dir", str(pair.folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_value_is_asked_for_and_not_shown(
    pair: Pair, workspace: str, received: tuple[str, list[str | None]]
) -> None:
    url, seen = received
    terminal = Terminal(pair, "workspace", "secret", "set", workspace, "typed")
    terminal.wait_for(b"Value of TYPED (not shown): ")
    assert not terminal.echoes()
    terminal.type(b"tip-top secret\n")
    assert terminal.end() == 0
    assert b"TYPED created (version 1)" in terminal.shown
    assert b"tip-top" not in terminal.shown
    aerostack(pair, "workspace", "server", "add", workspace, "seen", "--url", url, "--secrets", "typed")
    aerostack(pair, "call", workspace, "seen")
    assert seen == ["tip-top secret"]


def test_the_terminal_echoes_again_when_the_question_is_broken_off(pair: Pair, workspace: str) -> None:
    # A shell that outlives it, as a person's does, says how the terminal was left.
    shell = ("sh", "-c", 'trap : INT; "$@"; stty -a', "sh")
    terminal = Terminal(pair, "workspace", "secret", "set", workspace, "typed", under=shell)
    terminal.wait_for(b"(not shown): ")
    terminal.type(b"half a va\x03")
    terminal.end()
    assert b" echo " in terminal.shown and b" -echo " not in terminal.shown, terminal.shown
    assert b"half" not in terminal.shown
    assert "TYPED" not in aerostack(pair, "workspace", "secret", "list", workspace)


PEM = b"-----BEGIN PRIVATE KEY-----\rMC4CAQAwBQ\r-----END PRIVATE KEY-----\r"


@pytest.mark.parametrize("bracketed", [True, False])
@pytest.mark.parametrize(("answer", "stored"), [(b"y\r", True), (b"\r", False)])
def test_a_paste_of_several_lines_is_taken_whole_and_asked_about(
    pair: Pair, workspace: str, bracketed: bool, answer: bytes, stored: bool
) -> None:
    # What the command leaves unread, the shell behind it reads, as a person's does.
    shell = ("sh", "-c", '"$@"; echo "code $?"; stty -icanon min 0 time 3; echo "left: <$(cat)>"', "sh")
    terminal = Terminal(pair, "workspace", "secret", "set", workspace, "pasted", under=shell)
    terminal.wait_for(b"(not shown): ")
    terminal.type(b"\x1b[200~" + PEM + b"\x1b[201~\r" if bracketed else PEM)
    terminal.wait_for(b"These are 3 lines, 64 bytes. Store them? [y/N] ")
    terminal.type(answer)
    terminal.end()
    assert (b"code 0" if stored else b"code 1") in terminal.shown, terminal.shown
    assert b"left: <>" in terminal.shown, terminal.shown
    assert b"MC4CAQAwBQ" not in terminal.shown
    assert ("PASTED" in aerostack(pair, "workspace", "secret", "list", workspace)) == stored


def test_ctrl_c_at_the_question_is_130(pair: Pair, workspace: str) -> None:
    terminal = Terminal(pair, "workspace", "secret", "set", workspace, "typed")
    terminal.wait_for(b"(not shown): ")
    terminal.type(b"half\x03")
    assert terminal.end() == 130, terminal.shown


@pytest.mark.parametrize(("answer", "deleted"), [(b"\n", False), (b"n\n", False), (b"y\n", True), (b"YES\n", True)])
def test_a_workspace_is_deleted_when_the_answer_is_yes(
    pair: Pair, workspace: str, answer: bytes, deleted: bool
) -> None:
    terminal = Terminal(pair, "workspace", "delete", workspace)
    terminal.wait_for(b"[y/N] ")
    terminal.type(answer)
    code = terminal.end()
    assert code == (0 if deleted else 1), terminal.shown
    assert (workspace in aerostack(pair, "workspace", "list").split()) != deleted


@pytest.mark.parametrize(("answer", "stored"), [(b"\n", False), (b"y\n", True)])
def test_an_import_lists_its_secrets_and_stores_them_when_the_answer_is_yes(
    pair: Pair, workspace: str, tmp_path: Path, answer: bytes, stored: bool
) -> None:
    file = tmp_path / "file.env"
    file.write_text("\n".join(f"NAME_{number}=hunter2" for number in range(9)) + "\nA=hunter2\na=hunter2\n")
    terminal = Terminal(pair, "workspace", "secret", "import", workspace, str(file))
    terminal.wait_for(f"Set 9 secrets of {workspace}, and leave 2 entries out? [y/N] ".encode())
    assert b"lines 10 and 11 set the same secret, A" in terminal.shown
    terminal.type(answer)
    assert terminal.end() == 1
    assert (b"9 of 9" in terminal.shown) == stored, "the progress is not shown"
    assert b"hunter2" not in terminal.shown
    assert ("NAME_8" in aerostack(pair, "workspace", "secret", "list", workspace)) == stored


def test_bash_completes_commands_and_flags() -> None:
    def completions(*words: str) -> list[str]:
        script = """
            source <("$1" completions bash)
            shift
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _aerostack aerostack "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        done = subprocess.run(
            ["bash", "-c", script, "bash", BINARY, *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split()

    assert completions("aerostack", "work") == ["workspace"]
    assert completions("aerostack", "workspace", "secret", "s") == ["set"]
    assert "--only-to" in completions("aerostack", "workspace", "secret", "set", "--")
