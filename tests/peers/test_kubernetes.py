"""What helm renders of the chart, the plain manifests, and the examples: the schemas of Kubernetes' own API for the oldest and the newest
version, *restricted* Pod Security, rights, and values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from cluster import (
    CHART,
    NAMESPACE,
    PLAIN,
    VALUES,
    Manifest,
    containers,
    manifests,
    one,
    pod_specs,
    rendered,
    rendered_with,
    run,
    template,
    variables,
)
from pair import REPOSITORY

# The oldest version is the first in which native sidecars are on by default.
OLDEST, NEWEST = "1.29", "1.37"
# Objects of other projects, whose schemas Kubernetes does not have.
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate", "Issuer"}

each_values = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.name.removesuffix("-values.yaml"))


def applied() -> list[tuple[str, Manifest]]:
    """The manifests of deploy/kubernetes that are applied as they are."""
    files = [path for path in PLAIN.rglob("*.yaml") if path.name not in ("values.yaml", "kustomization.yaml")]
    return [(path.name, each) for path in sorted(files) for each in manifests(path.read_text())]


# --- What is rendered --------------------------------------------------------------------------------------------


def test_there_are_ten_files_of_values() -> None:
    assert len(VALUES) >= 10


@each_values
def test_helm_finds_no_fault_in_the_chart(values: Path) -> None:
    run("helm", "lint", "--strict", str(CHART), "--values", str(values))


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@each_values
def test_every_rendered_manifest_fits_the_schema_of_kubernetes(values: Path, version: str) -> None:
    validated = [each for each in rendered_with(values) if each["kind"] not in FOREIGN]
    for manifest in validated:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version
    assert len(validated) > 10


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_plain_manifest_and_example_fits_the_schema_of_kubernetes(version: str) -> None:
    for name, manifest in applied():
        assert kubernetes_validate.validate(manifest, version, strict=True) == version, name


def test_a_wrong_manifest_does_not_fit() -> None:
    wrong = rendered_with(CHART / "ci" / "default-values.yaml")
    statefulset = json.loads(json.dumps(one(wrong, "StatefulSet", "aerostack-vault")))
    statefulset["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(statefulset, OLDEST, strict=True)


def check_restricted(pod: Manifest, where: str) -> None:
    """The standard "restricted" of https://kubernetes.io/docs/concepts/security/pod-security-standards, version 1.29 and later."""
    volumes = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod.get("volumes", []):
        assert volume.keys() - {"name"} <= volumes, f"{where}: {volume}"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), where
    context = pod.get("securityContext", {})
    assert not {"sysctls", "windowsOptions", "seLinuxOptions"} & context.keys(), where
    for container in containers(pod):
        own = container.get("securityContext", {})
        both = {**context, **own}
        at = f"{where}, {container['name']}"
        assert both.get("runAsNonRoot") is True and both.get("runAsUser") != 0, at
        assert both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"), at
        assert own.get("allowPrivilegeEscalation") is False and not own.get("privileged"), at
        assert own.get("capabilities") == {"drop": ["ALL"]}, at
        assert not any("hostPort" in port for port in container.get("ports", [])), at
        # Beyond the standard: nothing writes into its image.
        assert own.get("readOnlyRootFilesystem") is True, at


@each_values
def test_every_rendered_pod_is_restricted(values: Path) -> None:
    found = [(each["metadata"]["name"], pod) for each in rendered_with(values) for pod in pod_specs(each)]
    for name, pod in found:
        check_restricted(pod, name)
        assert pod["enableServiceLinks"] is False, name
    assert len(found) >= 2


def test_every_pod_of_the_plain_manifests_and_the_examples_is_restricted() -> None:
    for name, manifest in applied():
        for pod in pod_specs(manifest):
            check_restricted(pod, name)


@each_values
def test_every_image_has_a_version_or_a_digest(values: Path) -> None:
    for pod in [pod for each in rendered_with(values) for pod in pod_specs(each)]:
        for container in containers(pod):
            assert re.search(r"(:v?[0-9][^:/]*|@sha256:[0-9a-f]{64})$", container["image"]), container["image"]


