"""httpbin, which answers with what it was sent: with `SCRUB_ALL` the program finds the value nowhere in the answer, in no
form, and with `SCRUB_HEADERS` nowhere in the head."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from httpbin import app
from werkzeug.serving import make_server

from pair import Pair

# No form writes these characters in a way of its own, so whoever finds them has most of the value.
CORE = base64.urlsafe_b64encode(os.urandom(24)).decode()
# As in base64, with characters that the forms write in different ways.
VALUE = f"sk/{CORE}+/a=="

HEADER = {"header": {"name": "x-api-key", "value": "Key ${TOKEN}"}}
BEARER = {"header": {"name": "authorization", "value": "Bearer ${TOKEN}"}}
BASIC = {"basic": {"username": "user", "password": "${TOKEN}"}}
QUERY = {"query": {"name": "token", "value": "${TOKEN}"}}
FORM = {"form": {"field": "token", "value": "${TOKEN}"}}
JSON = {"json": {"pointer": "/auth/token", "value": "${TOKEN}"}}
COOKIE = {"cookie": {"name": "session", "value": "${PLAIN}"}}

PLAIN = f"plain-{base64.urlsafe_b64encode(os.urandom(18)).decode()}"
"""A value that is legal in a cookie."""


@pytest.fixture(scope="module")
def httpbin() -> Iterator[str]:
    """The origin of a running httpbin."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(timeout=10)
        assert not thread.is_alive(), "httpbin does not end"


@pytest.fixture
def server(pair: Pair, workspace: str, httpbin: str) -> Any:
    """Adds httpbin with injections, and returns its URL."""
    pair.put_secret(workspace, "TOKEN", VALUE)
    pair.put_secret(workspace, "PLAIN", PLAIN)

    def add(*injections: dict[str, Any], path: str = "", **more: Any) -> str:
        pair.add_server(workspace, "httpbin", f"{httpbin}{path}", injections=list(injections), **more)
        return pair.url(workspace, "httpbin")

    return add


def forms(value: str) -> set[bytes]:
    """The forms in which a program could read the value back."""
    raw = value.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), json.dumps(value)[1:-1].encode()}
    found |= {quote(value, safe=safe).encode() for safe in ("", "/", "/+=")}
    for padding in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # The first and the last characters also depend on the bytes around the value.
            found.add(encode(b"x" * padding + raw)[4 if padding else 0 : -4])
    return found


FORMS = forms(VALUE) | forms(PLAIN) | {CORE.encode()}


def found_in(*parts: bytes) -> list[bytes]:
    return [form for form in FORMS if any(form in part for part in parts)]


def head(answer: httpx2.Response) -> bytes:
    return b"\n".join(name + b": " + value for name, value in answer.headers.raw)


def answer_of(method: str, url: str, **request: Any) -> tuple[httpx2.Response, bytes]:
    """An answer, and its body as it came."""
    with httpx2.Client(timeout=20) as client, client.stream(method, url, **request) as answer:
        return answer, b"".join(answer.iter_raw())


REQUESTS: list[tuple[str, str, dict[str, Any], list[dict[str, Any]], str]] = [
    ("header", "/headers", {}, [HEADER], '"X-Api-Key": "Key '),
    ("bearer", "/bearer", {}, [BEARER], '"token": "'),
    ("basic", "/anything", {}, [BASIC], '"Authorization": "Basic '),
    ("query", "/anything", {"params": {"other": "1"}}, [QUERY], '"token": "'),
    ("cookie", "/cookies", {}, [COOKIE], '"session": "'),
    ("form", "/anything", {"method": "POST", "data": {"other": "1"}}, [FORM], '"token": "'),
    ("json", "/anything", {"method": "POST", "json": {"other": 1, "auth": {}}}, [JSON], '"token": "'),
    ("several", "/anything", {}, [HEADER, BASIC, QUERY, COOKIE], '"session='),
    ("stream", "/stream/20", {}, [HEADER, QUERY], '"id": 19'),
    ("large", "/anything", {"method": "POST", "content": b"x" * 300_000}, [HEADER], '"X-Api-Key": "Key '),
]
each_request = pytest.mark.parametrize("case", REQUESTS, ids=[case[0] for case in REQUESTS])


