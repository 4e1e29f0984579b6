"""A stand-in for the API server of Kubernetes: objects in memory, over TLS, with the conflicts of `resourceVersion`."""

from __future__ import annotations

import copy
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from leaf import self_signed

TOKEN = "a-token-of-a-service-account"


class Api:
    """`rivals` is the number of writes before which somebody else changes the object, so that the writer meets a
    conflict."""

    def __init__(self, service_account: Path) -> None:
        self.service_account = service_account
        self.objects: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.rivals = 0
        self.conflicts = 0
        self.lock = threading.Lock()
        self.version = 0
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        """What the kubelet tells each container."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def put(self, path: str, object: dict[str, Any]) -> None:
        with self.lock:
            self._store(path, object)

    def get(self, path: str) -> dict[str, Any] | None:
        with self.lock:
            return copy.deepcopy(self.objects.get(path))

    def _store(self, path: str, object: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        object = copy.deepcopy(object)
        object.setdefault("metadata", {})["resourceVersion"] = str(self.version)
        self.objects[path] = object
        return object

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.calls.append(f"{method} {path}")
            if method == "GET":
                return (200, self.objects[path]) if path in self.objects else status(404, "not found")
            if method == "POST":
                path = f"{path}/{body['metadata']['name']}"
                if path in self.objects:
                    self.conflicts += 1
                    return status(409, "already exists")
                return 201, self._store(path, body)
            if method != "PUT":
                return status(405, "not allowed")
            if path not in self.objects:
                return status(404, "not found")
            if self.rivals:
                self.rivals -= 1
                self._store(path, self.objects[path])
            if self.objects[path]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
                self.conflicts += 1
                return status(409, "the object has been modified")
            return 200, self._store(path, body)


def status(code: int, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


@contextmanager
def serving(folder: Path) -> Iterator[Api]:
    """`folder` becomes the directory of a service account."""
    folder.mkdir()
    cert, key = self_signed(folder, "IP:127.0.0.1")
    (folder / "ca.crt").write_bytes(cert.read_bytes())
    (folder / "token").write_text(f"{TOKEN}\n")
    api = Api(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                code, object = status(401, "Unauthorized")
            else:
                code, object = api.answer(self.command, self.path, json.loads(body) if body else None)
            text = json.dumps(object).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> tuple[Any, Any]:
            accepted, address = super().get_request()
            return context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    api.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