def test_images_by_digest_have_no_tag_and_sidecars_get_the_same() -> None:
    objects = rendered_with(CHART / "ci" / "digests-values.yaml")
    images = {container["image"] for each in objects for pod in pod_specs(each) for container in containers(pod)}
    assert all(
        re.fullmatch(r"registry\.example\.com:5000/aerostack/[a-z-]+@sha256:[0-9a-f]{64}", each) for each in images
    )
    (webhook,) = one(objects, "Deployment", "aerostack-webhook")["spec"]["template"]["spec"]["containers"]
    assert variables(webhook)["AEROSTACK_WEBHOOK_IMAGE"] == webhook["image"]


def test_every_container_has_requests_and_a_limit_of_memory() -> None:
    for pod in [pod for each in rendered_with(CHART / "ci" / "default-values.yaml") for pod in pod_specs(each)]:
        for container in containers(pod):
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


# --- Who may do what ---------------------------------------------------------------------------------------------


# The kind of a role, its resources, their names, and the verbs.
Right = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def rules(objects: list[Manifest], account: str) -> list[Right]:
    """The rights of a service account."""
    found: list[Right] = []
    for binding in [each for each in objects if each["kind"] in ("RoleBinding", "ClusterRoleBinding")]:
        if account in [subject["name"] for subject in binding["subjects"]]:
            kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
            if name.startswith("system:"):
                found.append((kind, (name,), (), ()))
                continue
            role = one(objects, kind, name)
            for rule in role["rules"]:
                names = tuple(rule.get("resourceNames", ()))
                found.append((kind, tuple(rule["resources"]), names, tuple(rule["verbs"])))
    return found


def test_each_service_account_has_the_least_that_works() -> None:
    objects = rendered_with(CHART / "ci" / "default-values.yaml")
    change = ("get", "update")
    assert rules(objects, "aerostack-vault") == [("ClusterRole", ("system:service-account-issuer-discovery",), (), ())]
    assert sorted(rules(objects, "aerostack-webhook")) == [
        ("ClusterRole", ("mutatingwebhookconfigurations",), ("aerostack-webhook",), change),
        ("Role", ("secrets",), ("aerostack-webhook-tls",), change),
    ]
    kept = ("Role", ("secrets",), ("aerostack-vault-tls", "aerostack-vault-tls-ca"), change)
    assert rules(objects, "aerostack-certificates") == [kept]
    assert rules(objects, "aerostack-certificates-first") == [("Role", ("secrets",), (), ("create",)), kept]
    assert rules(objects, "aerostack-admin") == []


def test_the_account_that_may_create_secrets_lives_as_long_as_its_job() -> None:
    for each in rendered_with(CHART / "ci" / "default-values.yaml"):
        if each["metadata"]["name"] == "aerostack-certificates-first":
            annotations = each["metadata"]["annotations"]
            assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
            assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_with_cert_manager_no_pod_of_ours_may_read_a_secret() -> None:
    objects = rendered_with(CHART / "ci" / "cert-manager-values.yaml")
    assert not [each for each in objects if each["kind"] in ("Role", "ClusterRole", "Job", "CronJob")]
    configuration = one(objects, "MutatingWebhookConfiguration", "aerostack-webhook")
    assert configuration["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": "aerostack/aerostack-webhook"}
    (uri,) = one(objects, "Certificate", "aerostack-vault")["spec"]["uris"]
    (webhook,) = one(objects, "Deployment", "aerostack-webhook")["spec"]["template"]["spec"]["containers"]
    assert variables(webhook)["AEROSTACK_WEBHOOK_VAULT_ID"] == uri


def test_only_the_vault_mounts_its_key_and_the_root_key() -> None:
    for each in rendered_with(CHART / "ci" / "default-values.yaml"):
        for pod in pod_specs(each):
            text = json.dumps(pod.get("volumes", []))
            is_vault = each["kind"] == "StatefulSet"
            assert ("tls.key" in text) == is_vault and ("aerostack-root-key" in text) == is_vault, each["metadata"][
                "name"
            ]


