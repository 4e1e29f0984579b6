"""The conformance suite of MCP: a client that authenticates itself by OAuth does so through a listener of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import Apart, certificates

MODULES = Path(os.environ.get("PEERS_NODE_MODULES", "node_modules"))
SUITE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
THROUGH = Path(__file__).with_name("oauth_through.py")

# Those that a client meets with an authorization code. Of the others, most are about what only the client can do wrong;
# `auth/dpop` and `auth/enterprise-managed-authorization` bind a token to the server's own URL.
SCENARIOS = [
    "auth/metadata-default",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/scope-from-www-authenticate",
    "auth/scope-from-scopes-supported",
    "auth/scope-omitted-when-undefined",
    "auth/scope-step-up",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-post",
    "auth/token-endpoint-auth-none",
    "auth/2025-03-26-oauth-metadata-backcompat",
    "auth/2025-03-26-oauth-endpoint-fallback",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """Both services, with a listener for the server `dev/peer`, which passes OAuth."""
    folder = tmp_path_factory.mktemp("oauth")
    listener = ("--listen-server", "127.0.0.1:0=dev/peer")
    pair = Apart.run(folder / "pair", certificates(folder / "dev"), *listener)
    try:
        pair.create_workspace("dev")
        pair.add_server("dev", "peer", "http://localhost:1", oauth="OAUTH_PASS")
        yield pair
    finally:
        pair.kill()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_client_of_oauth_passes_through_a_listener_of_its_own(pair: Apart, scenario: str) -> None:
    assert SUITE.exists(), f"{SUITE} is not there: npm ci, and PEERS_NODE_MODULES=node_modules"
    client = [sys.executable, str(THROUGH), str(pair.folder / "pki"), pair.injector, pair.dedicated[0]]
    done = subprocess.run(
        ["node", str(SUITE), "client", "--command", " ".join(client), "--scenario", scenario],
        env={**os.environ, "PEERS_NODE_MODULES": str(MODULES.resolve())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
