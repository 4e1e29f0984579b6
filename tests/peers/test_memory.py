"""After a call, no copy of a secret is left in either service: their memory is read from outside, as root can. Each is a
process of its own, as in production."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from hpack import Encoder

from apart import Apart, certificates
from memory import contents, copies, forms, is_left, pieces
from memory_site import (
    ALL,
    BASIC,
    BEARER,
    COOKIE,
    FIRST,
    FORM,
    HEADERS,
    HTTP1,
    HTTP1_TLS,
    HTTP2,
    HTTP2_TLS,
    IN_LARGE_HEAD,
    JSON,
    LARGE_JSON,
    METADATA,
    OVER_HTTP1,
    OVER_HTTP2,
    PATH,
    POINTER,
    QUERY,
    SECONDS,
    SHORT,
    SHORT_QUERY,
    WIRES,
    Failing,
    Placement,
    Site,
    Wire,
    breaks,
    cancelled,
    cut_off,
    given_up,
    goaway,
    header_value,
    invalid_at_its_end,
    late,
    malformed_later,
    post,
    random,
    refused,
    reset,
    sent,
    text_value,
    truncated,
    url_value,
)
from memory_site import site as made
from pair import eventually

# How long after a call its secrets may still be found.
AFTER_SECONDS = 1.0
# And where SECURITY.md says that it takes longer.
RETIRED_SECONDS = 10.0
CALLS = 50

Say = Callable[[str, object], None]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    pki = certificates(tmp_path_factory.mktemp("pki") / "dev")
    pair = Apart.run(tmp_path_factory.mktemp("memory") / "pair", pki)
    try:
        yield pair
        assert pair.stop() == 0, pair.folder
        assert pair.values_in_log() == 0, "a log holds values of secrets"
    finally:
        pair.kill()


@pytest.fixture
def workspace(pair: Apart) -> str:
    """For each test one, for any number of secrets."""
    name = f"memory-{random(12).lower()}"
    workspace = {"name": name, "plan": "PLAN_ENTERPRISE"}
    pair.call(pair.vault, "vault.v1.WorkspaceService/CreateWorkspace", {"workspace": workspace})
    return name


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """What is said is printed beside the test's name."""
    return record_property


@pytest.fixture
def site(pair: Apart, workspace: str) -> Iterator[Callable[..., Site]]:
    """Makes sites, and closes their upstreams. `more` are fields of the server."""
    with contextlib.ExitStack() as sites:
        numbers = itertools.count()

        def site(wire: Wire, placement: Placement, value: str | None = None, **more: Any) -> Site:
            return sites.enter_context(made(pair, workspace, next(numbers), wire, placement, value, more))

        yield site


# The places in a body that is not a gRPC message.
IN_BODY = (JSON, LARGE_JSON, POINTER, FORM)
# Where nothing may be found a second after a call.
COVERED = [
    *((wire, placement) for wire in WIRES for placement in (HEADERS, BEARER, BASIC, COOKIE, QUERY, PATH)),
    *((wire, METADATA) for wire in OVER_HTTP2),
    *((wire, placement) for wire in OVER_HTTP1 for placement in IN_BODY),
    *((wire, IN_LARGE_HEAD) for wire in WIRES),
    # In HTTP/1.1 they are as good as any.
    *((wire, placement) for wire in OVER_HTTP1 for placement in (SHORT, SHORT_QUERY)),
]
# Where that takes as long as a connection is kept.
UNCOVERED = [
    (wire, placement)
    for wire in OVER_HTTP2
    for placement in (*IN_BODY, FIRST, ALL, SHORT, SHORT_QUERY)
]


# --- What is found -----------------------------------------------------------------------------------------------


def memories(pair: Apart) -> dict[str, list[bytes]]:
    """What each service has at this moment, in all memory that it can write: half of what it can read are its binary and
    libraries."""
    return {service.name: list(contents(service.pid, only_written=True)) for service in pair.services()}


def nothing_is_left(pair: Apart, value: str, after: str) -> None:
    time.sleep(AFTER_SECONDS)
    left = {name: copies(memory, value) for name, memory in memories(pair).items()}
    assert not any(any(found.values()) for found in left.values()), f"{after}: {left}"


def seen_while_held(site: Site) -> bool:
    """Whether the injector has the value while the upstream has the call, and does not answer it yet."""
    with ThreadPoolExecutor(1) as caller:
        calling = caller.submit(site.call, "hold")
        site.holds("any")
        held = copies(contents(site.pair.injector_service.pid, only_written=True), site.value)
        site.upstream.let_go()
        calling.result(SECONDS)
    return any(held.values())


