"""What the vault acknowledged is on disk: seen from outside, in the system calls that it makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pair import Pair, eventually
from synctrace import CALLS, NotDurable, check_durable, read

PUTS = 20
LARGEST = 64 * 1024


def test_a_put_is_synced_before_it_is_acknowledged(tmp_path: Path, value: Callable[[], str]) -> None:
    assert shutil.which("strace"), "strace is not there: apt-get install strace"
    lines = tmp_path / "strace"
    # With -D the tracer is the child, and the services are what is started and stopped.
    pair = Pair.start(
        tmp_path / "dev", under=["strace", "-D", "-f", "-yy", "-s", "0", "-o", str(lines), "-e", f"trace={CALLS}"]
    )
    try:
        pair.create_workspace("durable")
        before = sum(1 for _ in lines.open())
        for number in range(PUTS):
            # The store may keep large values elsewhere than small ones, and new names otherwise than old ones.
            secret = (value() * LARGEST)[: LARGEST if number % 5 == 4 else 40]
            pair.put_secret("durable", f"SECRET_{number // 2}", secret)
    finally:
        pair.stop()
    eventually("strace has written everything", lambda: "+++ exited with" in lines.read_text().splitlines()[-1])

    dbs = [path for path in (pair.folder / "vault").rglob("db") if path.is_file()]
    assert len(dbs) == 1, dbs
    (db,) = dbs
    calls = read(lines.read_text().splitlines()[before:])
    assert check_durable(calls, str(db), pair.vault.rpartition(":")[2]) == PUTS

    assert pair.values_in_log() == 0, "what the services print holds values"
    blobs = db.parent / "blobs"
    assert blobs.is_dir() and not list(blobs.iterdir()), "blob files are never synced, so there are to be none"


DB, CLIENT = "/data/db", "TCP:[127.0.0.1:7150->127.0.0.1:40000]"
BEFORE = f'1 sendto(9<{CLIENT}>, ""..., 300, MSG_NOSIGNAL, NULL, 0) = 300'
WRITE = f'2 pwrite64(5<{DB}>, ""..., 512, 4096) = 512'
SYNC = f"3 fsync(5<{DB}>) = 0"
SYNC_BEGINS, SYNC_ENDS = f"3 fsync(5<{DB}> <unfinished ...>", "3 <... fsync resumed>) = 0"
PING = f'1 sendto(9<{CLIENT}>, ""..., 39, MSG_NOSIGNAL, NULL, 0) = 39'
ANSWER = f'1 writev(9<{CLIENT}>, [{{iov_base=""..., iov_len=210}}], 1) = 210'


@pytest.mark.parametrize(
    "lines",
    [
        [BEFORE, WRITE, SYNC, ANSWER],
        [BEFORE, WRITE, WRITE, PING, SYNC_BEGINS, PING, SYNC_ENDS, ANSWER, PING],
        [BEFORE, WRITE, SYNC, WRITE, SYNC, ANSWER],
    ],
    ids=["plain", "interleaved", "twice"],
)
def test_the_check_accepts_a_sync_in_between(lines: list[str]) -> None:
    assert check_durable(read(lines), DB, "7150") == 1


@pytest.mark.parametrize(
    "lines",
    [
        [BEFORE, WRITE, ANSWER],
        [BEFORE, WRITE, ANSWER, SYNC, PING],
        [BEFORE, SYNC, WRITE, ANSWER],
        [BEFORE, WRITE, SYNC, WRITE, ANSWER],
        [BEFORE, WRITE, SYNC_BEGINS, ANSWER, SYNC_ENDS, PING],
        [BEFORE, SYNC_BEGINS, WRITE, SYNC_ENDS, ANSWER],
        [BEFORE, WRITE, f"3 fsync(5<{DB}>) = -1 EIO (Input/output error)", ANSWER],
        [BEFORE, WRITE, "3 fsync(6</data/conf>) = 0", ANSWER],
        [BEFORE, WRITE, f"3 sync_file_range(5<{DB}>, 0, 0, SYNC_FILE_RANGE_WRITE) = 0", ANSWER],
        [BEFORE, ANSWER, WRITE, SYNC, PING],
    ],
    ids=[
        "none",
        "after the answer",
        "before the write",
        "before the last write",
        "ended after the answer",
        "began before the write",
        "failed",
        "of another file",
        "of a range",
        "write after the answer",
    ],
)
def test_the_check_refuses_an_answer_without_a_sync_before_it(lines: list[str]) -> None:
    with pytest.raises(NotDurable):
        check_durable(read(lines), DB, "7150")


def test_the_check_does_not_count_a_call_that_wrote_nothing() -> None:
    assert check_durable(read([BEFORE, SYNC, ANSWER, WRITE]), DB, "7150") == 0
