"""What every module of peer tests shares."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator

import pytest

from pair import Pair

# The clients under test would send even calls to loopback to a proxy that these name.
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

_numbers = itertools.count(1)

# The files that take longest. Two files run at the same time, and a long one that begins last would run by itself.
LONGEST = ("test_compose.py", "test_memory.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A pair of services for each module: started anew, and ended before the next module starts its own."""
    pair = Pair.start(tmp_path_factory.mktemp("pair") / "dev")
    try:
        yield pair
    finally:
        exit_code = pair.stop()
    assert exit_code == 0, f"aerostack dev ended with {exit_code}:\n{pair.log.read_text()}"
    assert pair.values_in_log() == 0, f"{pair.log} holds values of secrets"


@pytest.fixture
def workspace(pair: Pair) -> str:
    """A workspace for each test."""
    name = f"peers-{next(_numbers)}"
    pair.create_workspace(name)
    return name


@pytest.fixture
def value() -> Callable[[], str]:
    """Values that were never a secret before."""
    return lambda: f"value-{secrets.token_urlsafe(24)}"