def forms_of(site: Site) -> set[str]:
    """In which forms a request that was not sent has its value."""
    if site.placement in (JSON, LARGE_JSON, POINTER):
        return {"JSON"}
    if site.placement is BASIC:
        return {"base64"}
    if site.placement in (QUERY, PATH) and site.wire.version == 2:
        return {"percent", "percent in HPACK"}
    if site.placement in (QUERY, PATH, FORM):
        return {"percent"}
    if site.placement in (HEADERS, BEARER, COOKIE, METADATA) and site.wire.version == 2:
        return {"raw", "HPACK"}
    return {"raw"}


def is_dialled(site: Site) -> bool:
    """Whether a connection to it is being made, which the kernel does not answer yet."""
    asked, port = "02", f":{site.upstream.port:04X}"
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(fields[2].endswith(port) and fields[3] == asked for fields in lines)


def seen_while_dialled(*sites: Site) -> None:
    """The positive control: while a call waits for its connection, its value is there in its forms. Then the doors
    are opened, and the calls end well."""
    with ThreadPoolExecutor(len(sites)) as callers:
        calling = [callers.submit(site.call) for site in sites]
        for site in sites:
            eventually(f"{site.name} is dialled", partial(is_dialled, site))
        memory = list(contents(sites[0].pair.injector_service.pid, only_written=True))
        for site in sites:
            site.upstream.open()
        for call in calling:
            call.result(SECONDS)
    for site in sites:
        site.arrived()
        seen = {form for form, count in copies(memory, site.value).items() if count}
        assert seen >= forms_of(site), f"{site}: only {seen} found while it was dialled"


@pytest.mark.parametrize("before", range(8))
def test_a_value_is_found_in_hpack_wherever_in_a_byte_it_begins(before: int) -> None:
    # Five bits each, and six at the end, so that it is not the same from the other side.
    begins = "0" * before
    value = header_value()
    sent = Encoder().encode([("x", f"{begins}{value}%")], huffman=True)
    assert all(any(code in sent for code in forms(piece)["HPACK"]) for piece in pieces(value))
    other = Encoder().encode([("x", f"{begins}{header_value()}%")], huffman=True)
    assert not any(code in other for piece in pieces(value) for code in forms(piece)["HPACK"])


@pytest.mark.parametrize("before", range(3))
def test_a_value_is_found_in_base64_wherever_in_three_bytes_it_begins_and_in_json(before: int) -> None:
    value = text_value()
    within = "0" * before + value + "!"
    coded = base64.b64encode(within.encode())
    assert all(any(form in coded for form in forms(piece)["base64"]) for piece in pieces(value))
    in_json = [form for piece in pieces(value) for form in forms(piece)["JSON"]]
    assert in_json and all(form in json.dumps(within).encode() for form in in_json)


def test_a_value_is_found_percent_encoded_and_in_the_hpack_of_that() -> None:
    value = url_value()
    within = urlencode({"x": f"0{value}!"})
    in_url = [form for piece in pieces(value) for form in forms(piece)["percent"]]
    assert in_url and all(form in within.encode() for form in in_url)
    # In HTTP/2 this is the field `:path`.
    sent = Encoder().encode([(":path", f"/?{within}")], huffman=True)
    for coded in (forms(piece)["percent in HPACK"] for piece in pieces(value)):
        assert not coded or any(code in sent for code in coded)


@pytest.mark.parametrize(("wire", "placement"), COVERED, ids=str)
def test_nothing_is_left_a_second_after_a_call(
    pair: Apart, site: Callable[..., Site], wire: Wire, placement: Placement
) -> None:
    canary = site(wire, placement)
    seen_while_dialled(canary)
    nothing_is_left(pair, canary.value, "after a put and a call")
    # What is in the head is kept until that was answered; what is in the body is not.
    assert seen_while_held(canary) == (placement not in IN_BODY)
    canary.calls(CALLS, canary.call)
    canary.arrived()
    connections = {received.connection for received in canary.upstream.received}
    assert len(connections) < CALLS / 2, "they are not kept, so it says nothing that they are clean"
    nothing_is_left(pair, canary.value, f"after {CALLS} calls")


