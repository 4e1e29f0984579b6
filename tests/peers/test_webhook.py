"""The admission webhook: recorded reviews over HTTPS, patches applied by the library `jsonpatch`, and the results checked
against the schemas of Kubernetes."""

from __future__ import annotations

import base64
import copy
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from kubernetes_api import Api, serving
from leaf import self_signed
from pair import BINARY, REPOSITORY, eventually
from webhook_process import SECONDS, VAULT, Webhook, patch_of, webhook

REVIEWS = Path(__file__).parent / "webhook"
EXPECTED: dict[str, dict[str, Any]] = json.loads((REVIEWS / "expected.json").read_text())
# Native sidecars are on by default since the first of these.
KUBERNETES = ("1.29", "1.37")

NAMESPACE = "/api/v1/namespaces/aerostack/secrets"
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/aerostack-webhook"
SERVICE = "aerostack-webhook.aerostack.svc"


def review(name: str) -> dict[str, Any]:
    return json.loads((REVIEWS / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Webhook, Path]]:
    """A webhook with a certificate in files, and the file with its CA."""
    folder = tmp_path_factory.mktemp("webhook")
    cert, key = self_signed(folder, "DNS:localhost")
    files = ["--tls-cert", cert, "--tls-key", key, "--vault-ca", REVIEWS / "vault-ca.pem"]
    limits = ["--exclude-namespace", "kube-system;aerostack", "--allow-image", "registry.example.org/mirror"]
    with webhook(folder / "log", [*files, *limits]) as running:
        eventually("a certificate", lambda: running.get("/readyz")[0] == 200)
        yield running, cert


def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    [found] = [container for container in pod["spec"]["initContainers"] if container["name"] == "aerostack-injector"]
    return found


def env(container: dict[str, Any]) -> dict[str, str | None]:
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def injected(served: tuple[Webhook, Path], name: str) -> dict[str, Any]:
    """The pod of a recorded review after the patch."""
    running, ca = served
    response = running.review(ca, review(name))
    return jsonpatch.apply_patch(review(name)["request"]["object"], patch_of(response))


@pytest.mark.parametrize("name", EXPECTED)
def test_each_recorded_review_is_answered_as_expected(served: tuple[Webhook, Path], name: str) -> None:
    running, ca = served
    request, expected = review(name), EXPECTED[name]
    response = running.review(ca, request)
    assert response["uid"] == request["request"]["uid"]
    assert response["allowed"] == (expected["outcome"] != "denied"), response
    if expected["outcome"] == "denied":
        assert response["status"]["code"] == expected["code"]
        assert expected["message"] in response["status"]["message"]
    if expected["outcome"] != "injected":
        assert "patch" not in response
        return
    pod = jsonpatch.apply_patch(request["request"]["object"], patch_of(response))
    for version in KUBERNETES:
        kubernetes_validate.validate(pod, version, strict=True)
    again = copy.deepcopy(request)
    again["request"]["object"] = pod
    assert "patch" not in running.review(ca, again)


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected["outcome"] == "injected"])
def test_only_known_parts_of_a_pod_change(served: tuple[Webhook, Path], name: str) -> None:
    before, after = review(name)["request"]["object"], injected(served, name)
    for pod in (before, after):
        pod["metadata"].pop("labels", None)
        pod["metadata"].pop("annotations", None)
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            container.pop("env", None)
        others = [c for c in pod["spec"].pop("initContainers", []) if c["name"] != "aerostack-injector"]
        volumes = [v for v in pod["spec"].pop("volumes", []) if not v["name"].startswith("aerostack-")]
        pod["others"] = (others, volumes)
    assert before == after


def test_the_sidecar_meets_the_restricted_profile_whatever_the_pod_has(served: tuple[Webhook, Path]) -> None:
    for name, expected in EXPECTED.items():
        if expected["outcome"] != "injected":
            continue
        container = sidecar(injected(served, name))
        context = container["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] == 65532
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert container["restartPolicy"] == "Always"
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("plain", ["aerostack-injector"]),
        ("init-containers", ["aerostack-injector", "migrate", "log-agent"]),
        ("istio-native", ["istio-init", "istio-proxy", "aerostack-injector", "migrate"]),
        ("after-another-webhook", ["istio-init", "istio-proxy", "aerostack-injector"]),
        ("linkerd-native", ["linkerd-init", "linkerd-proxy", "aerostack-injector"]),
        ("istio-classic", ["aerostack-injector", "istio-init", "migrate"]),
        ("linkerd-classic", ["aerostack-injector", "linkerd-init"]),
    ],
)
def test_the_sidecar_starts_when_the_network_works(
    served: tuple[Webhook, Path], name: str, order: list[str]
) -> None:
    pod = injected(served, name)
    assert [container["name"] for container in pod["spec"]["initContainers"]] == order


