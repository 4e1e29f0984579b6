"""A pytest plugin that prints one line for each test, `ok NAME` or `FAIL NAME` with what failed, and at the end
`N passed, N failed`, or adds that line to the file that PEERS_SUMMARY names. A test that was skipped has failed: nothing
passes by not running. What a test records with `record_property` stands behind its name: figures, for one.

Goes with `-qq --no-header --no-summary -o console_output_style=classic`, which leave nothing else to be printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# A test that takes longer has its time behind its name.
SHOWN_SECONDS = 10

_failures: dict[str, list[str]] = {}
_seconds: dict[str, float] = {}
_counts = {"passed": 0, "failed": 0}


# The process that runs tests for another one (pytest-xdist), which reports them.
_is_worker = "PYTEST_XDIST_WORKER" in os.environ


def _line(name: str, failures: list[str], said: str = "") -> None:
    if _is_worker:
        return
    _counts["failed" if failures else "passed"] += 1
    print(f"{'FAIL' if failures else 'ok'} {name}{said}", *failures, sep="\n", flush=True)


def _what_failed(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return f"did not run: {report.longrepr[2]}"
    return "\n".join([report.longreprtext, *(f"--- {title}\n{text}" for title, text in report.sections)])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if not report.passed:
        _line(report.nodeid, [_what_failed(report)])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    failures = _failures.setdefault(report.nodeid, [])
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0) + report.duration
    if not report.passed:
        failures.append(_what_failed(report))
    if report.when == "teardown":
        properties = [f"{name}: {value}" for name, value in report.user_properties]
        if (seconds := _seconds.pop(report.nodeid)) >= SHOWN_SECONDS:
            properties.insert(0, f"{seconds:.0f} s")
        said = "; ".join(properties)
        _line(report.nodeid, _failures.pop(report.nodeid), said and f" ({said})")


def pytest_report_teststatus() -> tuple[str, str, str]:
    # What pytest itself would print: nothing.
    return "", "", ""


def pytest_internalerror(excrepr: object) -> None:
    _line("pytest", [str(excrepr)])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_worker:
        return
    # A test that was cut off has no line yet.
    for name, failures in _failures.items():
        _line(name, failures or ["was cut off"])
    if _counts["failed"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    summary = f"{_counts['passed']} passed, {_counts['failed']} failed"
    if path := os.environ.get("PEERS_SUMMARY"):
        with Path(path).open("a") as file:
            file.write(summary + "\n")
    else:
        print(summary, flush=True)
