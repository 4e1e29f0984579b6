"""systemd's own checks of the units in deploy/systemd. They need no running systemd."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pair import REPOSITORY

UNITS = REPOSITORY / "deploy" / "systemd"
SERVICES = ["vault-service", "injector-service"]
# Tenths of systemd's exposure level, which goes from 0 to 10; a unit without any confinement has 9.6.
MOST_EXPOSURE = 20


def analyze(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that exists on every machine in the place of the service."""
    for service in SERVICES:
        text = (UNITS / f"{service}.service").read_text()
        assert f"ExecStart=/usr/local/bin/{service}\n" in text
        (tmp_path / f"{service}.service").write_text(text.replace(f"/usr/local/bin/{service}", shutil.which("true")))
    return tmp_path


def test_systemd_understands_every_line_of_the_units(units: Path) -> None:
    assert analyze(units, "verify", *(f"./{service}.service" for service in SERVICES)) == ""


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_are_confined(units: Path, service: str) -> None:
    unit = f"./{service}.service"
    print(analyze(units, "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit).splitlines()[-1])