@pytest.mark.parametrize("how", ["echo", "echo-body"])
@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_nothing_is_left_of_a_value_that_the_upstream_echoed(
    pair: Apart, site: Callable[..., Site], wire: Wire, how: str
) -> None:
    canary = site(wire, HEADERS, scrub="SCRUB_ALL")
    seen_while_dialled(canary)
    canary.call(how)
    nothing_is_left(pair, canary.value, "after an echo")
    canary.calls(CALLS, partial(canary.call, how))
    nothing_is_left(pair, canary.value, f"after {CALLS} echoes")


def gone_within(pair: Apart, sites: Sequence[Site], say: Say, seconds: float = RETIRED_SECONDS) -> None:
    """Nothing of their values is found after this time, at the latest."""
    began = time.monotonic()
    left = list(sites)
    gone: list[tuple[Site, float]] = []
    while left:
        at = time.monotonic() - began
        memory = [part for service in pair.services() for part in contents(service.pid, only_written=True)]
        still = [site for site in left if is_left(memory, site.value)]
        gone += [(site, at) for site in left if site not in still]
        left = still
        assert at < seconds, f"still found after {at:.1f} s: {', '.join(map(str, left))}"
    say("gone after", ", ".join(f"{at:.1f} s ({site})" for site, at in gone))
    memories_now = memories(pair)
    for site in sites:
        found = {name: copies(memory, site.value) for name, memory in memories_now.items()}
        assert not any(any(forms.values()) for forms in found.values()), f"{site}: {found}"


@pytest.mark.timeout(300)
def test_what_has_no_cover_over_http2_is_gone_in_the_time_that_is_stated(
    pair: Apart, site: Callable[..., Site], say: Say
) -> None:
    canaries = [site(wire, placement) for wire, placement in UNCOVERED]
    seen_while_dialled(*canaries)
    gone_within(pair, canaries, say)
    for canary in canaries:
        canary.calls(CALLS, canary.call)
        canary.arrived()
    gone_within(pair, canaries, say)


# --- Calls that fail ---------------------------------------------------------------------------------------------


def each(placements: Sequence[Placement], wires: Sequence[Wire], name: str, failing: Failing) -> list[Any]:
    """One failure in these placements and wires."""
    return [
        pytest.param(wire, placement, failing, id=f"{name}-{placement}-{wire}")
        for placement in placements
        for wire in wires
    ]


OF_THE_UPSTREAM = [
    *each([HEADERS, QUERY], WIRES, "breaks", breaks),
    *each(IN_BODY, OVER_HTTP1, "breaks", breaks),
    *each([HEADERS], WIRES, "reset", reset),
    *each([JSON], OVER_HTTP1, "reset", reset),
    *each([HEADERS], OVER_HTTP2, "goaway", goaway),
    *each([HEADERS], WIRES, "cut-off", cut_off),
    *each([JSON], OVER_HTTP1, "cut-off", cut_off),
]
OF_THE_PROGRAM = [
    *each([HEADERS, PATH], WIRES, "given-up", given_up),
    *each(IN_BODY, OVER_HTTP1, "given-up", given_up),
    *each([METADATA], OVER_HTTP2, "cancelled", cancelled),
    *each([METADATA], OVER_HTTP2, "late", late),
    # Where it is held back until the body was found good.
    *each([LARGE_JSON], WIRES, "truncated", truncated),
    *each([LARGE_JSON], WIRES, "invalid-at-its-end", invalid_at_its_end),
]


@pytest.mark.parametrize(("wire", "placement", "failing"), [*OF_THE_UPSTREAM, *OF_THE_PROGRAM])
def test_nothing_is_left_of_a_secret_whose_call_failed(
    pair: Apart, site: Callable[..., Site], wire: Wire, placement: Placement, failing: Failing
) -> None:
    canary = site(wire, placement)
    seen_while_dialled(canary)
    before = decrypts(pair)
    canary.calls(CALLS, partial(failing, canary))
    decrypted = decrypts(pair) - before
    # A request that meets a GOAWAY frame on its way is sent again, and its secret is decrypted again.
    is_sent_again = failing is goaway and decrypted > CALLS
    assert decrypted == CALLS or is_sent_again, "it is not known whether it was decrypted"
    nothing_is_left(pair, canary.value, f"{CALLS} failed")


def decrypts(pair: Apart) -> int:
    return pair.metric(pair.vault_service, "aerostack_vault_decrypts_total")


