"""The reference MCP server, used by the official client: through the injector it does what it does without."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, PromptReference, Root, TextContent

from pair import Pair, eventually

MODULES = Path(os.environ.get("PEERS_NODE_MODULES", "node_modules"))
SERVER = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of a running reference server."""
    assert SERVER.exists(), f"{SERVER} is not there: npm ci, and PEERS_NODE_MODULES=node_modules"
    log = tmp_path_factory.mktemp("everything") / "log"
    # It does not say which port it was given, so it is told one. Whoever takes that port first makes it exit.
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "PORT": str(port)}
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["node", str(SERVER), "streamableHttp"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def listens() -> bool:
        assert server.poll() is None, f"the reference server ended:\n{log.read_text()}"
        return f"listening on port {port}" in log.read_text()

    try:
        eventually("the reference server listens", listens, 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def through(pair: Pair, workspace: str, value: Callable[[], str], everything: str) -> str:
    """The same server behind the injector, with a secret for it to carry."""
    pair.put_secret(workspace, "API_KEY", value())
    pair.add_server(workspace, "everything", everything, ["API_KEY"])
    return pair.url(workspace, "everything")


def plain(result: Any) -> Any:
    """What a result says, without what is made anew for every session or second."""
    said = json.dumps(result.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=True)
    said = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "SESSION", said)
    said = re.sub(r"\d{1,2}:\d{2}:\d{2} [AP]M", "TIME", said)
    return json.loads(said)


TOOLS: list[tuple[str, dict[str, Any]]] = [
    ("echo", {"message": 'a message – with more than ASCII: ß, 漢字, 🗝, " and \\'}),
    ("echo", {"message": "x" * 500_000}),
    ("get-sum", {"a": 2, "b": 40.5}),
    ("get-sum", {"a": "not a number", "b": 1}),
    ("get-tiny-image", {}),
    ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ("get-structured-content", {"location": "Chicago"}),
    ("get-resource-links", {"count": 4}),
    ("gzip-file-as-resource", {"name": "a.gz", "data": "data:text/plain,hello", "outputType": "resource"}),
    ("get-env", {}),
    ("no-such-tool", {}),
]


async def conversation(origin: str) -> dict[str, Any]:
    """All that a client may ask of the server and that has the same answer every time, by question."""
    answers: dict[str, Any] = {}

    async def sampling(_context: object, params: Any) -> CreateMessageResult:
        asked = plain(params)
        return CreateMessageResult(role="assistant", content=TextContent(text=json.dumps(asked)), model="none")

    async def elicitation(_context: object, params: Any) -> ElicitResult:
        answers["elicitation"] = plain(params)
        return ElicitResult(action="accept", content={"name": "Grace Hopper", "integer": 7})

    async def roots(_context: object) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri="file:///srv/data", name="data")])

    callbacks = {
        "sampling_callback": sampling,
        "elicitation_callback": elicitation,
        "list_roots_callback": roots,
    }
    with anyio.fail_after(60):
        async with Client(f"{origin}/mcp", read_timeout_seconds=20, **callbacks) as client:
            answers["protocol"] = client.protocol_version
            answers["server"] = plain(client.server_info)
            answers["capabilities"] = plain(client.server_capabilities)
            answers["instructions"] = client.instructions

            answers["tools"] = plain(await client.list_tools())
            answers["prompts"] = plain(await client.list_prompts())
            answers["resources"] = resources = plain(await client.list_resources())
            answers["templates"] = plain(await client.list_resource_templates())

            for name, arguments in TOOLS:
                answers[f"{name} {str(arguments)[:60]}"] = await answer(client.call_tool(name, arguments))
            # These make the server ask the client in turn, on the stream of the call's own answer.
            answers["sampling"] = await answer(client.call_tool("trigger-sampling-request", {"prompt": "why?"}))
            answers["elicited"] = await answer(client.call_tool("trigger-elicitation-request", {}))
            # This one asks on the GET stream.
            answers["roots"] = await answer(client.call_tool("get-roots-list", {}))

            for prompt, arguments in [
                ("simple-prompt", {}),
                ("args-prompt", {"city": "Wien"}),
                ("args-prompt", {}),
                ("resource-prompt", {"resourceType": "Text", "resourceId": "3"}),
            ]:
                answers[f"{prompt} {arguments}"] = await answer(client.get_prompt(prompt, arguments))
            for uri in [
                *(each["uri"] for each in resources["resources"]),
                "demo://resource/dynamic/text/5",
                "demo://no",
            ]:
                answers[uri] = await answer(client.read_resource(uri))
            completed = PromptReference(name="completable-prompt")
            answers["completion"] = await answer(client.complete(completed, {"name": "department", "value": "S"}))
    return answers