def test_programs_learn_where_the_injector_is_and_keep_what_they_have(served: tuple[Webhook, Path]) -> None:
    url = "http://127.0.0.1:7100"
    for container in injected(served, "several-containers")["spec"]["containers"]:
        assert env(container) == {"AEROSTACK_URL": url, "AEROSTACK_WORKSPACE": "shop"}
    [container] = injected(served, "plain")["spec"]["containers"]
    assert env(container) == {"AEROSTACK_URL": url}
    [container] = injected(served, "env-set")["spec"]["containers"]
    assert env(container)["AEROSTACK_URL"] == "http://127.0.0.1:7101"
    pod = injected(served, "after-another-webhook")
    assert env(pod["spec"]["containers"][-1])["AEROSTACK_URL"] == url
    assert "AEROSTACK_URL" not in env(pod["spec"]["initContainers"][1])


def test_annotations_reach_the_sidecar(served: tuple[Webhook, Path]) -> None:
    listening = env(sidecar(injected(served, "listen-server")))
    assert listening["AEROSTACK_INJECTOR_LISTEN_SERVER"] == "127.0.0.1:7101=shop/github;127.0.0.1:7102=dev/openai"
    container = sidecar(injected(served, "own-image-and-resources"))
    assert container["image"].startswith("registry.example.org/mirror/injector@sha256:")
    assert container["resources"] == {
        "requests": {"cpu": "50m", "memory": "200Mi"},
        "limits": {"cpu": "1", "memory": "200Mi"},
    }
    assert env(container)["AEROSTACK_INJECTOR_MAX_BUFFERED_TOTAL"] == "100MiB"
    pod = injected(served, "plain")
    assert sidecar(pod)["image"] == VAULT["--image"]
    settings = env(sidecar(pod))
    assert settings["AEROSTACK_INJECTOR_VAULT"] == VAULT["--vault"]
    assert settings["AEROSTACK_INJECTOR_VAULT_ID"] == VAULT["--vault-id"]
    assert settings["AEROSTACK_INJECTOR_NO_ADMIN"] == "true"
    assert settings["AEROSTACK_INJECTOR_WORKER_THREADS"] == "1"
    assert settings["AEROSTACK_INJECTOR_MAX_BUFFERED_TOTAL"] == "64MiB"
    assert "AEROSTACK_INJECTOR_LISTEN_SERVER" not in settings


def test_a_sidecar_of_an_earlier_webhook_is_brought_up_to_date(served: tuple[Webhook, Path]) -> None:
    pod = injected(served, "copied-pod")
    container = sidecar(pod)
    assert container["image"] == VAULT["--image"]
    assert "AEROSTACK_INJECTOR_LISTEN_SERVER" not in env(container)
    assert any(mount["name"].startswith("kube-api-access") for mount in container["volumeMounts"])
    [servers] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "aerostack-servers"]
    assert servers["configMap"]["name"] == "web-servers"
    # With `items`, the kubelet starts no pod whose ConfigMap lacks the key.
    assert servers["configMap"]["items"] == [{"key": "servers.yaml", "path": "servers.yaml"}]


def test_what_is_no_review_is_refused(served: tuple[Webhook, Path]) -> None:
    running, ca = served
    for body, code in [
        (b"", 400),
        (b"{}", 400),
        (json.dumps({**review("plain"), "apiVersion": "admission.k8s.io/v1beta1"}).encode(), 400),
        (b" " * (5 << 20), 413),
        # Each of these needs a hundred times its length in memory.
        (b"[" + b'{"":0},' * 100_000 + b"0]", 413),
        (b"[" + b"0," * 500_000 + b"0]", 413),
    ]:
        assert running.post(ca, body)[0] == code
    assert running.post(ca, b"{}", path="/other")[0] == 404
    connection = running.connect(ca, "localhost")
    connection.request("POST", "/mutate", "{}", {"content-type": "text/plain"})
    assert connection.getresponse().status == 415
    connection.close()


def test_the_metrics_count_reviews(served: tuple[Webhook, Path]) -> None:
    running, ca = served
    running.review(ca, review("plain"))
    running.review(ca, review("windows"))
    _, page = running.get("/metrics")
    for line in (
        'aerostack_webhook_reviews_total{outcome="injected"}',
        'aerostack_webhook_reviews_total{outcome="denied"}',
        "aerostack_webhook_review_duration_seconds_count",
    ):
        assert line in page
    expiry = re.search(r'aerostack_certificate_expiration_timestamp_seconds{certificate="tls-cert"} (\d+)', page)
    assert expiry and int(expiry[1]) > 1_700_000_000
    document = (REPOSITORY / "docs" / "metrics.md").read_text()
    [section] = [section for section in document.split("\n## ") if section.startswith("Webhook\n")]
    documented = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    families = {family.name: family for family in text_string_to_metric_families(page)}
    served = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    assert {name for name in served if name.startswith("aerostack_webhook_")} == documented


