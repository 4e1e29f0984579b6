"""docs/compose.md, run as it is written by an engine: with docker-compose 1.29, whose builder is the classic one, and more shortly with Compose v2 and BuildKit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from compose import BUILD_SECONDS, ENGINE, Stack, fingerprint, shown
from pair import BINARY, REPOSITORY, eventually

pytestmark = pytest.mark.timeout(BUILD_SECONDS + 300)

USER = "65532"
# Whoever cloned the repository: not root, and not the user that the services run as.
CLONER = 12345
# What an image adds to its base.
LARGEST_IMAGE = 50_000_000
# The services' stop_grace_period.
GRACE_SECONDS = 20


@pytest.fixture(scope="session")
def engine() -> None:
    done = subprocess.run([REPOSITORY / ".ci" / "docker-engine", "up", ENGINE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def start(stack: Stack) -> None:
    os.chown(stack.folder / "deploy" / "compose" / "admin", CLONER, CLONER)
    stack.as_written("start", seconds=BUILD_SECONDS)


@pytest.fixture(scope="module")
def stack(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("compose"), "docker-compose")
    try:
        start(stack)
        yield stack
    finally:
        stack.remove()


def test_two_commands_lead_from_a_clone_to_an_injected_call(stack: Stack) -> None:
    (received,) = shown(stack.as_written("call"))
    assert received["x-mcp-secret-demo-token"].startswith("sha256:")
    assert received[":path"] == "/hello" and received[":authority"] == "upstream:8443"


def test_the_command_line_administers_it_from_the_host(stack: Stack) -> None:
    output = stack.as_written("administer")
    assert "ghp_abc123def456" not in output
    assert shown(output)[-1]["x-mcp-secret-github-token"] == fingerprint("ghp_abc123def456")


def test_grpcurl_administers_it_from_the_host(stack: Stack) -> None:
    received = shown(stack.as_written("grpcurl"))[-1]
    assert received["x-mcp-secret-slack-token"] == fingerprint("xoxb-123")


def test_what_it_takes_to_administer_belongs_to_whoever_cloned_it(stack: Stack) -> None:
    admin = stack.folder / "deploy" / "compose" / "admin"
    made = [admin / "ports.json", admin / "pki", *(admin / "pki").iterdir()]
    assert sorted(each.name for each in made) == ["admin-key.pem", "admin.pem", "ca.pem", "pki", "ports.json"]
    for each in made:
        assert (each.stat().st_uid, each.stat().st_gid) == (CLONER, CLONER), each
    assert (admin / "pki" / "admin-key.pem").stat().st_mode & 0o777 == 0o600
    ports = json.loads((admin / "ports.json").read_text())
    assert ports["vault"] == f"127.0.0.1:{stack.ports['VAULT_PORT']}"


def test_nothing_runs_as_root_or_can_change_its_image(stack: Stack) -> None:
    for name, container in stack.containers().items():
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        if name in ("setup", "demo"):
            continue
        # Of the first process, not of one that is started beside it.
        status = dict(
            line.split(":\t", 1) for line in stack.execute(name, "cat", "/proc/1/status").stdout.splitlines()
        )
        assert status["Uid"].split() == status["Gid"].split() == [USER] * 4, name
        assert int(status["CapEff"], 16) == 0, name
        wrote = stack.execute(name, "touch", "/usr/local/bin/new", check=False)
        assert wrote.returncode != 0 and "Read-only file system" in wrote.stdout + wrote.stderr, name


def test_each_part_sees_its_own_keys_alone(stack: Stack) -> None:
    mounts = {
        name: {mount.get("Name", "").removeprefix(f"{stack.project}_") for mount in container["Mounts"]}
        for name, container in stack.containers().items()
    }
    assert {name for name, mounted in mounts.items() if "ca" in mounted} == {"setup"}
    assert {name for name, mounted in mounts.items() if "root-key" in mounted} == {"setup", "vault"}
    assert mounts["injector"] == {"injector-data", "injector-identity"}
    assert mounts["upstream"] == {"upstream-identity"}
    assert mounts["app"] == set()


def test_the_upstream_cannot_reach_the_vault(stack: Stack) -> None:
    networks = stack.containers()["vault"]["NetworkSettings"]["Networks"]
    (address,) = [network["IPAddress"] for network in networks.values()]

    def reaches(service: str, host: str) -> bool:
        connect = f"exec 3<>/dev/tcp/{host}/7150"
        return stack.execute(service, "timeout", "3", "bash", "-c", connect, check=False).returncode == 0

    # The application is where the injector is, on the network.
    assert reaches("app", address) and reaches("app", "vault")
    assert not reaches("upstream", address) and not reaches("upstream", "vault")
    # Nor anything else that is not beside it: the engine forwards nothing from a network that is internal.
    assert is_internal(stack, "upstream") and not is_internal(stack, "vault")


def without_call_id(received: dict[str, str]) -> dict[str, str]:
    """What the upstream received, without the field that differs in every call."""
    assert re.fullmatch(r"[0-9a-f-]{36}", received["x-request-id"])
    return {name: value for name, value in received.items() if name != "x-request-id"}


def is_internal(stack: Stack, service: str) -> bool:
    networks = stack.containers()[service]["NetworkSettings"]["Networks"]
    (network,) = networks
    return stack.run("docker", "network", "inspect", "--format", "{{.Internal}}", network).stdout.strip() == "true"


def test_images_are_small(stack: Stack) -> None:
    """The programs in these images are not optimised, so the size of the tested binary counts instead."""

    def size(image: str) -> int:
        return int(stack.run("docker", "image", "inspect", "--format", "{{.Size}}", image).stdout)

    def size_of_file(image: str, path: str) -> int:
        return int(stack.run("docker", "run", "--rm", "--entrypoint", "stat", image, "-c", "%s", path).stdout)

    base = size("debian:bookworm-slim")
    containers = stack.containers()
    added = {}
    for name, program in (("vault", "vault-service"), ("injector", "injector-service"), ("setup", "aerostack")):
        image = containers[name]["Image"]
        without_program = size(image) - base - size_of_file(image, f"/usr/local/bin/{program}")
        assert without_program >= 0
        added[name] = without_program + (BINARY.parent / program).stat().st_size
    print({name: f"{size / 1e6:.1f} MB" for name, size in added.items()})
    assert all(0 < size < LARGEST_IMAGE for size in added.values()), added


def test_the_health_check_fails_while_the_vault_is_away(stack: Stack) -> None:
    def check(service: str) -> tuple[int, str]:
        done = stack.execute(service, f"{service}-service", "healthcheck", check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert check("vault") == check("injector") == (0, "ready")
    stack.compose("stop", "vault")
    try:
        eventually("the injector's own check", lambda: check("injector")[0] == 1)
        assert check("injector")[1].startswith("not ready: ")
        eventually("the engine's", lambda: stack.health("injector") == "unhealthy", 60)
    finally:
        stack.compose("start", "vault")
    for service in ("vault", "injector"):
        eventually(f"{service} is healthy again", lambda: stack.health(service) == "healthy", 60)


def test_the_application_is_back_when_it_is_started_again_after_the_injector(stack: Stack) -> None:
    for service in ("injector", "app"):
        stack.compose("restart", service)
    eventually("the injector is healthy again", lambda: stack.health("injector") == "healthy", 60)
    assert stack.called("demo/echo/again")[":path"] == "/again"


def test_a_vault_that_is_restarted_under_load_loses_nothing(stack: Stack) -> None:
    plan = {"workspace": {"name": "load", "plan": "PLAN_ENTERPRISE"}}
    assert stack.grpcurl("VAULT_PORT", "vault.v1.WorkspaceService/CreateWorkspace", plan) is not None
    over = threading.Event()
    acknowledged: list[str] = []

    def put() -> None:
        number = 0
        while not over.is_set() and number < 5000:
            name = f"SECRET_{number}"
            request = {"workspace": "load", "name": name, "text": f"value-{number}"}
            if stack.grpcurl("VAULT_PORT", "vault.v1.SecretService/PutSecret", request) is not None:
                acknowledged.append(name)
            number += 1

    calls: list[str] = []

    def call() -> None:
        # One curl for many calls: they come one after another, without a pause.
        some = ["-o", "/dev/null", "-w", "%{http_code} %{content_type}\\n", "http://localhost:7100/demo/echo/[1-100]"]
        while not over.is_set():
            calls.extend(stack.execute("app", "curl", "-sS", *some, check=False).stdout.splitlines())

    threads = [threading.Thread(target=work) for work in (put, call)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = len(acknowledged)
            eventually("secrets are put", lambda: len(acknowledged) > before + 10, 30)
            stack.compose("restart", "vault")
        before = len(acknowledged)
        eventually("secrets are put again", lambda: len(acknowledged) > before + 10, 30)
    finally:
        over.set()
        for thread in threads:
            thread.join()

    stored: set[str] = set()
    token = ""
    while True:
        request = {"workspace": "load", "page_size": 1000, "page_token": token}
        page = stack.grpcurl("VAULT_PORT", "vault.v1.SecretService/ListSecrets", request)
        assert page is not None
        stored.update(secret["name"] for secret in page["secrets"])
        if not (token := page.get("nextPageToken", "")):
            break
    assert set(acknowledged) <= stored, f"lost: {set(acknowledged) - stored}"
    allowed = {"200 application/json", "503 application/problem+json"}
    assert set(calls) <= allowed, set(calls) - allowed
    assert calls.count("200 application/json") > 100
    assert stack.called("demo/echo/after")[":path"] == "/after"


def test_the_root_key_can_be_copied_out(stack: Stack) -> None:
    stack.as_written("backup")
    copy = stack.folder / "root.key"
    assert copy.stat().st_mode & 0o077 == 0
    assert copy.read_text() == stack.execute("vault", "cat", "/root-key/root.key").stdout
    assert len(copy.read_text().strip()) == 44


def test_everything_stops_in_time_and_is_still_there_afterwards(stack: Stack) -> None:
    def secrets() -> object:
        request = {"workspace": "demo"}
        answer = stack.grpcurl("VAULT_PORT", "vault.v1.SecretService/ListSecrets", request)
        assert answer and answer["secrets"]
        return answer

    # In this order: a call is counted among the uses of what it was given, which are kept, too.
    received = stack.called("demo/echo/hello")
    before = secrets()
    for name, container in stack.containers().items():
        if not container["State"]["Running"]:
            assert container["State"]["ExitCode"] == 0, name
            continue
        began = time.monotonic()
        stack.run("docker", "stop", "--time", str(GRACE_SECONDS), container["Id"])
        assert time.monotonic() - began < GRACE_SECONDS / 2, name
        assert stack.containers()[name]["State"]["ExitCode"] == 0, name
    stack.as_written("stop")
    volumes = stack.run("docker", "volume", "ls", "--quiet", "--filter", f"name={stack.project}_").stdout.split()
    assert len(volumes) == 8

    stack.as_written("start")
    assert secrets() == before
    assert without_call_id(stack.called("demo/echo/hello")) == without_call_id(received)
    assert stack.containers()["setup"]["State"]["ExitCode"] == 0

    stack.as_written("remove")
    left = stack.run("docker", "volume", "ls", "--quiet", "--filter", f"name={stack.project}_").stdout
    assert left == ""


def test_compose_v2_and_buildkit_do_the_same(engine: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    stack = Stack(tmp_path_factory.mktemp("compose-v2"), "docker compose")
    try:
        start(stack)
        (before,) = shown(stack.as_written("call"))
        assert before["x-mcp-secret-demo-token"].startswith("sha256:")
        stack.as_written("stop")
        stack.as_written("start")
        (after,) = shown(stack.as_written("call"))
        assert without_call_id(after) == without_call_id(before)
        stack.as_written("remove")
    finally:
        stack.remove()