async def answer(call: Any) -> Any:
    """An error is an answer too."""
    try:
        return plain(await call)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_it_says_the_same_through_the_injector(everything: str, through: str) -> None:
    without = anyio.run(conversation, everything)
    assert without["server"]["name"] == "mcp-servers/everything"
    assert len(without["tools"]["tools"]) > 10 and len(without["resources"]["resources"]) > 3
    assert "Grace Hopper" in str(without["elicited"])
    assert "file:///srv/data" in str(without["roots"])

    within = anyio.run(conversation, through)
    assert list(within) == list(without)
    for question, expected in without.items():
        assert within[question] == expected, question


@pytest.mark.parametrize("hop", ["direct", "injector"])
def test_progress_arrives_while_the_work_goes_on(request: pytest.FixtureRequest, everything: str, hop: str) -> None:
    origin = everything if hop == "direct" else request.getfixturevalue("through")
    seconds, steps = 1.5, 5

    async def call() -> list[tuple[float, float, float | None]]:
        arrived: list[tuple[float, float, float | None]] = []

        async def on_progress(progress: float, total: float | None, _message: str | None) -> None:
            arrived.append((anyio.current_time(), progress, total))

        with anyio.fail_after(30):
            async with Client(f"{origin}/mcp") as client:
                work = {"duration": seconds, "steps": steps}
                result = await client.call_tool("trigger-long-running-operation", work, progress_callback=on_progress)
        assert (
            result.content[0].text == f"Long running operation completed. Duration: {seconds} seconds, Steps: {steps}."
        )
        return arrived

    arrived = anyio.run(call)
    assert [(progress, total) for _, progress, total in arrived] == [(step, steps) for step in range(1, steps + 1)]
    took = arrived[-1][0] - arrived[0][0]
    assert took > seconds * (steps - 1) / steps / 2, f"all within {took:.3f} s: held back, then sent at once"


@pytest.mark.parametrize("hop", ["direct", "injector"])
def test_what_a_client_subscribed_to_arrives(request: pytest.FixtureRequest, everything: str, hop: str) -> None:
    origin = everything if hop == "direct" else request.getfixturevalue("through")
    uri = "demo://resource/dynamic/text/1"

    async def call() -> None:
        updated = anyio.Event()

        async def on_message(message: Any) -> None:
            if getattr(message, "method", None) == "notifications/resources/updated":
                assert str(message.params.uri) == uri
                updated.set()

        with anyio.fail_after(30):
            async with Client(f"{origin}/mcp", message_handler=on_message) as client:
                await client.subscribe_resource(uri)
                # It sends the first update at once and then one every five seconds, whether or not the client's GET
                # stream is open yet.
                await client.call_tool("toggle-subscriber-updates", {})
                await updated.wait()
                await client.unsubscribe_resource(uri)

    anyio.run(call)


def test_a_web_page_may_not_use_it_although_it_allows_every_origin(everything: str, through: str) -> None:
    page = {"origin": "https://a-page.example", "access-control-request-method": "POST"}
    assert httpx2.options(f"{everything}/mcp", headers=page).headers["access-control-allow-origin"] == "*"
    for method in ("OPTIONS", "GET", "POST"):
        refused = httpx2.request(method, f"{through}/mcp", headers=page)
        assert (refused.status_code, refused.headers["x-aerostack-reason"]) == (403, "BROWSER_REFUSED")
        assert not [name for name in refused.headers if name.startswith("access-control-")]
