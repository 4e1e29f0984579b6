"""Whole lives of a release of the chart: helm and kubectl with a stand-in for the API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

from api_server import ApiServer
from cluster import CHART, NAMESPACE, PLAIN, VALUES, Cluster, rendered_with, template


# The chart before the first release, made by `helm package`. Each release puts its own chart here.
EARLIER_CHART = Path(__file__).parent / "releases" / "aerostack-0.1.0.tgz"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.api.close()


def test_kubectl_accepts_every_manifest(cluster: Cluster, tmp_path: Path) -> None:
    for values in VALUES:
        file = tmp_path / values.name
        file.write_text(template("--values", str(values)).stdout)
        made = cluster.run(
            "kubectl", "apply", "--dry-run=client", "--validate=false", "--output=name", f"--filename={file}"
        )
        assert len(made.stdout.splitlines()) == len(rendered_with(values))
    applied_as_plain = cluster.run("kubectl", "apply", "--validate=false", "--kustomize", str(PLAIN)).stdout
    assert "statefulset.apps/aerostack-vault created" in applied_as_plain
    assert "mutatingwebhookconfiguration" in applied_as_plain


def test_the_root_key_is_made_once_and_survives_everything(cluster: Cluster) -> None:
    cluster.install()
    key = cluster.root_key()
    assert cluster.api.of("Secret")["aerostack-root-key"]["immutable"] is True

    cluster.upgrade("--set", "vault.log=debug")
    assert cluster.root_key() == key
    cluster.upgrade("--set", "rootKey.generate=false")
    assert cluster.root_key() == key
    cluster.upgrade()
    assert cluster.root_key() == key
    cluster.helm("rollback", "1")
    assert cluster.root_key() == key

    told = cluster.helm("uninstall").stdout
    assert "[Secret] aerostack-root-key" in told
    assert list(cluster.api.of("Secret")) == ["aerostack-root-key"]
    assert not cluster.api.of("StatefulSet")
    cluster.install()
    assert cluster.root_key() == key


def test_a_tool_that_renders_without_a_cluster_cannot_replace_the_root_key(cluster: Cluster, tmp_path: Path) -> None:
    cluster.install()
    key = cluster.root_key()
    file = tmp_path / "rendered.yaml"
    file.write_text(template().stdout)
    apply = ["kubectl", "apply", "--validate=false", f"--filename={file}"]
    done = cluster.run(*apply, check=False)
    assert done.returncode != 0 and "immutable" in done.stderr, done.stderr
    assert cluster.root_key() == key


def test_a_secret_that_somebody_else_made_is_used_and_left_alone(cluster: Cluster) -> None:
    cluster.run("kubectl", "create", "namespace", NAMESPACE)
    cluster.api.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "aerostack-root-key", "namespace": NAMESPACE},
            "data": {"root.key": "bWluZQ=="},
        }
    )
    before = cluster.api.of("Secret")["aerostack-root-key"]
    cluster.install()
    cluster.upgrade("--set", "vault.log=debug")
    assert cluster.api.of("Secret")["aerostack-root-key"] == before
    cluster.helm("uninstall")
    assert cluster.api.of("Secret")["aerostack-root-key"] == before
    done = cluster.install("--set", "rootKey.secrets[0].name=aerostack-root-key,rootKey.secrets[0].key=other", check=False)
    assert done.returncode != 0 and "has no key other" in done.stderr, done.stderr


def test_no_new_root_key_is_made_for_a_volume_that_has_data(cluster: Cluster) -> None:
    cluster.install()
    key = copy.deepcopy(cluster.api.of("Secret")["aerostack-root-key"])
    claim = {"name": "data-aerostack-vault-0", "namespace": NAMESPACE}
    cluster.api.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim})
    cluster.upgrade()
    cluster.run("kubectl", "--namespace", NAMESPACE, "delete", "secret", "aerostack-root-key")
    done = cluster.upgrade(check=False)
    assert done.returncode != 0 and "put your copy of the root key back" in done.stderr, done.stderr
    kept = {"helm.sh/resource-policy": "keep"}
    cluster.api.put({**key, "metadata": {"name": "aerostack-root-key", "namespace": NAMESPACE, "annotations": kept}})
    cluster.upgrade()
    assert cluster.root_key() == key["data"]


def test_the_notes_warn_of_alerts_without_metrics(cluster: Cluster) -> None:
    alerts = ["--set", "monitoring.alerts.enabled=true,networkPolicy.enabled=false"]
    assert "WARNING: monitoring.alerts.enabled without monitoring.serviceMonitor.enabled" in cluster.install(*alerts).stdout
    assert "WARNING" not in cluster.upgrade(*alerts, "--set", "monitoring.serviceMonitor.enabled=true").stdout


def test_the_notes_warn_of_metrics_that_nobody_may_read(cluster: Cluster) -> None:
    monitored = ["--set", "monitoring.serviceMonitor.enabled=true"]
    peers = '[{"namespaceSelector": {}}]'
    assert "WARNING" not in cluster.install().stdout
    assert "WARNING: networkPolicy.metrics is empty" in cluster.upgrade(*monitored).stdout
    assert "WARNING" not in cluster.upgrade(*monitored, "--set-json", f"networkPolicy.metrics={peers}").stdout
    assert "WARNING" not in cluster.upgrade(*monitored, "--set", "networkPolicy.enabled=false").stdout


def write_as_the_webhook_and_the_job(api: ApiServer) -> None:
    secret = api.of("Secret")["aerostack-webhook-tls"]
    data = {"tls.crt": "Y2VydA==", "ca.crt": "Y2E="}
    api.put({**secret, "data": data})
    api.put({**secret, "metadata": {"name": "aerostack-vault-tls", "namespace": NAMESPACE}, "data": data})
    configuration = copy.deepcopy(api.of("MutatingWebhookConfiguration")["aerostack-webhook"])
    configuration["webhooks"][0]["clientConfig"]["caBundle"] = "Y2E="
    api.put(configuration)


def written(api: ApiServer) -> tuple[dict[str, dict[str, str]], str]:
    """The contents of all Secrets but those of helm, and the CA of the webhook."""
    secrets = {name: item.get("data", {}) for name, item in api.of("Secret").items() if not name.startswith("sh.helm.")}
    configuration = api.of("MutatingWebhookConfiguration")["aerostack-webhook"]
    return secrets, configuration["webhooks"][0]["clientConfig"].get("caBundle", "")


def test_what_the_webhook_and_the_job_wrote_survives_an_upgrade(cluster: Cluster) -> None:
    cluster.install()
    write_as_the_webhook_and_the_job(cluster.api)
    before = written(cluster.api)
    cluster.upgrade("--set", "webhook.replicas=3,webhook.timeoutSeconds=7")
    configuration = cluster.api.of("MutatingWebhookConfiguration")["aerostack-webhook"]
    assert configuration["webhooks"][0]["timeoutSeconds"] == 7
    assert written(cluster.api) == before and before[1] == "Y2E="


def test_an_upgrade_from_an_earlier_chart_keeps_data_keys_and_certificates(cluster: Cluster) -> None:
    cluster.helm("install", str(EARLIER_CHART), "--create-namespace")
    write_as_the_webhook_and_the_job(cluster.api)
    secrets = written(cluster.api)
    before = cluster.api.of("StatefulSet")["aerostack-vault"]["spec"]
    assert set(secrets[0]) == {"aerostack-root-key", "aerostack-vault-tls", "aerostack-webhook-tls"}
    # The stand-in refuses a change of a field that Kubernetes lets nobody change.
    cluster.upgrade()
    after = cluster.api.of("StatefulSet")["aerostack-vault"]["spec"]
    for fixed in ("selector", "serviceName", "volumeClaimTemplates"):
        assert after[fixed] == before[fixed], fixed
    assert written(cluster.api) == secrets
    cluster.helm("rollback", "1")
    assert written(cluster.api) == secrets


def test_an_upgrade_changes_nothing_that_kubernetes_does_not_let_change(cluster: Cluster) -> None:
    """The selector, the name of the service and the claims of a StatefulSet, with everything that may differ between releases."""
    cluster.install()
    before = cluster.api.of("StatefulSet")["aerostack-vault"]["spec"]
    cluster.upgrade("--values", str(CHART / "ci" / "scheduling-values.yaml"))
    after = cluster.api.of("StatefulSet")["aerostack-vault"]["spec"]
    assert after["template"] != before["template"]
    for fixed in ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"):
        assert after[fixed] == before[fixed], fixed


def test_helm_runs_the_job_before_the_vault_exists_and_removes_its_rights(cluster: Cluster) -> None:
    cluster.install()
    made = [path.rpartition("/")[2] for method, path in cluster.api.requests if method == "PATCH"]
    assert made.index("aerostack-certificates-first") < made.index("aerostack-vault")
    changed = [method for method, path in cluster.api.requests if path.endswith("aerostack-certificates-first")]
    # Before each is made, what an interrupted installation left is removed; all four are removed after the Job has ended.
    assert changed == ["DELETE", "PATCH"] * 4 + ["DELETE"] * 4
    for kind in ("Job", "Role", "RoleBinding", "ServiceAccount"):
        assert "aerostack-certificates-first" not in cluster.api.of(kind), kind


def test_helm_test_asks_the_vault_as_an_administrator(cluster: Cluster) -> None:
    cluster.install()
    assert "Phase:          Succeeded" in cluster.helm("test").stdout
    pod = cluster.api.of("Pod")["aerostack-test"]
    assert pod["spec"]["serviceAccountName"] == "aerostack-admin"