@each_request
def test_no_form_of_the_value_is_in_a_scrubbed_answer(server: Any, case: tuple[Any, ...]) -> None:
    _, path, request, injections, shown = case
    request = dict(request)
    url = server(*injections, scrub="SCRUB_ALL")
    answer, body = answer_of(request.pop("method", "GET"), f"{url}{path}", **request)
    assert answer.status_code == 200, body
    assert shown.encode() in body, "what stands around the value is left alone"
    assert b"****" in body, "the value came back, and was masked"
    assert found_in(head(answer), body) == []


@each_request
def test_without_scrubbing_of_bodies_the_value_comes_back(server: Any, case: tuple[Any, ...]) -> None:
    _, path, request, injections, _ = case
    request = dict(request)
    url = server(*injections)
    answer, body = answer_of(request.pop("method", "GET"), f"{url}{path}", **request)
    assert answer.status_code == 200, body
    assert found_in(body), "the test looks for the form in which httpbin answers"
    assert found_in(head(answer)) == [], "heads are scrubbed by default"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "brotli"])
def test_a_body_that_is_encoded_all_the_same_is_scrubbed(server: Any, encoding: str) -> None:
    # httpbin encodes these answers whatever the request accepts.
    url = server(HEADER, scrub="SCRUB_ALL")
    answer, body = answer_of("GET", f"{url}/{encoding}", headers={"accept-encoding": "gzip, deflate, br"})
    assert answer.status_code == 200, body
    assert "content-encoding" not in answer.headers, "the injector decoded it"
    told = json.loads(body)
    assert set(told["headers"]["X-Api-Key"].removeprefix("Key ")) == {"*"}
    assert found_in(head(answer), body) == []


def test_a_value_of_the_path_is_not_in_the_answer(server: Any) -> None:
    url = server(path="/anything/before-${PLAIN}", scrub="SCRUB_ALL")
    answer, body = answer_of("GET", f"{url}/after")
    assert answer.status_code == 200, body
    assert json.loads(body)["url"].endswith("/after")
    assert found_in(head(answer), body) == []


def test_redirects_and_cookies_of_the_head_are_scrubbed(server: Any) -> None:
    # httpbin sets what it is sent in the query as header fields, as cookies, and as the target of a redirect.
    url = server({"query": {"name": "url", "value": "/anything?token=${PLAIN}"}})
    answer, _ = answer_of("GET", f"{url}/redirect-to")
    assert answer.status_code == 302
    assert answer.headers["location"].endswith("/anything?token=" + "*" * len(PLAIN)), answer.headers["location"]

    for path in ("/response-headers", "/cookies/set"):
        answer, _ = answer_of("GET", f"{url}{path}")
        assert b"****" in head(answer), head(answer)
        assert found_in(head(answer)) == []


def test_an_echo_can_end_the_answer(server: Any) -> None:
    url = server(QUERY, scrub="SCRUB_ALL", onEcho="ON_ECHO_BLOCK")
    answer, body = answer_of("GET", f"{url}/response-headers")
    assert answer.status_code == 502
    assert answer.headers["x-aerostack-reason"] == "UPSTREAM_ECHOED_SECRET"
    assert found_in(head(answer), body) == []
    # A body is already on its way when the value comes.
    try:
        answer, body = answer_of("GET", f"{url}/anything")
    except httpx2.TransportError:
        return
    assert answer.status_code == 502, body
    assert found_in(head(answer), body) == []


def test_what_has_no_value_in_it_is_left_alone(server: Any, httpbin: str) -> None:
    url = server(HEADER, scrub="SCRUB_ALL")
    for path in ("/bytes/65536?seed=7", "/drip?numbytes=20&duration=0.2&delay=0", "/image/png", "/encoding/utf8"):
        through, body = answer_of("GET", f"{url}{path}")
        direct, same = answer_of("GET", f"{httpbin}{path}")
        assert (through.status_code, body) == (direct.status_code, same), path
        assert through.headers["content-length"] == direct.headers["content-length"], path
