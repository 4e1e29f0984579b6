"""A stand-in for the API server of a cluster, on loopback and in memory, for helm and kubectl as clients: discovery, objects by
name, lists by label, the kinds of patches that both clients send, and tokens of service accounts. Jobs and pods are complete as
soon as they are created, workloads are ready, and what Kubernetes lets nobody change of a
Secret, a StatefulSet and a Deployment is immutable. Nothing is validated, defaulted or run. With
`ServiceAccounts` it serves pods, too: over TLS, to whoever has a token, as far as roles permit."""

from __future__ import annotations

import copy
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from kubernetes_protobuf import MAGIC, decoded
from object_store import RESOURCES, Key, ObjectStore, Refusal, Selector
from service_accounts import ServiceAccounts, is_allowed, reads_keys

# A path is /api/v1/… or /apis/GROUP/VERSION/…, with a namespace, a plural, a name and a subresource.
PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?(?:/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[a-z]+))?)?)?$"
)
WATCH_SECONDS = 30
# The token of the user of the kubeconfig, who may do everything.
USER_TOKEN = "test"
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def parsed(body: bytes) -> dict[str, Any]:
    return decoded(body) if body.startswith(MAGIC) else yaml.safe_load(body)


def merged(old: Any, new: Any) -> Any:
    """A merge patch (RFC 7396), which is near enough to what the other kinds of patches do to the objects of a chart. Webhooks of
    a configuration are merged by their names, so that a field that the patch does not have stays."""
    if isinstance(new, list) and new and isinstance(new[0], dict) and "clientConfig" in new[0]:
        before = {each["name"]: each for each in old or []}
        return [merged(before.get(each["name"]), each) for each in new]
    if not isinstance(new, dict):
        return copy.deepcopy(new)
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        elif not key.startswith("$"):
            result[key] = merged(result.get(key), value)
    return result


