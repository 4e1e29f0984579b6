"""The rendered pods really run, by `podman kube play`: the Job that makes the certificates, the vault, the webhook, and an application
whose pod the webhook changed. A stand-in for the API server gives them tokens, keeps their Secrets, and permits no more than the
chart's roles do. kubelet.py says what podman does not do and the tests do in its place: native sidecars are ordinary containers here,
volumes are directories, and the tests ask the probes."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cluster import NAMESPACE, variables
from node import SHOP, VAULT, WEB, WEBHOOK, Node, digest, status
from pair import eventually

pytestmark = pytest.mark.timeout(300)

# Longer than the time of a call, and shorter than the test.
TOKEN_SECONDS = 15


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The way of the NOTES, from nothing to an injected call."""
    node = Node(tmp_path_factory.mktemp("pods"))
    try:
        node.images()
        node.make_certificates()
        node.start_vault()
        node.start_webhook()
        node.aerostack("workspace", "create", SHOP)
        node.put("ghp_first_value_of_the_secret")
        node.start_web(node.admitted(node.example()))
        yield node
    finally:
        node.close()


def certificate(address: str) -> x509.Certificate:
    """The certificate that a vault presents."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((address, 7150), 5) as plain, context.wrap_socket(plain) as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(True) or b"")


class Load:
    """Calls of the program, one after another, until it is stopped."""

    def __init__(self, node: Node) -> None:
        self.answers: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(node,))

    def _run(self, node: Node) -> None:
        url = "http://127.0.0.1:7100/shop/github/[1-50]"
        while not self._over.is_set():
            done = node.podman.run(
                *("exec", f"{WEB}-web", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\\n", url), check=False
            )
            self.answers += done.stdout.split()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_program_without_a_credential_makes_an_injected_call(node: Node) -> None:
    assert node.call() == node.expected()
    (program,) = [each for each in node.web_pod["spec"]["containers"] if each["name"] == "web"]
    assert variables(program)["AEROSTACK_URL"] == "http://127.0.0.1:7100"


def test_a_new_value_is_used_by_the_next_call(node: Node) -> None:
    node.put("ghp_another_value_of_the_secret")
    assert node.call() == node.expected()


def test_no_container_has_more_rights_than_restricted_pods_may_have(node: Node) -> None:
    for name, user in {
        f"{VAULT}-vault": 65532,
        f"{WEBHOOK}-webhook": 65532,
        f"{WEB}-aerostack-injector": 65532,
    }.items():
        pid = node.podman.container(name)["State"]["Pid"]
        said = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert said["Uid"].split() == [str(user)] * 4, name
        assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 0, name
        assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2"), name
        assert node.podman.container(name)["HostConfig"]["ReadonlyRootfs"] is True, name


def test_the_program_cannot_read_the_token_of_its_sidecar(node: Node) -> None:
    mounted = node.podman.container(f"{WEB}-web")["Mounts"]
    assert not [each for each in mounted if "aerostack" in each["Destination"]]


def test_each_probe_of_the_sidecar_is_a_command_that_succeeds(node: Node) -> None:
    answers = {"startupProbe": "started", "readinessProbe": "ready", "livenessProbe": "live"}
    for probe, said in answers.items():
        assert node.probe(node.web_pod, WEB, "aerostack-injector", probe) == (0, said), probe


def test_a_service_account_without_a_role_gets_nothing(node: Node) -> None:
    pod = json.loads(json.dumps(node.web_pod))
    pod["spec"]["serviceAccountName"] = "other"
    address = node.start(pod, "other-0", SHOP, 21)
    try:
        url = f"http://{address}:9052/startupz"
        code, said = eventually("the sidecar says why", lambda: status(url) if status(url)[0] == 503 else None, 30)
        assert code == 503 and said.strip(), said
        refused = eventually(
            "the vault names the principal in its log",
            lambda: re.findall(r"system:serviceaccount:shop:other", node.podman.logs(f"{VAULT}-vault")),
            30,
        )
        assert refused
    finally:
        node.podman.remove("other-0")


def test_the_sidecar_that_is_written_by_hand_serves_a_job(node: Node) -> None:
    template = node.example_job()
    node.start(template, "report-0", SHOP, 22)
    try:
        assert node.podman.exit_code("report-0-report") == 0, node.podman.logs("report-0-aerostack-injector")
        # Standard error has the attempts before the sidecar was ready.
        printed = node.podman.run("logs", "report-0-report").stdout
        assert printed.strip() == node.expected().removesuffix(" 200")
        assert node.podman.stop("report-0-aerostack-injector") == 0
    finally:
        node.podman.remove("report-0")


def test_a_renewed_certificate_is_used_without_a_restart_and_a_failed_call(node: Node) -> None:
    before = certificate(node.vault)
    started = node.podman.container(f"{VAULT}-vault")["State"]["StartedAt"]
    with Load(node) as load:
        eventually("calls are made", lambda: len(load.answers) > 50, 30)
        node.renew_certificates()
        node.kubelet.fill(node.vault_template(), VAULT, NAMESPACE)
        eventually("the vault has the new one", lambda: certificate(node.vault) != before, 60)
        count = len(load.answers)
        eventually("calls go on", lambda: len(load.answers) > count + 100, 30)
    assert set(load.answers) == {"200"}
    after = certificate(node.vault)
    names = after.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://cluster.local/ns/{NAMESPACE}/sa/aerostack-vault"
    ]
    assert after.issuer == before.issuer
    assert node.podman.container(f"{VAULT}-vault")["State"]["StartedAt"] == started
    assert node.call() == node.expected()


def test_tokens_that_expire_and_are_renewed_fail_no_call(node: Node) -> None:
    """Also with a key of the API server that the vault has not seen before."""
    node.kubelet.token_seconds = TOKEN_SECONDS
    try:
        with Load(node) as load:
            # Each token lives as long as two rounds: a sidecar that kept one would fail in the third.
            for number in range(4):
                if number == 2:
                    node.accounts.rotate()
                node.kubelet.fill(node.web_pod, WEB, SHOP)
                count = len(load.answers)
                wait_until = time.monotonic() + TOKEN_SECONDS * 0.6
                eventually("calls go on", lambda: len(load.answers) > count and time.monotonic() > wait_until, 60)
        assert set(load.answers) == {"200"}, {answer: load.answers.count(answer) for answer in set(load.answers)}
    finally:
        node.kubelet.token_seconds = 600
        node.kubelet.fill(node.web_pod, WEB, SHOP)


def test_the_vault_keeps_its_data_when_its_pod_is_replaced(node: Node) -> None:
    listed = node.aerostack("workspace", "secret", "list", SHOP, "--output", "json")
    version = {each["name"]: each["version"] for each in secrets_of(listed)}
    node.stop_vault()
    refused = node.call()
    assert not refused.endswith(" 200"), refused
    node.start_vault()
    listed = node.aerostack("workspace", "secret", "list", SHOP, "--output", "json")
    assert {each["name"]: each["version"] for each in secrets_of(listed)} == version
    eventually("calls work again", lambda: node.call() == node.expected(), 30)


def secrets_of(text: str) -> list[dict[str, Any]]:
    found = json.loads(text)
    return found["secrets"] if isinstance(found, dict) else found


def test_a_changed_config_map_is_served_without_a_restart(node: Node) -> None:
    key = ("v1", "configmaps", SHOP, "web-servers")
    before = node.api.objects[key]["data"]["servers.yaml"]

    def change(text: str) -> None:
        node.api.store(key, {**node.api.objects[key], "data": {"servers.yaml": text}})
        node.kubelet.fill(node.web_pod, WEB, SHOP)

    def invalid() -> bool:
        return "aerostack_injector_servers_file_invalid 1" in status(f"http://{node.web}:9052/metrics")[1]

    try:
        change(before + "  - workspace: shop\n")
        eventually("the file is invalid", invalid, 30)
        assert node.call() == node.expected(), "the last valid content is in use"
        change(before.replace("name: github", "name: git"))
        eventually("the server has another name", lambda: node.call().endswith(" 404"), 30)
    finally:
        change(before)
    eventually("the server has its name again", lambda: node.call() == node.expected(), 30)


def test_the_program_ends_before_its_sidecar_and_loses_no_call(node: Node) -> None:
    """The order of a kubelet: SIGTERM to the program, and to native sidecars after it has ended."""
    program, sidecar = f"{WEB}-web", f"{WEB}-aerostack-injector"
    assert node.podman.stop(program) == 0
    assert digest(f"Bearer {node.values[-1]}") in node.podman.logs(program), "the last call, made on SIGTERM"

    # A running call of another container of the pod, such as a second native sidecar.
    pid = node.podman.container(sidecar)["State"]["Pid"]
    url = "http://127.0.0.1:7100/shop/github/slow"
    call = subprocess.Popen(["nsenter", "-t", str(pid), "-n", "curl", "-sS", url], stdout=subprocess.PIPE, text=True)
    assert node.upstream.asked.wait(30)
    ended: list[int] = []
    stopping = threading.Thread(target=lambda: ended.append(node.podman.stop(sidecar)))
    stopping.start()
    eventually("the sidecar takes no new calls", lambda: refuses(pid), 30)
    assert not ended
    node.upstream.released.set()
    stopping.join()
    assert ended == [0]
    assert call.communicate(timeout=10)[0] == digest(f"Bearer {node.values[-1]}")


def refuses(pid: int) -> bool:
    command = ["nsenter", "-t", str(pid), "-n", "curl", "-sS", "--max-time", "2", "http://127.0.0.1:7100/-/status"]
    return subprocess.run(command, capture_output=True).returncode != 0


def test_no_log_has_a_value(node: Node) -> None:
    for name in (f"{VAULT}-vault", f"{WEBHOOK}-webhook", f"{WEB}-aerostack-injector"):
        logs = node.podman.logs(name)
        assert logs and not [value for value in node.values if value in logs], name