def test_http2_is_spoken_too(served: tuple[Webhook, Path], tmp_path: Path) -> None:
    running, ca = served
    port = running.address.rsplit(":", 1)[1]
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--http2", "--cacert", str(ca)),
            *("--write-out", "%{http_version} %{http_code}", "--output", str(tmp_path / "answer")),
            *("--header", "content-type: application/json", "--data-binary", f"@{REVIEWS / 'plain.json'}"),
            f"https://localhost:{port}/mutate",
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout == "2 200", done
    assert json.loads((tmp_path / "answer").read_text())["response"]["allowed"]


def test_new_connections_get_a_renewed_certificate_and_new_pods_the_new_authorities(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path, "DNS:localhost")
    old = cert.read_text()
    with webhook(tmp_path / "log", ["--tls-cert", cert, "--tls-key", key, "--vault-ca", cert]) as running:
        eventually("a certificate", lambda: running.get("/readyz")[0] == 200)
        open_connection = running.connect(old, "localhost")
        open_connection.connect()
        cert.write_text("half of a certif")
        running.process.send_signal(signal.SIGHUP)
        eventually("a line about the file", lambda: "no certificate in PEM form" in running.log.read_text())
        assert running.review(old, review("plain"))["allowed"]
        self_signed(tmp_path, "DNS:localhost")
        new = cert.read_text()
        running.process.send_signal(signal.SIGHUP)
        eventually("the new authorities", lambda: "1 CAs for new pods" in running.log.read_text())
        response = running.review(new, review("plain"))
        pod = jsonpatch.apply_patch(review("plain")["request"]["object"], patch_of(response))
        assert pod["metadata"]["annotations"]["aerostack.dev/vault-ca"] == new
        # The connection from before stays.
        open_connection.request(
            "POST", "/mutate", json.dumps(review("plain")), {"content-type": "application/json"}
        )
        assert open_connection.getresponse().status == 200
        open_connection.close()


def test_an_expired_file_does_not_replace_a_valid_certificate(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path, "DNS:localhost")
    valid = cert.read_text()
    vault_ca = REVIEWS / "vault-ca.pem"

    def failures() -> int:
        _, page = running.get("/metrics")
        found = re.search(r'aerostack_certificate_reload_failures_total{certificate="tls-cert"} (\d+)', page)
        assert found, page
        return int(found[1])

    with webhook(tmp_path / "log", ["--tls-cert", cert, "--tls-key", key, "--vault-ca", vault_ca]) as running:
        eventually("a certificate", lambda: running.get("/readyz")[0] == 200)
        assert failures() == 0
        self_signed(tmp_path, "DNS:localhost", expired=True)
        running.process.send_signal(signal.SIGHUP)
        eventually("a refused certificate", failures)
        assert "the certificate is valid from" in running.log.read_text()
        assert running.review(valid, review("plain"))["allowed"]
        assert running.get("/readyz")[0] == 200


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path / "service-account") as api:
        yield api


def configuration() -> dict[str, Any]:
    client = {"service": {"namespace": "aerostack", "name": "aerostack-webhook", "path": "/mutate"}, "caBundle": ""}
    webhooks = [{"name": "inject.aerostack.dev", "clientConfig": client}]
    return {"metadata": {"name": "aerostack-webhook"}, "webhooks": webhooks}


def text(object: dict[str, Any] | None, key: str) -> str:
    assert object
    return base64.b64decode(object["data"][key]).decode()