@pytest.mark.parametrize("placement", [HEADERS, QUERY, JSON], ids=str)
@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_nothing_is_left_of_a_secret_that_nobody_takes(
    pair: Apart, site: Callable[..., Site], wire: Wire, placement: Placement
) -> None:
    canary = site(wire, placement)
    canary.upstream.shut()
    before = decrypts(pair)
    canary.calls(CALLS, partial(refused, canary))
    assert decrypts(pair) - before == CALLS
    nothing_is_left(pair, canary.value, "nobody listens")


@pytest.mark.parametrize("placement", [HEADERS, JSON], ids=str)
@pytest.mark.parametrize("wire", [HTTP1_TLS, HTTP2_TLS], ids=str)
def test_nothing_is_left_of_a_secret_for_whom_nobody_vouches(
    pair: Apart, site: Callable[..., Site], wire: Wire, placement: Placement
) -> None:
    canary = site(wire, placement, tls={})
    canary.upstream.open()
    before = decrypts(pair)
    canary.calls(CALLS, partial(refused, canary))
    assert decrypts(pair) - before == CALLS and not canary.upstream.received
    nothing_is_left(pair, canary.value, "its certificate is of an unknown CA")


@pytest.mark.parametrize("placement", [HEADERS, BASIC, COOKIE, QUERY, PATH], ids=str)
def test_nothing_is_left_of_a_secret_that_cannot_be_placed(
    pair: Apart, site: Callable[..., Site], placement: Placement
) -> None:
    canary = site(HTTP1, placement, value=f"{random(24)}\n{random(24)}")
    before = decrypts(pair)
    canary.calls(CALLS, partial(refused, canary))
    assert decrypts(pair) - before == CALLS
    nothing_is_left(pair, canary.value, f"not legal: {placement}")


def test_nothing_is_left_of_a_secret_beside_one_that_is_missing(pair: Apart, site: Callable[..., Site]) -> None:
    # The name of what the first site of a test gets.
    both = ["CANARY_0", "ABSENT"]
    canary = site(HTTP1, HEADERS, secrets=both, requiredSecrets=["ABSENT"])
    before = decrypts(pair)
    canary.calls(CALLS, partial(refused, canary))
    assert decrypts(pair) > before
    nothing_is_left(pair, canary.value, "another one is missing")


def test_nothing_is_left_of_a_secret_that_belongs_elsewhere(pair: Apart, site: Callable[..., Site]) -> None:
    canary = site(HTTP1, HEADERS)
    put = {"workspace": canary.workspace, "name": canary.secret, "text": canary.value}
    elsewhere = {**put, "upstreamOrigins": ["https://elsewhere.example"]}
    pair.call(pair.vault, "vault.v1.SecretService/PutSecret", elsewhere)
    before = decrypts(pair)
    canary.calls(CALLS, partial(refused, canary))
    assert decrypts(pair) - before == CALLS
    nothing_is_left(pair, canary.value, "bound to another origin")


@pytest.mark.parametrize("placement", [HEADERS, QUERY], ids=str)
@pytest.mark.parametrize("wire", OVER_HTTP1, ids=str)
def test_nothing_is_left_of_a_handshake_while_its_connection_is_open(
    pair: Apart, site: Callable[..., Site], wire: Wire, placement: Placement
) -> None:
    canary = site(wire, placement)
    canary.upstream.open()
    asks = ("Connection: upgrade", "Upgrade: websocket")
    with contextlib.ExitStack() as connections:
        for _ in range(CALLS):
            connection = connections.enter_context(sent(canary, canary.path("upgrade"), 0, b"", *asks))
            assert connection.recv(1024).startswith(b"HTTP/1.1 101")
        canary.arrived()
        nothing_is_left(pair, canary.value, "upgraded")
    nothing_is_left(pair, canary.value, "upgraded and closed")


def test_nothing_is_left_when_the_vault_dies(pair: Apart, site: Callable[..., Site]) -> None:
    canary = site(HTTP1, HEADERS)
    canary.upstream.open()
    statuses: set[int] = set()

    def call_until_it_fails() -> None:
        while (status := post(canary, "ok")) == 200:
            statuses.add(status)
        statuses.add(status)

    with ThreadPoolExecutor(10) as callers:
        calling = [callers.submit(call_until_it_fails) for _ in range(10)]
        eventually("calls are made", lambda: len(canary.upstream.received) > CALLS)
        pair.vault_service.kill()
        for call in calling:
            call.result(SECONDS)
    assert statuses == {200, 503}
    canary.calls(CALLS, partial(refused, canary, status=503))
    time.sleep(AFTER_SECONDS)
    left = copies(contents(pair.injector_service.pid), canary.value)
    assert not any(left.values()), f"without a vault: {left}"
    pair.start_vault()
    eventually("calls work again", lambda: post(canary, "ok") == 200, SECONDS)
    nothing_is_left(pair, canary.value, "with a new one")