class ApiServer(ObjectStore):
    """`requests` has the method and the path of every request for a change."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        accounts: ServiceAccounts | None = None,
    ) -> None:
        super().__init__()
        self.accounts = accounts
        self.requests: list[tuple[str, str]] = []
        self.closed = False
        api = self

        class Handler(_Handler):
            server_of_objects = api

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        if tls:
            # The handshake belongs to the thread of the connection.
            self._server.socket = tls.wrap_socket(self._server.socket, True, do_handshake_on_connect=False)
        self.address, self.port = address, self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{address}:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.closed = True
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self) -> str:
        context = {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "test", "contexts": [context]}
        verify = {"insecure-skip-tls-verify": True} if self.url.startswith("https") else {}
        config["clusters"] = [{"name": "test", "cluster": {"server": self.url, **verify}}]
        config["users"] = [{"name": "test", "user": {"token": USER_TOKEN}}]
        return json.dumps(config)


class _Handler(BaseHTTPRequestHandler):
    server_of_objects: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def answer(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        try:
            self.route(body)
        except Refusal as refusal:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": refusal.code}
            self.answer(refusal.code, {**status, "reason": refusal.reason, "message": str(refusal)})
        except ConnectionError:
            # The client has seen enough.
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def route(self, body: bytes) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/version":
            return self.answer(200, {"major": "1", "minor": "37", "gitVersion": "v1.37.0", "platform": "linux/amd64"})
        if url.path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if url.path == "/apis":
            return self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups()})
        if url.path == "/.well-known/openid-configuration":
            return self.answer(200, {"issuer": "https://kubernetes.default.svc.cluster.local"})
        if url.path == "/openapi/v3":
            paths = {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in map(_path, RESOURCES)}
            return self.answer(200, {"paths": paths})
        if url.path.startswith("/openapi/v3/"):
            return self.answer(200, _openapi(url.path.removeprefix("/openapi/v3/")))
        if url.path == "/openid/v1/jwks" and self.server_of_objects.accounts:
            self.authorize("get", "", "", "", "")
            return self.answer(200, self.server_of_objects.accounts.key_set())
        found = PATH.match(url.path)
        version = found and (found["core"] or found["group"])
        if not found or version not in RESOURCES:
            raise Refusal(404, "NotFound", f"no such path: {url.path}")
        if not found["plural"]:
            resources = [_resource(kind, *names) for kind, names in RESOURCES[version].items()]
            return self.answer(200, {"kind": "APIResourceList", "groupVersion": version, "resources": resources})
        names = {plural: namespaced for plural, namespaced in RESOURCES[version].values()}
        if found["plural"] not in names:
            raise Refusal(404, "NotFound", f"no such resource: {found['plural']}")
        if self.command != "GET":
            self.server_of_objects.requests.append((self.command, url.path))
        namespace = (found["namespace"] or "") if names[found["plural"]] else ""
        self.authorize(VERBS[self.command], version.rpartition("/")[0], found["plural"], namespace, found["name"] or "")
        self.object((version, found["plural"], namespace, found["name"] or ""), found["sub"] or "", query, body)

    def authorize(self, verb: str, group: str, resource: str, namespace: str, name: str) -> None:
        """Lets the user of the kubeconfig do everything, and an account what its roles permit. No resource: the keys of tokens."""
        api = self.server_of_objects
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if api.accounts is None or token == USER_TOKEN:
            return
        account = api.accounts.account(token)
        if account is None:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        objects = list(api.objects.values())
        allowed = is_allowed(objects, account, verb, group, resource, namespace, name)
        if not (allowed if resource else reads_keys(objects, account)):
            raise Refusal(403, "Forbidden", f"{':'.join(account)} may not {verb} {resource or 'the keys'} {name}")

    def object(self, key: Key, sub: str, query: dict[str, str], body: bytes) -> None:
        api = self.server_of_objects
        if sub == "token":
            return self.answer(201, _token_request(api.accounts, key, parsed(body)))
        if self.command == "GET" and not key[3]:
            selector = Selector.of(key, query)
            return self.watch(selector, query) if query.get("watch") in ("1", "true") else self.list(selector)
        dry = "dryRun" in query
        if self.command == "POST":
            new = parsed(body)
            key = (*key[:3], new["metadata"]["name"])
            if key in api.objects:
                raise Refusal(409, "AlreadyExists", f'{key[1]} "{key[3]}" already exists')
            return self.answer(201, new if dry else api.store(key, new))
        old = api.objects.get(key)
        apply = "apply-patch" in self.headers.get("Content-Type", "")
        if old is None and not (self.command == "PATCH" and apply):
            raise Refusal(404, "NotFound", f'{key[1]} "{key[3]}" not found')
        if self.command == "GET":
            return self.answer(200, old or {})
        if self.command == "DELETE":
            if not dry:
                api.delete(key)
            return self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        new = parsed(body)
        if self.command == "PATCH":
            new = merged(old, new)
        return self.answer(200 if old else 201, new if dry else api.store(key, new))

    def list(self, selector: Selector) -> None:
        listed = self.server_of_objects.selected(selector)
        number = str(self.server_of_objects.number)
        meta = {"kind": f"{selector.kind}List", "apiVersion": selector.version, "metadata": {"resourceVersion": number}}
        self.answer(200, {**meta, "items": listed})

    def watch(self, selector: Selector, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        api = self.server_of_objects
        seen = int(query.get("resourceVersion") or 0)
        if query.get("sendInitialEvents") == "true":
            seen = api.number
            for item in api.selected(selector):
                self.event("ADDED", item)
            end = {"resourceVersion": str(seen), "annotations": {"k8s.io/initial-events-end": "true"}}
            self.event("BOOKMARK", {"apiVersion": selector.version, "kind": selector.kind, "metadata": end})
        deadline = time.monotonic() + WATCH_SECONDS
        while not api.closed and time.monotonic() < deadline:
            for number, type_, item in api.events_after(seen):
                seen = number
                if selector.matches(item):
                    self.event(type_, item)

    def event(self, type_: str, item: dict[str, Any]) -> None:
        self.wfile.write(json.dumps({"type": type_, "object": item}).encode() + b"\n")
        self.wfile.flush()


def _groups() -> list[dict[str, Any]]:
    versions = [{"groupVersion": name, "version": name.partition("/")[2]} for name in RESOURCES if "/" in name]
    return [
        {"name": each["groupVersion"].partition("/")[0], "versions": [each], "preferredVersion": each}
        for each in versions
    ]


def _path(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def _openapi(path: str) -> dict[str, Any]:
    """All that a client looks for: that the server validates fields itself, so that the client need not."""
    version = path.split("/", 1)[1]
    group = version.rpartition("/")[0]
    parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    paths = {}
    for kind, (plural, namespaced) in RESOURCES[version].items():
        of = {"group": group, "version": version.rpartition("/")[2], "kind": kind}
        patch = {"parameters": parameters, "x-kubernetes-group-version-kind": of, "responses": {}}
        paths[f"/{path}/{'namespaces/{namespace}/' * namespaced}{plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.37.0"}, "paths": paths}


def _resource(kind: str, plural: str, namespaced: bool) -> dict[str, Any]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}


def _token_request(accounts: ServiceAccounts | None, key: Key, request: dict[str, Any]) -> dict[str, Any]:
    """Without `accounts`, the token only says what was asked for."""
    spec = request.get("spec", {})
    if accounts:
        signed = accounts.token(key[2], key[3], spec["audiences"][0], spec.get("expirationSeconds") or 3600)
        return {**request, "status": {"token": signed, "expirationTimestamp": "2027-01-01T01:00:00Z"}}
    token = f"{key[2]}:{key[3]}:{','.join(spec.get('audiences') or [])}:{spec.get('expirationSeconds')}"
    return {**request, "status": {"token": token, "expirationTimestamp": "2027-01-01T01:00:00Z"}}
