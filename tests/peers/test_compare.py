"""The benchmark runs, everyone in it injects what he should, and a page comes of it. Not how fast anything is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pair import BINARY, REPOSITORY

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))


def run(out: Path, *arguments: str) -> None:
    compare = TARGET / "release" / "compare"
    assert compare.exists(), f"{compare} is not there: cargo build --release -p e2e --bin compare"
    command = [compare, *arguments, "--quick", "--bin-dir", BINARY.parent, "--peers", TARGET / "compare" / "bin"]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


# Some 40 s, most of them waiting.
@pytest.mark.timeout(200)
def test_the_benchmark_runs(tmp_path: Path) -> None:
    run(tmp_path, "--only", "grpc,rate,vault,memory", "--secrets", "100,200", "--connections", "200")
    page = (tmp_path / "compare.md").read_text()
    for part in ("HTTP/1.1 → HTTP/2, 2,000 calls/s", "gRPC unary", "OpenBao KV v2 read", "idle connections", "Aims"):
        assert part in page, page


# As long again.
@pytest.mark.timeout(200)
def test_the_benchmark_of_the_store_runs(tmp_path: Path) -> None:
    run(tmp_path, "store", "--secrets", "100,2000")
    page = (tmp_path / "store.md").read_text()
    for part in ("`PutSecret`, 64 writers", "OpenBao KV v2 write", "after a kill", "restore", "key rotates", "Aims"):
        assert part in page, page


@pytest.mark.timeout(200)
def test_the_benchmark_of_a_noisy_principal_runs(tmp_path: Path) -> None:
    run(tmp_path, "noisy")
    page = (tmp_path / "noisy.md").read_text()
    for part in ("the quiet principal alone", "beside the noisy one", "The vault held at most"):
        assert part in page, page


@pytest.mark.timeout(200)
def test_the_benchmark_of_scrubbing_runs(tmp_path: Path) -> None:
    run(tmp_path, "scrub")
    page = (tmp_path / "scrub.md").read_text()
    for part in ("CPU per call with `scrub: headers`", "95 % interval"):
        assert part in page, page
