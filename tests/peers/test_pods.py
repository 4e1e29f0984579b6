"""The rendered pods really run, by `podman kube play`: the Job that makes the certificates, the vault, the webhook, and an application
whose pod the webhook changed. A stand-in for the API server gives them tokens, keeps their Secrets, and permits no more than the
chart's roles do. kubelet.py says what podman does not do and the tests do in its place: native sidecars are ordinary containers here,
volumes are directories, and the tests ask the probes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from cryptography import x509

from api_server import ApiServer
from cluster import NAMESPACE, Manifest, manifests, one, rendered, variables
from kubelet import Kubelet
from pair import BINARY, REPOSITORY, eventually
from podman import Podman
from service_accounts import ServiceAccounts, server_context

pytestmark = pytest.mark.timeout(300)

REGISTRY = "localhost/aerostack-test"
CURL = f"{REGISTRY}/curl:8.11.1"
SHOP = "shop"
VAULT, WEBHOOK, WEB = "aerostack-vault-0", "aerostack-webhook-0", "web-0"
START_SECONDS = 60
# Longer than the time of a call, and shorter than the test.
TOKEN_SECONDS = 15


class Upstream(ThreadingHTTPServer):
    """Answers with the digest of the credential; /slow does so after `released` was set."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        self.asked, self.released = threading.Event(), threading.Event()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                if self.path.endswith("/slow"):
                    upstream.asked.set()
                    upstream.released.wait(30)
                content = digest(self.headers.get("Authorization", "")).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        super().__init__((address, 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def status(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class World:
    """A cluster of one node: podman, a kubelet, an API server, and the objects of the chart and of an application."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.podman = Podman()
        self.accounts = ServiceAccounts()
        context, ca = server_context(folder, self.podman.gateway)
        self.api = ApiServer(self.podman.gateway, context, self.accounts)
        self.kubelet = Kubelet(folder / "kubelet", self.api, self.accounts, ca)
        self.kubelet.hosts = {"kubernetes.default.svc": self.podman.gateway}
        self.upstream = Upstream(self.podman.gateway)
        self.objects = rendered(
            *("--set", f"image.registry={REGISTRY},image.pullPolicy=Never"),
            *("--set", f"tokens.keys=https://kubernetes.default.svc:{self.api.port}/openid/v1/jwks"),
            *("--set", f"roles.injectors={{system:serviceaccount:{SHOP}:web={SHOP}}}"),
        )
        for each in self.objects:
            self.api.put(each)
        self.values: list[str] = []

    def images(self) -> None:
        for program in ("vault-service", "injector-service", "aerostack"):
            self.podman.image(f"{REGISTRY}/{program}:0.1.0", [BINARY.parent / program], [program])
        tools = [Path(shutil.which(name) or "") for name in ("bash", "curl", "sleep")]
        self.podman.image(CURL, tools, [])

    def start(self, template: Manifest, name: str, namespace: str, number: int) -> str:
        return self.podman.play(self.kubelet.pod(template, name, namespace), number)

    def wait(self, pod: str, container: str, url: str) -> None:
        def answers() -> bool:
            code, said = status(url)
            last[:] = [f"{code}: {said}"]
            state = self.podman.container(f"{pod}-{container}")["State"]["Status"]
            assert state == "running", f"{container} is {state}:\n{self.podman.logs(f'{pod}-{container}')}"
            return code == 200

        last: list[str] = []
        try:
            eventually(f"{url} answers 200", answers, START_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}; {last}\n{self.podman.logs(f'{pod}-{container}')[-5000:]}") from error

    # --- The pods of the chart ---

    def make_certificates(self) -> None:
        template = one(self.objects, "Job", "aerostack-certificates-first")["spec"]["template"]
        self.run_to_end(template, "certificates")

    def renew_certificates(self) -> None:
        """What the CronJob does when nothing is left of the certificate's life: here the certificate is removed."""
        key = ("v1", "secrets", NAMESPACE, "aerostack-vault-tls")
        secret = self.api.objects[key]
        kept = {name: value for name, value in secret["data"].items() if name == "ca.crt"}
        self.api.store(key, {**secret, "data": kept})
        template = one(self.objects, "CronJob", "aerostack-certificates")["spec"]["jobTemplate"]["spec"]["template"]
        self.run_to_end(template, "certificates-again")

    def run_to_end(self, template: Manifest, name: str) -> None:
        self.start(template, name, NAMESPACE, 5)
        container = f"{name}-certificates"
        assert self.podman.exit_code(container) == 0, self.podman.logs(container)
        self.podman.remove(name)

    def vault_template(self) -> Manifest:
        """The template with the volume that the StatefulSet claims for its first pod."""
        statefulset = one(self.objects, "StatefulSet", "aerostack-vault")["spec"]
        template = json.loads(json.dumps(statefulset["template"]))
        for claim in statefulset["volumeClaimTemplates"]:
            name = claim["metadata"]["name"]
            template["spec"]["volumes"].append(
                {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{VAULT}"}}
            )
        return template

    def start_vault(self) -> None:
        self.vault = self.start(self.vault_template(), VAULT, NAMESPACE, 10)
        self.kubelet.hosts |= {f"aerostack-vault.{NAMESPACE}.svc": self.vault}
        self.wait(VAULT, "vault", f"http://{self.vault}:9051/readyz")

    def stop_vault(self) -> None:
        assert self.podman.stop(f"{VAULT}-vault") == 0, self.podman.logs(f"{VAULT}-vault")
        self.podman.remove(VAULT)

    def start_webhook(self) -> None:
        template = one(self.objects, "Deployment", "aerostack-webhook")["spec"]["template"]
        self.webhook = self.start(template, WEBHOOK, NAMESPACE, 11)
        self.wait(WEBHOOK, "webhook", f"http://{self.webhook}:9053/readyz")

    def aerostack(self, *arguments: str, said: str | None = None) -> str:
        """The command line on the machine of an administrator, after `kubectl create token`."""
        ca, token = self.folder / "ca.crt", self.folder / "token"
        secret = self.api.of("Secret")["aerostack-vault-tls"]
        ca.write_bytes(base64.b64decode(secret["data"]["ca.crt"]))
        token.touch(0o600)
        token.write_text(self.accounts.token(NAMESPACE, "aerostack-admin", "aerostack-vault", 600))
        done = subprocess.run(
            [BINARY, *arguments],
            input=said,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "AEROSTACK_VAULT": f"{self.vault}:7150",
                "AEROSTACK_VAULT_ID": f"spiffe://cluster.local/ns/{NAMESPACE}/sa/aerostack-vault",
                "AEROSTACK_CA": str(ca),
                "AEROSTACK_TOKEN_FILE": str(token),
            },
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def put(self, value: str) -> None:
        self.values.append(value)
        self.aerostack("workspace", "secret", "set", SHOP, "GITHUB_TOKEN", "-", "--only-to", self.origin, said=value)

    # --- The application ---

    @property
    def origin(self) -> str:
        return f"http://{self.podman.gateway}:{self.upstream.server_address[1]}"

    def example(self) -> Manifest:
        """The pod of the example, whose image is ours and whose server is the upstream of the test. On SIGTERM the program makes one
        more call."""
        objects = manifests((REPOSITORY / "deploy/kubernetes/example/application.yaml").read_text())
        servers = one(objects, "ConfigMap", "web-servers")
        text = servers["data"]["servers.yaml"]
        assert "https://api.github.com\n" in text
        plain = f"{self.origin}\n        allow_plaintext: true\n"
        servers["data"]["servers.yaml"] = text.replace("https://api.github.com\n", plain.replace("\n        ", "\n    "))
        self.api.put(servers, SHOP)
        pod = one(objects, "Deployment", "web")["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        container["image"] = CURL
        last = 'curl -sS "$AEROSTACK_URL/shop/github/last"'
        container["command"] = ["bash", "-c", f"trap '{last}; exit 0' TERM; while :; do sleep 1 & wait; done"]
        return pod

    def admitted(self, pod: Manifest) -> Manifest:
        """The pod as the webhook changes it, asked over the TLS that its configuration tells the API server to expect."""
        (webhook,) = self.api.of("MutatingWebhookConfiguration")["aerostack-webhook"]["webhooks"]
        service = webhook["clientConfig"]["service"]
        named = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "generateName": "web-"}}
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": SHOP,
                "operation": "CREATE",
                "userInfo": {},
                "object": named,
            },
        }
        ca = self.folder / "webhook-ca.crt"
        ca.write_bytes(base64.b64decode(webhook["clientConfig"]["caBundle"]))
        host = f"{service['name']}.{service['namespace']}.svc"
        done = subprocess.run(
            [
                *("curl", "-sS", "--fail", "--cacert", str(ca), "--connect-to", f"{host}:443:{self.webhook}:8443"),
                *("-H", "content-type: application/json", "--data-binary", "@-", f"https://{host}{service['path']}"),
            ],
            input=json.dumps(review),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr + self.podman.logs(f"{WEBHOOK}-webhook")
        answer = json.loads(done.stdout)["response"]
        assert answer["allowed"], answer
        return jsonpatch.apply_patch(named, json.loads(base64.b64decode(answer["patch"])))

    def start_web(self, pod: Manifest) -> None:
        self.web_pod = pod
        self.web = self.start(pod, WEB, SHOP, 20)
        self.wait(WEB, "aerostack-injector", f"http://{self.web}:9052/startupz")

    def call(self, path: str = "user") -> str:
        """What the program gets: the status and the body."""
        url = f"http://127.0.0.1:7100/shop/github/{path}"
        done = self.podman.run("exec", f"{WEB}-web", "curl", "-sS", "-w", " %{http_code}", url, check=False)
        return (done.stdout + done.stderr).strip()

    def expected(self) -> str:
        return f"{digest(f'Bearer {self.values[-1]}')} 200"

    def close(self) -> None:
        self.podman.close()
        self.api.close()
        self.upstream.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The way of the NOTES, from nothing to an injected call."""
    world = World(tmp_path_factory.mktemp("pods"))
    try:
        world.images()
        world.make_certificates()
        world.start_vault()
        world.start_webhook()
        world.aerostack("workspace", "create", SHOP)
        world.put("ghp_first_value_of_the_secret")
        world.start_web(world.admitted(world.example()))
        yield world
    finally:
        world.close()


def certificate(address: str) -> x509.Certificate:
    """The certificate that a vault presents."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((address, 7150), 5) as plain, context.wrap_socket(plain) as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(True) or b"")


class Load:
    """Calls of the program, one after another, until it is stopped."""

    def __init__(self, world: World) -> None:
        self.answers: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(world,))

    def _run(self, world: World) -> None:
        url = "http://127.0.0.1:7100/shop/github/[1-50]"
        while not self._over.is_set():
            done = world.podman.run(
                *("exec", f"{WEB}-web", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\\n", url), check=False
            )
            self.answers += done.stdout.split()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_program_without_a_credential_makes_an_injected_call(world: World) -> None:
    assert world.call() == world.expected()
    (program,) = [each for each in world.web_pod["spec"]["containers"] if each["name"] == "web"]
    assert variables(program)["AEROSTACK_URL"] == "http://127.0.0.1:7100"


def test_a_new_value_is_used_by_the_next_call(world: World) -> None:
    world.put("ghp_another_value_of_the_secret")
    assert world.call() == world.expected()


def test_no_container_has_more_rights_than_restricted_pods_may_have(world: World) -> None:
    for name, user in {f"{VAULT}-vault": 65532, f"{WEBHOOK}-webhook": 65532, f"{WEB}-aerostack-injector": 65532}.items():
        pid = world.podman.container(name)["State"]["Pid"]
        said = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert said["Uid"].split() == [str(user)] * 4, name
        assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 0, name
        assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2"), name
        assert world.podman.container(name)["HostConfig"]["ReadonlyRootfs"] is True, name


def test_the_program_cannot_read_the_token_of_its_sidecar(world: World) -> None:
    mounted = world.podman.container(f"{WEB}-web")["Mounts"]
    assert not [each for each in mounted if "aerostack" in each["Destination"]]


def test_a_service_account_without_a_role_gets_nothing(world: World) -> None:
    pod = json.loads(json.dumps(world.web_pod))
    pod["spec"]["serviceAccountName"] = "other"
    address = world.start(pod, "other-0", SHOP, 21)
    try:
        url = f"http://{address}:9052/startupz"
        code, said = eventually("the sidecar says why", lambda: status(url) if status(url)[0] == 503 else None, 30)
        assert code == 503 and said.strip(), said
        refused = eventually(
            "the vault names the principal in its log",
            lambda: re.findall(r"system:serviceaccount:shop:other", world.podman.logs(f"{VAULT}-vault")),
            30,
        )
        assert refused
    finally:
        world.podman.remove("other-0")


def test_a_renewed_certificate_is_used_without_a_restart_and_a_failed_call(world: World) -> None:
    before = certificate(world.vault)
    started = world.podman.container(f"{VAULT}-vault")["State"]["StartedAt"]
    with Load(world) as load:
        eventually("calls are made", lambda: len(load.answers) > 50, 30)
        world.renew_certificates()
        world.kubelet.fill(world.vault_template(), VAULT, NAMESPACE)
        eventually("the vault has the new one", lambda: certificate(world.vault) != before, 60)
        count = len(load.answers)
        eventually("calls go on", lambda: len(load.answers) > count + 100, 30)
    assert set(load.answers) == {"200"}
    after = certificate(world.vault)
    names = after.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://cluster.local/ns/{NAMESPACE}/sa/aerostack-vault"
    ]
    assert after.issuer == before.issuer
    assert world.podman.container(f"{VAULT}-vault")["State"]["StartedAt"] == started
    assert world.call() == world.expected()


def test_tokens_that_expire_and_are_renewed_fail_no_call(world: World) -> None:
    """Also with a key of the API server that the vault has not seen before."""
    world.kubelet.token_seconds = TOKEN_SECONDS
    try:
        with Load(world) as load:
            # Each token lives as long as two rounds: a sidecar that kept one would fail in the third.
            for number in range(4):
                if number == 2:
                    world.accounts.rotate()
                world.kubelet.fill(world.web_pod, WEB, SHOP)
                count = len(load.answers)
                wait_until = time.monotonic() + TOKEN_SECONDS * 0.6
                eventually("calls go on", lambda: len(load.answers) > count and time.monotonic() > wait_until, 60)
        assert set(load.answers) == {"200"}, {answer: load.answers.count(answer) for answer in set(load.answers)}
    finally:
        world.kubelet.token_seconds = 600
        world.kubelet.fill(world.web_pod, WEB, SHOP)


def test_the_vault_keeps_its_data_when_its_pod_is_replaced(world: World) -> None:
    listed = world.aerostack("workspace", "secret", "list", SHOP, "--output", "json")
    version = {each["name"]: each["version"] for each in secrets_of(listed)}
    world.stop_vault()
    refused = world.call()
    assert not refused.endswith(" 200"), refused
    world.start_vault()
    listed = world.aerostack("workspace", "secret", "list", SHOP, "--output", "json")
    assert {each["name"]: each["version"] for each in secrets_of(listed)} == version
    eventually("calls work again", lambda: world.call() == world.expected(), 30)


def secrets_of(text: str) -> list[dict[str, Any]]:
    found = json.loads(text)
    return found["secrets"] if isinstance(found, dict) else found


def test_a_changed_config_map_is_served_without_a_restart(world: World) -> None:
    servers = world.api.objects["v1", "configmaps", SHOP, "web-servers"]
    before = servers["data"]["servers.yaml"]

    def change(text: str) -> None:
        world.api.put({**servers, "data": {"servers.yaml": text}}, SHOP)
        world.kubelet.fill(world.web_pod, WEB, SHOP)

    def invalid() -> bool:
        return "aerostack_injector_servers_file_invalid 1" in status(f"http://{world.web}:9052/metrics")[1]

    try:
        change(before + "  - workspace: shop\n")
        eventually("the file is invalid", invalid, 30)
        assert world.call() == world.expected(), "the last valid content is in use"
        change(before.replace("name: github", "name: git"))
        eventually("the server has another name", lambda: world.call().endswith(" 404"), 30)
    finally:
        change(before)
    eventually("the server has its name again", lambda: world.call() == world.expected(), 30)


def test_the_program_ends_before_its_sidecar_and_loses_no_call(world: World) -> None:
    """The order of a kubelet: SIGTERM to the program, and to native sidecars after it has ended."""
    program, sidecar = f"{WEB}-web", f"{WEB}-aerostack-injector"
    assert world.podman.stop(program) == 0
    assert digest(f"Bearer {world.values[-1]}") in world.podman.logs(program), "the last call, made on SIGTERM"

    # A running call of another container of the pod, such as a second native sidecar.
    pid = world.podman.container(sidecar)["State"]["Pid"]
    url = "http://127.0.0.1:7100/shop/github/slow"
    call = subprocess.Popen(["nsenter", "-t", str(pid), "-n", "curl", "-sS", url], stdout=subprocess.PIPE, text=True)
    assert world.upstream.asked.wait(30)
    ended: list[int] = []
    stopping = threading.Thread(target=lambda: ended.append(world.podman.stop(sidecar)))
    stopping.start()
    eventually("the sidecar takes no new calls", lambda: refuses(pid), 30)
    assert not ended
    world.upstream.released.set()
    stopping.join()
    assert ended == [0]
    assert call.communicate(timeout=10)[0] == digest(f"Bearer {world.values[-1]}")


def refuses(pid: int) -> bool:
    command = ["nsenter", "-t", str(pid), "-n", "curl", "-sS", "--max-time", "2", "http://127.0.0.1:7100/-/status"]
    return subprocess.run(command, capture_output=True).returncode != 0


def test_no_log_has_a_value(world: World) -> None:
    for name in (f"{VAULT}-vault", f"{WEBHOOK}-webhook", f"{WEB}-aerostack-injector"):
        logs = world.podman.logs(name)
        assert logs and not [value for value in world.values if value in logs], name
