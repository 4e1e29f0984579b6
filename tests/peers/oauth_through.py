"""Points the server `dev/peer` at a server of MCP, and runs the OAuth client against the server's listener.

Usage: python oauth_through.py PKI INJECTOR LISTENER SERVER_URL, of which the conformance suite appends the last.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pair import call

CLIENT = Path(__file__).with_name("oauth_client.mjs")


def main(pki: str, injector: str, listener: str, url: str) -> None:
    server = urlsplit(url)
    peer = {"workspace": "dev", "name": "peer", "url": f"{server.scheme}://{server.netloc}"}
    call(Path(pki), injector, "injector.v1.ServerService/UpdateServer", {"server": peer, "updateMask": {"paths": ["url"]}})
    port = listener.rpartition(":")[2]
    os.execvp("node", ["node", str(CLIENT), f"http://localhost:{port}{server.path}"])


if __name__ == "__main__":
    main(*sys.argv[1:])
