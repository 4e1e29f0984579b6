"""grpcurl administers both services."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pair import Pair

TUTORIAL = Path(__file__).with_name("admin_tutorial.sh")


def test_the_tutorial_is_right(pair: Pair) -> None:
    # Twice: it leaves nothing behind.
    for _ in range(2):
        done = subprocess.run([TUTORIAL, pair.folder], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