def test_two_replicas_share_an_authority_of_their_own(tmp_path: Path, api: Api) -> None:
    api.put(CONFIGURATION, configuration())
    api.rivals = 1
    vault, _ = self_signed(tmp_path, "DNS:vault")
    own = [
        *("--vault-ca", vault, "--self-signed-secret", "aerostack/aerostack-webhook"),
        *("--webhook-configuration", "aerostack-webhook", "--service-name", "aerostack-webhook"),
        *("--service-account-dir", api.service_account),
    ]
    with (
        webhook(tmp_path / "one.log", own, api.environment) as one,
        webhook(tmp_path / "two.log", own, api.environment) as two,
    ):
        for running in (one, two):
            eventually("a certificate", lambda: running.get("/readyz")[0] == 200)
        [entry] = (api.get(CONFIGURATION) or {})["webhooks"]
        bundle = base64.b64decode(entry["clientConfig"]["caBundle"]).decode()
        assert bundle == text(api.get(f"{NAMESPACE}/aerostack-webhook"), "ca.crt")
        for running in (one, two):
            assert running.review(bundle, review("plain"), SERVICE)["allowed"]
            assert "PRIVATE KEY" not in running.log.read_text()
        assert api.conflicts >= 1
        # An upgrade of the chart writes the configuration anew.
        api.put(CONFIGURATION, configuration())
        one.process.send_signal(signal.SIGHUP)
        eventually("caBundle", lambda: (api.get(CONFIGURATION) or {})["webhooks"][0]["clientConfig"]["caBundle"])
        # Without the API, the last certificate stays in use.
        (api.service_account / "token").write_text("expired")
        one.process.send_signal(signal.SIGHUP)
        eventually("a line about the API", lambda: "Unauthorized" in one.log.read_text())
        assert one.review(bundle, review("plain"), SERVICE)["allowed"]
        assert one.get("/readyz")[0] == 200


def test_a_webhook_without_a_certificate_is_not_ready_and_says_why(tmp_path: Path, api: Api) -> None:
    vault, _ = self_signed(tmp_path, "DNS:vault")
    own = [
        *("--vault-ca", vault, "--self-signed-secret", "aerostack/aerostack-webhook"),
        *("--webhook-configuration", "missing", "--service-name", "aerostack-webhook"),
        *("--service-account-dir", api.service_account),
    ]
    with webhook(tmp_path / "log", own, api.environment) as running:
        eventually("a line about the API", lambda: "404 Not Found" in running.log.read_text())
        assert running.get("/readyz") == (503, "not ready: no certificate has come from --self-signed-secret yet\n")
        assert running.get("/livez")[0] == 200


def certificates(api: Api, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(str(BINARY), "kubernetes", "certificates", "--namespace", "aerostack", "--secret", "vault-tls"),
            *("--dns", "aerostack-vault.aerostack.svc", "--uri", "spiffe://aerostack/vault"),
            *("--service-account-dir", str(api.service_account), *more),
        ],
        env=api.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_the_command_makes_certificates_once_and_renews_them_when_names_change(api: Api, tmp_path: Path) -> None:
    first = certificates(api)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == (
        "Made a certificate authority, in the Secret aerostack/vault-tls-ca.\n"
        "Made a certificate, in the Secret aerostack/vault-tls.\n"
    )
    leaf, authority = api.get(f"{NAMESPACE}/vault-tls"), api.get(f"{NAMESPACE}/vault-tls-ca")
    assert leaf and authority and leaf["type"] == "kubernetes.io/tls"
    assert set(leaf["data"]) == {"ca.crt", "tls.crt", "tls.key"}
    assert set(authority["data"]) == {"ca.crt", "ca.key"}
    assert certificates(api).stdout == "Everything was there already.\n"
    assert api.get(f"{NAMESPACE}/vault-tls") == leaf
    renamed = certificates(api, "--dns", "vault.example.org")
    assert renamed.stdout == "Made a certificate, in the Secret aerostack/vault-tls.\n"
    renewed = api.get(f"{NAMESPACE}/vault-tls")
    (tmp_path / "ca.crt").write_text(text(renewed, "ca.crt"))
    (tmp_path / "tls.crt").write_text(text(renewed, "tls.crt"))
    trusted = ["-CAfile", tmp_path / "ca.crt", "-verify_hostname", "vault.example.org"]
    verified = subprocess.run(
        ["openssl", "verify", *trusted, tmp_path / "tls.crt"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert verified.returncode == 0, verified
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", tmp_path / "tls.crt"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert "URI:spiffe://aerostack/vault" in shown.stdout


def test_the_command_works_beside_others_and_tells_its_failures_apart(api: Api) -> None:
    assert certificates(api).returncode == 0
    # Somebody else writes the Secret at the same time.
    api.rivals = 2
    assert certificates(api, "--dns", "vault.example.org").returncode == 0
    assert api.conflicts == 2
    api.put(f"{NAMESPACE}/vault-tls-ca", {"metadata": {"name": "vault-tls-ca"}, "data": {"password": "cGFzc3dvcmQ="}})
    foreign = certificates(api)
    assert foreign.returncode == 78
    assert "aerostack/vault-tls-ca exists and was not made by this program" in foreign.stderr
    (api.service_account / "token").write_text("expired")
    assert certificates(api).returncode == 77
    outside = subprocess.run(
        [str(BINARY), "kubernetes", "certificates", "--namespace", "a", "--secret", "b", "--dns", "c"],
        env={},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert outside.returncode == 78
    assert "does not run inside a cluster" in outside.stderr
