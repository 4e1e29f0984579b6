"""Chromium, as a web page drives it: whatever a page does, nothing of it reaches an upstream through the injector."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from apart import Apart, certificates

# Another name of the data plane, which browsers take for a host somewhere: to such ones they say little over plain HTTP.
HOST = "injector.test"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-dev-shm-usage", "--disable-component-update", f"--host-resolver-rules=MAP {HOST} 127.0.0.1"),
]
SECONDS = 60


class Site(ThreadingHTTPServer):
    """Serves pages, and remembers what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], str]] = {}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.rfile.read(length)
        self.server.asked.append(self.path)
        status, headers, text = self.server.pages.get(self.path, (200, {}, "ok"))
        self.send_response(status)
        for name, value in {"content-type": "text/html", "content-length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_OPTIONS = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.shutdown()
    site.server_close()


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    pki = certificates(tmp_path_factory.mktemp("pki") / "dev")
    pair = Apart.run(tmp_path_factory.mktemp("browser") / "pair", pki, "--host", HOST)
    try:
        yield pair
    finally:
        exit_code = pair.stop()
    assert exit_code == 0


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], None]:
    """Opens a URL as from the address bar, and waits until the page has done all that it does."""
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not on the PATH: apt-get install chromium"

    def browse(url: str) -> None:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [chromium, *FLAGS, profile, "--virtual-time-budget=3000", "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr.decode()[-3000:]

    return browse


def pages(target: str) -> dict[str, tuple[int, dict[str, str], str]]:
    """Ways in which a page has a browser send a request to `target`, by their names."""
    form = f'<form id=f action="{target}" %s><input name=a value=b></form><script>f.submit()</script>'
    parts = {
        "image": f'<img src="{target}">',
        "script": f'<script src="{target}"></script>',
        "style": f'<link rel=stylesheet href="{target}">',
        "prefetch": f'<link rel=prefetch href="{target}">',
        "frame": f'<iframe src="{target}"></iframe>',
        "object": f'<object data="{target}"></object>',
        "video": f'<video src="{target}" autoplay></video>',
        "fetch": f'<script>fetch("{target}", {{mode: "no-cors"}})</script>',
        "cors": f'<script>fetch("{target}")</script>',
        "post": f'<script>fetch("{target}", {{mode: "no-cors", method: "POST", body: "x"}})</script>',
        "put": f'<script>fetch("{target}", {{method: "PUT", body: "x"}})</script>',
        "beacon": f'<script>navigator.sendBeacon("{target}", "x")</script>',
        "events": f'<script>new EventSource("{target}")</script>',
        "socket": f'<script>new WebSocket("{target.replace("http", "ws", 1)}")</script>',
        "link": f'<a id=a href="{target}">x</a><script>a.click()</script>',
        "location": f'<script>location = "{target}"</script>',
        "refresh": f'<meta http-equiv=refresh content="0; url={target}">',
        "unreferred": f'<meta name=referrer content=no-referrer><img src="{target}">',
        "form": form % "",
        "post form": form % "method=post",
        "text form": form % 'method=post enctype="text/plain"',
    }
    told = {name: (200, {}, f"<!doctype html><body>{part}") for name, part in parts.items()}
    return told | {
        "redirect": (302, {"location": target}, ""),
        "kept redirect": (307, {"location": target}, ""),
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", HOST])
def test_nothing_that_a_page_does_reaches_an_upstream(
    apart: Apart, site: Site, browse: Callable[[str], None], host: str
) -> None:
    workspace = f"browser-{host.replace('.', '-')}"
    apart.create_workspace(workspace)
    apart.put_secret(workspace, "API_KEY", "value-that-no-page-may-use")
    upstream = Site()
    apart.add_server(workspace, "api", upstream.origin, ["API_KEY"])
    _, port = apart.address
    target = f"http://{host}:{port}/{workspace}/api/reached"
    calls = 0
    for name, page in pages(target).items():
        path = f"/{workspace}/{name.replace(' ', '-')}"
        site.pages[path] = page
        browse(f"{site.origin}{path}")
        assert path in site.asked, f"{name}: the browser did not open the page"
        now = apart.metric(apart.injector_service, "aerostack_injector_calls_total")
        assert now > calls, f"{name}: nothing was asked of the injector"
        calls = now
        assert upstream.asked == [], f"{name}: {upstream.asked}"
    # A program may call, under the same name.
    program = ["curl", "-sSf", "-o", "/dev/null", "--noproxy", "*", "-H", f"Host: {host}", apart.url(workspace, "api")]
    subprocess.run(program, check=True, timeout=SECONDS)
    assert len(upstream.asked) == 1
    upstream.shutdown()
    upstream.server_close()


def test_a_program_in_node_is_no_page(apart: Apart, site: Site) -> None:
    """Its `fetch` sends `Sec-Fetch-Mode: cors` by itself."""
    apart.create_workspace("node")
    upstream = Site()
    apart.add_server("node", "api", upstream.origin)
    script = "fetch(process.argv[1]).then(a => process.exit(a.ok ? 0 : 1))"
    subprocess.run(["node", "-e", script, f"{apart.url('node', 'api')}/called"], check=True, timeout=SECONDS)
    assert upstream.asked == ["/called"]
    upstream.shutdown()
    upstream.server_close()
