"""nginx over HTTP/2, which closes connections while requests are on their way to it: no call is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nginx import Nginx
from pair import Pair

SERVER = 'server { listen 127.0.0.1:{port} http2; location / { return 200 "ok"; } }'


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path, SERVER)
    try:
        yield nginx
    finally:
        nginx.stop()


def answered(url: str, requests: int, *arguments: str) -> int:
    """The number of calls that were answered with 2xx."""
    h2load = shutil.which("h2load")
    assert h2load, "h2load is not there: apt-get install nghttp2-client"
    command = [h2load, f"--requests={requests}", *arguments, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"status codes: (\d+) 2xx", done.stdout)
    assert found, done.stdout
    return int(found[1])


@pytest.mark.parametrize("kind", ["few requests a connection", "defaults", "reloads"])
def test_no_call_is_lost_when_connections_end(
    kind: str, pair: Pair, workspace: str, value: Callable[[], str], nginx: Nginx, tmp_path: Path
) -> None:
    pair.put_secret(workspace, "TOKEN", value())
    pair.add_server(workspace, "nginx", nginx.origin, ["TOKEN"], protocol="PROTOCOL_HTTP2")
    url = f"{pair.url(workspace, 'nginx')}/"
    if kind == "few requests a connection":
        nginx.configure(f"keepalive_requests 3; {SERVER}")
        nginx.reload()
        time.sleep(1)
        body = tmp_path / "body"
        body.write_text("hello")
        assert answered(url, 200, "-c2", "-m4") == 200
        assert answered(url, 200, "-c2", "-m4", "-d", str(body)) == 200
        return
    over = threading.Event()

    def reloading() -> None:
        while kind == "reloads" and not over.wait(0.25):
            nginx.reload()

    reloads = threading.Thread(target=reloading)
    reloads.start()
    try:
        assert answered(url, 12_000, "-c4", "-m10") == 12_000
    finally:
        over.set()
        reloads.join()