def test_only_pods_with_a_sidecar_reach_the_vault() -> None:
    policy = one(rendered_with(CHART / "ci" / "default-values.yaml"), "NetworkPolicy", "aerostack-vault")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": "grpc", "protocol": "TCP"}]
    sidecars, test = rule["from"]
    assert sidecars == {"podSelector": {"matchLabels": {"aerostack.dev/injector": "true"}}, "namespaceSelector": {}}
    assert (
        test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test" and "namespaceSelector" not in test
    )

    more = one(rendered_with(CHART / "ci" / "roles-values.yaml"), "NetworkPolicy", "team-vault-vault")["spec"][
        "ingress"
    ]
    assert more[0]["from"][0]["namespaceSelector"] == {"matchLabels": {"aerostack.dev/injection": "enabled"}}
    assert more[0]["from"][2] == {"ipBlock": {"cidr": "10.0.0.0/24"}}


@each_values
def test_selectors_select_the_pods_of_their_component_alone(values: Path) -> None:
    objects = rendered_with(values)
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in objects
        if each["kind"] in ("StatefulSet", "Deployment")
    }
    for each in objects:
        if each["kind"] not in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
            continue
        spec = each["spec"]
        selector = spec["podSelector"] if "podSelector" in spec else spec["selector"]
        wanted = selector.get("matchLabels", selector)
        selected = [name for name, labels in pods.items() if wanted.items() <= labels.items()]
        assert selected == [each["metadata"]["name"].removesuffix("-headless")], each["metadata"]["name"]


@each_values
def test_injectors_reach_a_vault_that_is_not_ready(values: Path) -> None:
    """A vault whose disk is full is not ready, and still decrypts."""
    objects = rendered_with(values)
    (name,) = [each["metadata"]["name"] for each in objects if each["kind"] == "StatefulSet"]
    assert one(objects, "Service", name)["spec"]["publishNotReadyAddresses"] is True


def test_an_outage_of_the_webhook_does_not_concern_pods_without_an_annotation() -> None:
    (webhook,) = one(
        rendered_with(CHART / "ci" / "default-values.yaml"), "MutatingWebhookConfiguration", "aerostack-webhook"
    )["webhooks"]
    assert webhook["failurePolicy"] == "Fail" and webhook["reinvocationPolicy"] == "IfNeeded"
    (condition,) = webhook["matchConditions"]
    assert 'startsWith("aerostack.dev/")' in condition["expression"]
    # The label that other injectors use is sent, and not that of a sidecar which is written by hand.
    assert '"aerostack.dev/inject" in object.metadata.labels' in condition["expression"]
    (unseen,) = webhook["namespaceSelector"]["matchExpressions"]
    assert unseen["operator"] == "NotIn" and unseen["values"] == ["kube-system", NAMESPACE]
    (container,) = one(rendered_with(CHART / "ci" / "default-values.yaml"), "Deployment", "aerostack-webhook")["spec"][
        "template"
    ]["spec"]["containers"]
    denied = variables(container)["AEROSTACK_WEBHOOK_EXCLUDE_NAMESPACE"].split(";")
    assert {*unseen["values"], "kube-public"} <= set(denied)


def test_an_update_replaces_a_vault_that_never_became_ready() -> None:
    spec = one(rendered_with(CHART / "ci" / "default-values.yaml"), "StatefulSet", "aerostack-vault")["spec"]
    assert (spec["podManagementPolicy"], spec["updateStrategy"]) == ("Parallel", {"type": "RollingUpdate"})


