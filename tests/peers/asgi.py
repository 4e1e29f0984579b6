"""Runs an ASGI application in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from pair import eventually


@contextmanager
def served(app: ASGIApp, lifespan: str = "auto") -> Iterator[str]:
    """The origin of `app` on a free port of loopback."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", lifespan=lifespan, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually("the application listens", lambda: server.started)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive(), "the application does not end"
