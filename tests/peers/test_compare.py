"""The benchmark runs, everyone in it injects what he should, and a page comes of it. Not how fast anything is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pair import BINARY, REPOSITORY

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))


# Some 40 s, most of them waiting.
@pytest.mark.timeout(200)
def test_the_benchmark_runs(tmp_path: Path) -> None:
    compare = TARGET / "debug" / "compare"
    assert compare.exists(), f"{compare} is not there: cargo build -p e2e --bin compare"
    done = subprocess.run(
        [
            compare,
            *("--quick", "--only", "grpc,rate,vault,memory", "--secrets", "100,200", "--connections", "200"),
            *("--bin-dir", BINARY.parent, "--peers", TARGET / "compare" / "bin", "--out", tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "compare.md").read_text()
    for part in ("HTTP/1.1 → HTTP/2, 2,000 calls/s", "gRPC unary", "OpenBao KV v2 read", "idle connections", "Aims"):
        assert part in page, page