def test_no_budget_protects_a_pod_that_is_not_ready() -> None:
    budgets = [each for each in rendered_with(CHART / "ci" / "scheduling-values.yaml") if each["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 2
    assert all(each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for each in budgets)


def test_the_sidecars_have_the_settings_of_the_values() -> None:
    objects = rendered(
        *("--set", "tokens.expirationSeconds=600", "--set", "injector.metricsListen=[::]:9152"),
        *("--set", "monitoring.serviceMonitor.enabled=true", "--set", "vault.startupSeconds=900"),
        *("--set", "webhook.allowedImages={registry.example.org/a/,registry.example.org/b:1}"),
        *("--set", "injector.readiness=live"),
    )
    (webhook,) = one(objects, "Deployment", "aerostack-webhook")["spec"]["template"]["spec"]["containers"]
    settings = variables(webhook)
    assert settings["AEROSTACK_WEBHOOK_TOKEN_EXPIRATION"] == "600s"
    assert settings["AEROSTACK_WEBHOOK_SIDECAR_METRICS_LISTEN"] == "[::]:9152"
    assert settings["AEROSTACK_WEBHOOK_SIDECAR_READINESS"] == "live"
    assert settings["AEROSTACK_WEBHOOK_ALLOW_IMAGE"] == "registry.example.org/a/;registry.example.org/b:1"
    (endpoint,) = one(objects, "PodMonitor", "aerostack-injector")["spec"]["podMetricsEndpoints"]
    assert endpoint["portNumber"] == 9152
    (vault,) = one(objects, "StatefulSet", "aerostack-vault")["spec"]["template"]["spec"]["containers"]
    assert vault["startupProbe"]["failureThreshold"] * vault["startupProbe"]["periodSeconds"] == 900


@pytest.mark.parametrize(
    ("values", "sources"),
    [
        ("", {"jwks", "ca", "token"}),
        ("tokens.keys=", {"ca", "token"}),
        ("tokens.issuer=https://oidc.example.com/id", {"jwks", "ca", "token"}),
        ("tokens.issuer=https://oidc.example.com/id,tokens.keys=", set()),
        ("tokens.issuer=https://oidc.example.com/id,tokens.keys=https://oidc.example.com/keys", {"jwks"}),
        ("tokens.keys=https://kubernetes.default.svc.example.com/keys", {"jwks"}),
        ("tokens.issuer=https://kubernetes.default.svc.example.com,tokens.keys=", set()),
        ("clusterDomain=a.example,tokens.issuer=https://kubernetes.default.svc.a.example,tokens.keys=", {"ca", "token"}),
    ],
)
def test_an_issuer_outside_of_the_cluster_gets_no_token_of_the_cluster(values: str, sources: set[str]) -> None:
    statefulset = one(rendered("--set", values), "StatefulSet", "aerostack-vault")
    (vault,) = statefulset["spec"]["template"]["spec"]["containers"]
    issuer, _, audience = variables(vault)["AEROSTACK_VAULT_JWT_ISSUER"].partition("=")
    assert issuer.startswith("https://")
    assert {each.split("=")[0] for each in audience.split(",")} - {"aerostack-vault", "name"} == sources


def test_a_job_of_the_certificates_that_somebody_starts_is_deleted_when_it_has_ended() -> None:
    cronjob = one(rendered_with(CHART / "ci" / "default-values.yaml"), "CronJob", "aerostack-certificates")
    assert cronjob["spec"]["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] == 7 * 24 * 3600


@pytest.mark.parametrize("values", ["default", "no-hooks"])
def test_a_failed_pod_of_the_certificates_stays_with_its_log(values: str) -> None:
    """With `OnFailure`, Kubernetes deletes the pod of a Job that has failed too often."""
    objects = rendered_with(CHART / "ci" / f"{values}-values.yaml")
    jobs = [pod for each in objects if each["kind"] in ("Job", "CronJob") for pod in pod_specs(each)]
    assert [pod["restartPolicy"] for pod in jobs] == ["Never", "Never"]


def test_a_webhook_in_the_network_of_its_nodes_needs_no_further_node_for_an_update() -> None:
    objects = rendered("--set", "webhook.hostNetwork=true,webhook.port=18443,webhook.metricsPort=19053")
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(one(objects, "Deployment", "aerostack-webhook"), version, strict=True)
    spec = one(objects, "Deployment", "aerostack-webhook")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    pod = spec["template"]["spec"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert variables(pod["containers"][0])["AEROSTACK_WEBHOOK_LISTEN"] == "0.0.0.0:18443"
    assert [each["containerPort"] for each in pod["containers"][0]["ports"]] == [18443, 19053]


def test_the_sidecar_that_is_written_by_hand_has_the_probes_of_the_webhook() -> None:
    (job,) = manifests((PLAIN / "example" / "sidecar.yaml").read_text())
    (sidecar,) = job["spec"]["template"]["spec"]["initContainers"]
    recorded = json.loads((REPOSITORY / "tests/peers/webhook/already-injected.json").read_text())["request"]["object"]
    (injected,) = [each for each in recorded["spec"]["initContainers"] if each["name"] == sidecar["name"]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["exec"] == injected[probe]["exec"], probe


def test_no_job_of_the_examples_waits_without_end() -> None:
    jobs = [manifest["spec"] for _, manifest in applied() if manifest["kind"] == "Job"]
    jobs += [manifest["spec"]["jobTemplate"]["spec"] for _, manifest in applied() if manifest["kind"] == "CronJob"]
    assert len(jobs) > 2
    for job in jobs:
        assert job["activeDeadlineSeconds"] >= 60


def test_a_pod_waits_for_the_key_of_each_config_map() -> None:
    """Without `items`, the kubelet starts a pod whose ConfigMap lacks the key, and the sidecar has no servers."""
    (job,) = manifests((PLAIN / "example" / "sidecar.yaml").read_text())
    volumes = [each["configMap"] for each in job["spec"]["template"]["spec"]["volumes"] if "configMap" in each]
    assert [each["items"] for each in volumes] == [
        [{"key": name, "path": name}] for name in ("ca.crt", "servers.yaml")
    ]


# --- Values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "vault.replicas=2"], "/vault/replicas"),
        (["--set", "vault.listenAddress=::"], "/vault/listenAddress"),
        (["--set", "injector.metricsListen=9052"], "/injector/metricsListen"),
        (["--set", "tokens.expirationSeconds=60"], "/tokens/expirationSeconds"),
        (["--set", "podSecurity.fsGroup=null"], "podSecurity.fsGroup is required"),
        (["--set", "rootKey.secrets=null"], "rootKey"),
        (["--set", "commonLabels.app\\.kubernetes\\.io/name=x"], "invalid propertyName"),
        (["--set", "vault.store=etcd"], "/vault/store"),
        (["--set", "vault.replica=1"], "replica"),
        (["--set", "unknown=1"], "unknown"),
        (["--set", "vault.image.tag=latest"], "/vault/image/tag"),
        (["--set", "vault.image.digest=sha256:abc"], "/vault/image/digest"),
        (["--set", "vault.image.repository=vault-service:1.0"], "/vault/image/repository"),
        (["--set", "webhook.failurePolicy=Maybe"], "/webhook/failurePolicy"),
        (["--set", "webhook.replicas=0"], "/webhook/replicas"),
        (["--set", "webhook.allowedImages={two words}"], "/webhook/allowedImages/0"),
        (["--set", "roles.injectors={system:serviceaccount:shop:web}"], "/roles/injectors/0"),
        (["--set", "roles.injectors={web=shop}"], "/roles/injectors/0"),
        (["--set", "roles.injectors={system:serviceaccount:Shop:Web=shop}"], "/roles/injectors/0"),
        (["--set", "roles.injectors={system:serviceaccount:shop:web=shop-}"], "/roles/injectors/0"),
        (["--set", "roles.injectors={spiffe://a/ns/b/sa/c=shop}"], "certificates.clientCaSecret is required"),
        (
            ["--set", "roles.injectors={system:serviceaccount:a:b=shop},roles.editors={system:serviceaccount:a:b=shop}"],
            "system:serviceaccount:a:b is in roles.injectors and also an admin, editor or viewer",
        ),
        (
            ["--set", "roles.injectors={system:serviceaccount:aerostack:aerostack-admin=*}"],
            "no principal may both administer and decrypt",
        ),
        (["--set", "rootKey.type=file"], "/rootKey/type"),
        (["--set-json", "rootKey.secrets=[]"], "/rootKey/secrets"),
        (["--set", "certificates.mode=none"], "/certificates/mode"),
        (["--set", "tokens.issuer=http://kubernetes"], "/tokens/issuer"),
        (["--set", "vault.auditLog=/etc/audit.log"], "/vault/auditLog"),
        # The store is in /data/vault, nothing else may be there, and the vault makes no folders.
        (["--set", "vault.auditLog=/data/vault"], "/vault/auditLog"),
        (["--set", "vault.auditLog=/data/vault/audit.log"], "/vault/auditLog"),
        (["--set", "vault.auditLog=/data/logs/audit.log"], "/vault/auditLog"),
        (["--set", "vault.auditLog=/data/.."], "/vault/auditLog"),
        (["--set", "vault.log=warning"], "/vault/log"),
        (["--set", "webhook.log=info\\,h2"], "/webhook/log"),
        (["--set", "image.registry=https://registry.example.com"], "/image/registry"),
        (["--set", "webhook.allowedImages={https://registry.example.com/a}"], "/webhook/allowedImages/0"),
        (["--set", "webhook.metricsPort=8443"], "webhook.metricsPort and webhook.port are both 8443"),
        (["--set", "injector.memory=64mb"], "/injector/memory"),
        (["--set", "injector.cpu=64Mi"], "/injector/cpu"),
        (["--set", "certificates.mode=existing"], "certificates.existing.vaultSecret is required"),
        # Roles that the vault refuses.
        (
            ["--set", "roles.injectors={system:serviceaccount:a:b=shop},roles.viewers={system:serviceaccount:a:b=shop}"],
            "system:serviceaccount:a:b is in roles.injectors and also an admin, editor or viewer",
        ),
        (
            [
                *("--set", "roles.injectors={system:serviceaccount:a:b=shop}"),
                "--set",
                "roles.editors={jwt:https://kubernetes.default.svc.cluster.local#system:serviceaccount:a:b=shop}",
            ],
            "system:serviceaccount:a:b is in roles.injectors and also",
        ),
        (["--set", "roles.injectors={jwt:foo=shop}"], "/roles/injectors/0"),
        (["--set", f"roles.injectors={{system:serviceaccount:a:b={'w' * 64}}}"], "/roles/injectors/0"),
        (["--set", f"roles.admins={{system:serviceaccount:{'n' * 64}:b}}"], "/roles/admins/0"),
        (["--set", "roles.editors={spiffe://domain=shop}"], "/roles/editors/0"),
        # Issuers that the vault refuses.
        (["--set", "tokens.issuers={https://i.example=a\\,max-life=banana}"], "/tokens/issuers/0"),
        (["--set", "tokens.issuers={https://i.example=a\\,alg=HS256}"], "/tokens/issuers/0"),
        (["--set", "tokens.issuers={https://i.example=a\\,jwks=http://k.example/jwks}"], "/tokens/issuers/0"),
        (["--set", "tokens.issuers={https://i.example=a\\,jwks=http://localhost/jwks}"], "/tokens/issuers/0"),
        (["--set", "tokens.issuers={https://i.example=a\\,jwks=http://127.0.0.1.example/jwks}"], "/tokens/issuers/0"),
        (["--set", "tokens.issuers={https://i.example=a\\,jwks=https://user@k.example/jwks}"], "/tokens/issuers/0"),
        (["--set", "tokens.issuers={https://i.example=a\\,jwks=k.example/jwks}"], "/tokens/issuers/0"),
        (["--set", "tokens.issuers={https://i.example=a\\,jwks=/keys.json\\,ca=/ca.crt}"], "tokens.issuers: ca= and token= are for"),
        (["--set", "tokens.issuers={https://i.example=a\\,token=/t\\,jwks=/keys.json}"], "tokens.issuers: ca= and token= are for"),
        (["--set", "tokens.issuers={https://i.example=a\\,name=b\\,name=c}"], "tokens.issuers: a part occurs twice in"),
        (
            ["--set", "tokens.issuers={https://kubernetes.default.svc.cluster.local=a}"],
            "tokens.issuers: https://kubernetes.default.svc.cluster.local is the issuer of another entry",
        ),
        (["--set", "tokens.issuers={https://i.example=a\\,name=kubernetes}"], "name=kubernetes is the name of another"),
        (["--set", "tokens.audience=https://kubernetes.default.svc"], "/tokens/audience"),
        (
            ["--set", "tokens.issuer=https://oidc.example.com/id,tokens.audience=https://oidc.example.com/id"],
            "tokens.audience is tokens.issuer",
        ),
        (["--set", "tokens.audience=null"], "audience"),
        # Names and schedules that Kubernetes refuses.
        (["--set", f"fullnameOverride={'n' * 40}"], "/fullnameOverride"),
        (["--set", "fullnameOverride=1vault"], "/fullnameOverride"),
        (["--set", "certificates.job.schedule=every day"], "/certificates/job/schedule"),
        (["--set", "certificates.job.schedule=@reboot"], "/certificates/job/schedule"),
        (["--set", "vault.persistence.size=0Gi"], "/vault/persistence/size"),
        (["--set", "webhook.port=null"], "port"),
        (["--set-json", 'webhook.namespaceSelector=[{"key": "a", "operator": "In"}]'], "/webhook/namespaceSelector/0"),
        (
            ["--set-json", 'webhook.objectSelector=[{"key": "a", "operator": "Exists", "values": ["b"]}]'],
            "/webhook/objectSelector/0",
        ),
        (["--set-json", "networkPolicy.metrics=[{}]"], "/networkPolicy/metrics/0"),
        (["--set-json", 'networkPolicy.metrics=[{"matchLabels": {}}]'], "/networkPolicy/metrics/0"),
        # Resources.
        (["--set", "injector.memory=8Mi"], "injector.memory is less than 16Mi"),
        (["--set", "injector.memory=64Mi\\,32Mi"], "injector.memory: the limit 32Mi is less than the request 64Mi"),
        (["--set-string", "injector.memory=0"], "injector.memory is less than 16Mi"),
        (["--set", "injector.cpu=1.2.3"], "/injector/cpu"),
        (["--set", "injector.cpu=0m"], "injector.cpu is not more than 0"),
        (["--set-string", "injector.cpu=20"], "injector.cpu is more than 16"),
        (["--set", "injector.metricsListen=0.0.0.0:7100"], "7100 is the port of the data plane"),
        (["--set", "injector.metricsListen=0.0.0.0:70000"], "/injector/metricsListen"),
        (["--set", "injector.readiness=always"], "/injector/readiness"),
        (["--set", "vault.resources.limits.memory=128Mi"], "vault.resources: the limit of memory (128Mi) is less"),
        (["--set", "webhook.resources.limits.cpu=10m"], "webhook.resources: the limit of cpu (10m) is less"),
        (["--set", "vault.cacheMib=512"], "vault.cacheMib"),
        # A KMS.
        (["--set", "rootKey.type=kms"], "rootKey.kms.plugin is empty"),
        (["--set", "rootKey.type=kms,rootKey.kms.plugin.image=a:1"], "/rootKey/kms/plugin"),
        (["--set", "rootKey.kms.directory=/data/kms"], "/rootKey/kms/directory"),
        # cert-manager.
        (["--set", "certificates.certManager.issuerRef.kind=Issuer"], "/certificates/certManager/issuerRef"),
        (
            ["--set", "certificates.mode=cert-manager,certificates.certManager.duration=720h,certificates.certManager.renewBefore=720h"],
            "certificates.certManager.renewBefore is not less than duration",
        ),
        (
            [
                *("--set", "certificates.mode=cert-manager,certificates.certManager.renewBefore=48h"),
                *("--set", "monitoring.alerts.enabled=true"),
            ],
            "AerostackCertificateExpires would fire at each renewal",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_values_are_refused_by_name(arguments: list[str], said: str) -> None:
    done = template(*arguments, check=False)
    assert done.returncode != 0, "it was rendered"
    assert said.strip("/").split("/")[-1] in done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", f"fullnameOverride={'n' * 39}"],
        ["--set", "certificates.job.schedule=@daily"],
        ["--set", "certificates.job.schedule=*/5 0-6 1\\,15 * MON-FRI"],
        ["--set", "tokens.issuers={https://i.example/a?b=aud\\,name=b\\,jwks=https://k.example/\\,max-life=90m}"],
        ["--set", "tokens.issuers={https://i.example=a\\,jwks=/etc/keys.json\\,name=b}"],
        ["--set", "tokens.issuers={https://i.example=a\\,jwks=https://k.example:8443/a?b=c\\,ca=/ca.crt\\,token=/t}"],
        ["--set", "tokens.issuers={https://i.example=a\\,jwks=http://127.0.0.1:8080/jwks}"],
        ["--set", "tokens.issuers={https://i.example=a\\,jwks=http://[::1]:8080/jwks}"],
        ["--set", "vault.auditLog=/data/audit.log"],
        ["--set", "vault.auditLog=/data/.audit"],
        ["--set", "vault.auditLog="],
        ["--set", "roles.editors={jwt:https://i.example#a=b=shop}"],
        ["--set", f"roles.viewers={{system:serviceaccount:a:b.c={'w' * 63}}}"],
        ["--set", "injector.cpu=0.5\\, 16,injector.memory=.5Gi\\,1G"],
        ["--set", "rootKey.type=kms", "--set-json", 'vault.extraVolumes=[{"name": "kms", "hostPath": {"path": "/run"}}]'],
        ["--set", "vault.resources.limits.memory=null,vault.cacheMib=4096"],
        ["--set-json", 'vault.resources={"requests": null}'],
        ["--set", "certificates.mode=cert-manager,certificates.certManager.renewBefore=48h"],
    ],
    ids=lambda value: value[-1],
)
def test_right_values_are_rendered(arguments: list[str]) -> None:
    template(*arguments)


def test_roles_that_no_variable_can_hold_are_refused(tmp_path: Path) -> None:
    """Linux limits one variable to 128 KiB, and the container of the vault would not start."""
    values = tmp_path / "values.json"
    for number, held in ((2900, True), (3000, False)):
        roles = [f"system:serviceaccount:shop:web-{each}=shop" for each in range(number)]
        values.write_text(json.dumps({"roles": {"injectors": roles}}))
        done = template("--values", str(values), check=False)
        assert (done.returncode == 0) is held, done.stderr
    assert "roles.injectors has 121889 bytes" in done.stderr, done.stderr


def test_every_object_of_the_schema_is_closed() -> None:
    def visit(schema: Manifest, path: str) -> None:
        properties = schema.get("properties")
        if properties is None:
            return
        open_by_nature = path.endswith("extraEnv[]")
        assert schema.get("additionalProperties") is False or open_by_nature, path
        for name, each in properties.items():
            visit(each, f"{path}.{name}")
            visit(each.get("items", {}), f"{path}.{name}[]")

    visit(json.loads((CHART / "values.schema.json").read_text()), "")


def test_every_value_is_in_the_schema_and_nothing_else() -> None:
    def compare(values: Manifest, schema: Manifest, path: str) -> None:
        properties = schema.get("properties")
        if properties is None:
            return
        assert values.keys() == properties.keys() - {"global"}, path
        for name, value in values.items():
            if isinstance(value, dict) and value:
                compare(value, properties[name], f"{path}.{name}")

    compare(
        yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()), ""
    )


def test_every_value_is_explained() -> None:
    """Each value, or the object that it belongs to, has a comment in the form of helm-docs."""
    explained: list[tuple[int, bool]] = []
    comment = False
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.strip().startswith("#"):
            comment = comment or line.strip().startswith("# --")
        elif found := re.match(r"( *)(\w+):(.*)", line):
            depth = len(found[1])
            explained = [each for each in explained if each[0] < depth]
            inherited = any(is_explained for _, is_explained in explained)
            assert comment or inherited or not found[3], f"{found[2]} has no comment"
            explained.append((depth, comment))
            comment = False


def test_the_keys_of_the_root_are_mounted_in_their_order() -> None:
    statefulset = one(rendered_with(CHART / "ci" / "roles-values.yaml"), "StatefulSet", "team-vault-vault")
    pod = statefulset["spec"]["template"]["spec"]
    files = variables(pod["containers"][0])["AEROSTACK_VAULT_ROOT_KEY_FILE"].split(";")
    (volume,) = [each for each in pod["volumes"] if each["name"] == "root-key"]
    sources = [each["secret"] for each in volume["projected"]["sources"]]
    assert [each["name"] for each in sources] == ["key-2027", "key-2026"]
    assert files == [f"/etc/aerostack/root-key/{each['items'][0]['path']}" for each in sources]


# --- The plain manifests -----------------------------------------------------------------------------------------


def test_the_plain_manifests_are_what_the_chart_renders() -> None:
    done = subprocess.run([sys.executable, PLAIN / "generate", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plain_manifests_need_no_helm_and_have_no_secret() -> None:
    for name, each in applied():
        assert "helm" not in json.dumps(each).lower(), name
        assert each["kind"] != "Secret" or not each.get("data"), name