GIVEN_UP = [
    *each([*IN_BODY, SHORT], OVER_HTTP2, "given-up", given_up),
    *each([FIRST, ALL], OVER_HTTP2, "cancelled", cancelled),
    *each([FIRST, ALL], OVER_HTTP2, "late", late),
]
WITHOUT_COVER = [
    *GIVEN_UP,
    *each([*IN_BODY, SHORT, SHORT_QUERY], [HTTP2], "breaks", breaks),
    *each([JSON, SHORT], [HTTP2], "reset", reset),
    *each([JSON, SHORT], [HTTP2], "goaway", goaway),
    *each([FIRST, ALL], [HTTP2], "malformed-later", malformed_later),
]


@pytest.mark.timeout(400)
def test_what_has_no_cover_in_calls_that_fail_is_gone_in_the_time_that_is_stated(
    pair: Apart, site: Callable[..., Site], say: Say
) -> None:
    canaries = []
    for wire, placement, failing in (failure.values for failure in WITHOUT_COVER):
        canaries.append(canary := site(wire, placement))
        canary.upstream.open()
        canary.calls(CALLS, partial(failing, canary))
    gone_within(pair, canaries, say)


@pytest.mark.parametrize(("wire", "placement", "failing"), GIVEN_UP)
def test_a_connection_that_had_a_value_without_cover_takes_no_call_after_one_that_was_given_up(
    site: Callable[..., Site], wire: Wire, placement: Placement, failing: Failing
) -> None:
    canary = site(wire, placement)
    canary.upstream.open()
    failing(canary)
    # The injector has connections for each of its threads.
    canary.calls(CALLS, canary.call)
    given_up, *after = canary.upstream.received
    assert given_up.connection not in {received.connection for received in after}


# --- Puts --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def admin(pair: Apart) -> Iterator[grpc.Channel]:
    """Yields a channel of an administrator. A relay on loopback connects it to the vault with the TLS of Python."""
    pki = pair.folder / "pki"
    tls = ssl.create_default_context(cafile=pki / "ca.pem")
    tls.load_cert_chain(pki / "admin.pem", pki / "admin-key.pem")
    tls.set_alpn_protocols(["h2"])
    host, _, port = pair.vault.rpartition(":")

    async def carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the other direction has closed it
            while data := await source.read(1 << 16):
                to.write(data)
                await to.drain()
        to.close()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port), ssl=tls)
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(accepted, "127.0.0.1", 0), loop).result(10)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as channel:
            yield channel
    finally:
        loop.call_soon_threadsafe(loop.stop)


def put(channel: grpc.Channel, workspace: str, value: str) -> None:
    # vault.v1.PutSecretRequest: its fields 1, 2 and 3 are strings of fewer than 128 bytes.
    fields = {1: workspace, 2: "CANARY", 3: value}
    request = b"".join(bytes([number << 3 | 2, len(text)]) + text.encode() for number, text in fields.items())
    channel.unary_unary("/vault.v1.SecretService/PutSecret")(request, timeout=10)


def test_nothing_is_left_of_a_put_over_a_channel_that_stays(pair: Apart, workspace: str) -> None:
    with admin(pair) as channel:
        value = random(40)
        # The test can see what is there: while another call is under way over it, the connection has to stay.
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        next(watch)
        put(channel, workspace, value)
        time.sleep(AFTER_SECONDS)
        held = copies(contents(pair.vault_service.pid), value)
        assert held["raw"], "the positive control found nothing"
        watch.cancel()
        nothing_is_left(pair, value, "when that has ended")

        for puts in (1, CALLS):
            for _ in range(puts):
                value = random(40)
                put(channel, workspace, value)
            nothing_is_left(pair, value, f"after {puts} puts")


def test_a_client_does_not_notice_that_its_connection_is_not_kept(pair: Apart, workspace: str) -> None:
    with admin(pair) as channel:
        # The vault waits 350 ms for the next call: some come earlier, some later, and some in that very moment.
        for milliseconds in [*range(330, 370, 2), 500, 1000, 1500]:
            put(channel, workspace, random(40))
            time.sleep(milliseconds / 1000)
