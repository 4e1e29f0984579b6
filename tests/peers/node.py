"""A cluster of one node: podman, a kubelet, an API server, the objects of the chart, and an application with an upstream."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonpatch

from api_server import ApiServer
from cluster import NAMESPACE, Manifest, containers, manifests, one, rendered
from kubelet import Kubelet
from pair import BINARY, REPOSITORY, eventually
from podman import Podman
from service_accounts import ServiceAccounts, server_context

REGISTRY = "localhost/aerostack-test"
CURL = f"{REGISTRY}/curl:8.11.1"
SHOP = "shop"
VAULT, WEBHOOK, WEB = "aerostack-vault-0", "aerostack-webhook-0", "web-0"
START_SECONDS = 60


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


class Node:
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
        self.wait_until(pod, container, url, lambda: status(url))

    def probe(self, pod: Manifest, name: str, container: str, probe: str) -> tuple[int, str]:
        """Runs a probe as a kubelet does: the exit code, and what the command said."""
        (found,) = [each for each in containers(pod["spec"]) if each["name"] == container]
        done = self.podman.run("exec", f"{name}-{container}", *found[probe]["exec"]["command"], check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def wait_until(self, pod: str, container: str, what: str, asked: Callable[[], tuple[int, str]], good: int = 200) -> None:
        def answers() -> bool:
            code, said = asked()
            last[:] = [f"{code}: {said}"]
            state = self.podman.container(f"{pod}-{container}")["State"]["Status"]
            assert state == "running", f"{container} is {state}:\n{self.podman.logs(f'{pod}-{container}')}"
            return code == good

        last: list[str] = []
        try:
            eventually(f"{what} answers {good}", answers, START_SECONDS)
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
        """Without `--only-to`: a value that is bound to its origin would not go to an upstream without TLS."""
        self.values.append(value)
        self.aerostack("workspace", "secret", "set", SHOP, "GITHUB_TOKEN", "-", said=value)

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
        servers["data"]["servers.yaml"] = text.replace(
            "https://api.github.com\n", plain.replace("\n        ", "\n    ")
        )
        self.api.put(servers, SHOP)
        pod = one(objects, "Deployment", "web")["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        container["image"] = CURL
        last = 'curl -sS "$AEROSTACK_URL/shop/github/last"'
        container["command"] = ["bash", "-c", f"trap '{last}; exit 0' TERM; while :; do sleep 1 & wait; done"]
        return pod

    def example_job(self) -> Manifest:
        """The pod of the example without the webhook, with images of ours. Podman does not wait for the sidecar: the program repeats."""
        (job,) = manifests((REPOSITORY / "deploy/kubernetes/example/sidecar.yaml").read_text())
        ca = base64.b64decode(self.api.of("Secret")["aerostack-vault-tls"]["data"]["ca.crt"]).decode()
        metadata = {"name": "aerostack-vault-ca", "namespace": SHOP}
        self.api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": ca}})
        template = job["spec"]["template"]
        for each in template["spec"]["initContainers"]:
            each["image"] = f"{REGISTRY}/{each['image']}"
        (program,) = template["spec"]["containers"]
        program["image"] = CURL
        program["command"][1:1] = ["--retry", "50", "--retry-delay", "1", "--retry-all-errors"]
        return template

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
        sidecar = "aerostack-injector"
        self.wait_until(WEB, sidecar, "the startup probe", lambda: self.probe(pod, WEB, sidecar, "startupProbe"), 0)

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
