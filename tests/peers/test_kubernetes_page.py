"""docs/kubernetes.md and the chart's NOTES, run as they are written: helm and kubectl with a stand-in for the API server. Of a command
that needs a running pod, of docker, of `aerostack` and of `vault-service`, only the arguments are checked; test_pods.py runs pods."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from cluster import (
    CHART,
    NAMESPACE,
    PLAIN,
    Cluster,
    blocks,
    manifests,
    one,
    page,
    pod_specs,
    program,
    rendered_with,
    run,
    variables,
)
from pair import BINARY, REPOSITORY

# `kubectl exec`, `logs` and `port-forward` need a pod that runs, and the stand-in has no `scale`: their help, with the same arguments, refuses unknown ones.
KUBECTL = """#!/bin/bash
case " $* " in
  *" exec "* | *" port-forward "* | *" logs "* | *" scale "*)
    arguments=()
    for each in "$@"; do [ "$each" != -- ] || break; arguments+=("$each"); done
    exec REAL "${arguments[@]}" --help ;;
esac
case $1$3 in
  apply* | *apply) exec REAL "$@" --validate=false ;;
  *) exec REAL "$@" ;;
esac
"""
# `aerostack` and `vault-service`.
OURS = """#!/bin/bash
echo "${0##*/} $*" >>CALLED
mkdir -p try # The folder that `vault-service restore --data-dir ./try` makes.
exec REAL "$@" --help
"""
DOCKER = """#!/bin/bash
case $1 in
  build) [ "$2 $3 $4" = "--platform linux/amd64 -f" ] && [ -f "$5" ] && [ "$6" = -t ] && [ "${@: -1}" = . ] ;;
  push) [ $# = 2 ] ;;
  *) false ;;
esac
"""


class Desk:
    """A folder that looks like a clone, with helm and kubectl of a cluster of its own."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder)
        self.folder = folder
        self.called = folder / "called"
        self.called.touch()
        programs = folder / "bin"
        programs.mkdir()
        texts = {"kubectl": KUBECTL, "aerostack": OURS, "vault-service": OURS, "docker": DOCKER}
        for name, text in texts.items():
            real = str(BINARY.with_name(name)) if text == OURS else shutil.which(name) or ""
            (programs / name).write_text(text.replace("REAL", real).replace("CALLED", str(self.called)))
            (programs / name).chmod(0o755)
        for name in ("deploy", "vault-service", "injector-service", "cli"):
            (folder / name).symlink_to(REPOSITORY / name)
        path = f"{programs}:{Path(program('helm')).parent}:/usr/bin:/bin"
        self.environment = {**self.cluster.environment, "PATH": path, "NEW_VALUE": "a new value"}

    def run(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{commands}ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert "AEROSTACK_" not in done.stderr, done.stderr
        return done.stdout

    def block(self, name: str) -> str:
        return self.run(blocks("sh")[name])

    def refused(self, commands: str) -> str:
        """Runs commands that have to fail, and returns the message."""
        with pytest.raises(AssertionError) as failed:
            self.run(commands)
        return str(failed.value)

    def write(self, name: str, block: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(blocks("yaml")[block])

    def certificates(self) -> None:
        """What the Job of the chart does."""
        for name in ("aerostack-vault-tls", "aerostack-vault-tls-ca"):
            metadata = {"name": name, "namespace": NAMESPACE}
            self.cluster.api.put(
                {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"ca.crt": "Q0E="}}
            )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.cluster.api.close()


def injectors(desk: Desk) -> str:
    pod = desk.cluster.api.of("StatefulSet")["aerostack-vault"]["spec"]["template"]["spec"]
    return variables(pod["containers"][0]).get("AEROSTACK_VAULT_INJECTOR", "")


FROM_NOTHING = [
    "images",
    "issuer",
    "install",
    "root-key-copy",
    "port-forward",
    "administer",
    "example",
    "refused",
    "troubleshoot",
    "pod-annotations",
    "sidecar",
]
LATER = ["restart", "rotate", "rotate-root-key", "upgrade", "backup", "uninstall", "delete"]
ELSEWHERE = [
    "pull-secret",
    "root-key",
    "root-key-back",
    "certificates-job",
    "restore",
    "restored",
    "try-backup",
    "keep-volume",
    "restore-again",
    "scheduled-backup",
    "list-backups",
    "copy-backup",
    "plain",
    "plain-remove",
]


def test_every_block_of_commands_is_run() -> None:
    assert sorted(blocks("sh")) == sorted(FROM_NOTHING + LATER + ELSEWHERE)
    # No command stands in a block without a name.
    assert page().count("```sh\n") == len(blocks("sh"))


def test_the_commands_lead_from_nothing_to_the_removal(desk: Desk) -> None:
    desk.write("aerostack-values.yaml", "values")
    for name in FROM_NOTHING[:3]:
        desk.block(name)
    assert injectors(desk) == "system:serviceaccount:shop:web=shop"
    desk.certificates()
    for name in FROM_NOTHING[3:]:
        desk.block(name)
    assert (desk.folder / "aerostack-ca.crt").read_text() == "CA"
    assert (desk.folder / "aerostack-token").read_text() == "aerostack:aerostack-admin:aerostack-vault:3600"
    for secret in ("aerostack-token", "aerostack-root-key.key"):
        assert (desk.folder / secret).stat().st_mode & 0o077 == 0, secret
    key = desk.cluster.root_key()

    for name in LATER[:3]:
        desk.block(name)
    # A Secret of the chart is kept when another one comes first.
    with (desk.folder / "aerostack-values.yaml").open("a") as values:
        values.write(blocks("yaml")["root-keys"])
    desk.block(LATER[3])
    pod = desk.cluster.api.of("StatefulSet")["aerostack-vault"]["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "root-key"]
    assert [each["secret"]["name"] for each in volume["projected"]["sources"]] == [
        "aerostack-root-key-2",
        "aerostack-root-key",
    ]
    assert desk.cluster.root_key() == key
    # The new file has 32 bytes, as the vault wants it.
    assert len((desk.folder / "aerostack-root-key-2.key").read_text().strip()) == 44

    # An administrator renews certificates more than once.
    desk.block("rotate")
    for name in LATER[4:-1]:
        desk.block(name)
    assert desk.cluster.root_key() == key
    desk.cluster.api.put(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-aerostack-vault-0", "namespace": NAMESPACE},
        }
    )
    desk.cluster.helm("install", str(CHART))
    desk.cluster.helm("test")
    desk.block("scheduled-backup")
    desk.block("list-backups")
    desk.cluster.helm("uninstall")
    assert {"aerostack-test", "aerostack-backups"} <= desk.cluster.api.of("Pod").keys()
    desk.block("delete")
    for kind in ("PersistentVolumeClaim", "CronJob", "Pod"):
        assert not desk.cluster.api.of(kind), kind
    assert "aerostack-backup" not in desk.cluster.api.of("ServiceAccount")
    assert not desk.cluster.api.of("Secret") and "aerostack-test" not in desk.cluster.api.of("Pod")
    assert "aerostack backup --output" in desk.called.read_text()


def test_a_backup_is_restored_into_an_empty_cluster(desk: Desk) -> None:
    desk.write("aerostack-values.yaml", "values")
    # The namespace may exist, for example because it has the pull Secret.
    desk.cluster.run("kubectl", "create", "namespace", NAMESPACE)
    (desk.folder / "aerostack-root-key.key").write_text("A" * 43 + "=")
    desk.block("restore")
    assert desk.cluster.root_key() == {"root.key": "QUFB" * 14 + "QT0="}
    key = desk.cluster.root_key()
    desk.certificates()
    desk.block("upgrade")
    assert desk.cluster.root_key() == key
    desk.block("restored")


def test_a_backup_is_restored_into_the_same_release(desk: Desk) -> None:
    desk.cluster.install()
    desk.certificates()
    claim = {"name": "data-aerostack-vault-0", "namespace": NAMESPACE}
    spec = {"volumeName": "pvc-1"}
    desk.cluster.api.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "spec": spec})
    desk.cluster.api.put({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pvc-1"}, "spec": {}})
    key = desk.cluster.root_key()
    names = list(blocks("sh"))
    assert names.index("try-backup") < names.index("keep-volume") < names.index("restore-again")
    desk.block("try-backup")
    assert "vault-service restore --data-dir ./try" in desk.called.read_text() and not (desk.folder / "try").exists()
    desk.block("keep-volume")
    assert desk.cluster.api.of("PersistentVolume")["pvc-1"]["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    desk.block("restore-again")
    for name in ("port-forward", "administer", "restored"):
        desk.block(name)
    assert not desk.cluster.api.of("PersistentVolumeClaim") and desk.cluster.root_key() == key


def test_no_command_overwrites_a_copy_of_a_root_key(desk: Desk) -> None:
    desk.write("aerostack-values.yaml", "values")
    desk.block("install")
    for name, file in (
        ("root-key-copy", "aerostack-root-key.key"),
        ("root-key", "aerostack-root-key.key"),
        ("rotate-root-key", "aerostack-root-key-2.key"),
    ):
        copy = desk.folder / file
        copy.write_text("the only copy")
        assert f"{file}: cannot overwrite existing file" in desk.refused(blocks("sh")[name]), name
        assert copy.read_text() == "the only copy", name


def test_the_notes_after_a_rotation_leave_the_copy_of_the_first_root_key_alone(desk: Desk) -> None:
    def copy_of_notes(command: str) -> str:
        notes = desk.run(f"helm {command} aerostack {CHART} --namespace {NAMESPACE} --values aerostack-values.yaml")
        (copy,) = [line.strip() for line in notes.splitlines() if "get secret aerostack-root-key" in line]
        return copy

    desk.write("aerostack-values.yaml", "values")
    desk.run(copy_of_notes("install --create-namespace"))
    first = (desk.folder / "aerostack-root-key.key").read_text()
    # The file that the page made is in a safe place.
    desk.block("rotate-root-key")
    second = (desk.folder / "aerostack-root-key-2.key").rename(desk.folder / "moved").read_text()
    with (desk.folder / "aerostack-values.yaml").open("a") as values:
        values.write(blocks("yaml")["root-keys"])
    copy = copy_of_notes("upgrade")
    desk.run(copy)
    assert (desk.folder / "aerostack-root-key.key").read_text() == first
    assert (desk.folder / "aerostack-root-key-2.key").read_text() == second != first
    assert "cannot overwrite existing file" in desk.refused(copy)


def test_a_root_key_that_is_gone_is_put_back_from_its_copy(desk: Desk) -> None:
    desk.write("aerostack-values.yaml", "values")
    desk.block("install")
    key = desk.cluster.root_key()
    desk.block("root-key-copy")
    desk.cluster.run("kubectl", "--namespace", NAMESPACE, "delete", "secret", "aerostack-root-key")
    claim = {"name": "data-aerostack-vault-0", "namespace": NAMESPACE}
    desk.cluster.api.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim})
    desk.block("root-key-back")
    desk.block("upgrade")
    assert desk.cluster.root_key() == key


def test_the_failed_job_of_the_certificates_is_looked_at_and_the_installation_repeated(desk: Desk) -> None:
    desk.write("aerostack-values.yaml", "values")
    desk.cluster.run("kubectl", "create", "namespace", NAMESPACE)
    desk.block("certificates-job")
    assert "aerostack-vault" in desk.cluster.api.of("StatefulSet")


def test_the_backup_of_the_example_reaches_the_vault_as_an_administrator(desk: Desk) -> None:
    desk.write("backup-values.yaml", "backup-values")
    desk.cluster.install("--values", str(desk.folder / "backup-values.yaml"))
    desk.block("scheduled-backup")
    template = desk.cluster.api.of("CronJob")["aerostack-backup"]["spec"]["jobTemplate"]["spec"]["template"]
    account = template["spec"]["serviceAccountName"]
    (vault,) = desk.cluster.api.of("StatefulSet")["aerostack-vault"]["spec"]["template"]["spec"]["containers"]
    admins = variables(vault)["AEROSTACK_VAULT_ADMIN"].split(";")
    assert f"system:serviceaccount:{NAMESPACE}:{account}" in admins and account in desk.cluster.api.of("ServiceAccount")
    peers = desk.cluster.api.of("NetworkPolicy")["aerostack-vault"]["spec"]["ingress"][0]["from"]
    selected = [each["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items() for each in peers]
    assert selected == [False, False, True]
    # The address, the identity and the audience of the vault are those of the pod of `helm test`.
    (of_chart,) = [each for each in rendered_with(CHART / "ci" / "default-values.yaml") if each["kind"] == "Pod"]
    arguments = dict(each.split("=", 1) for each in of_chart["spec"]["containers"][0]["args"] if "=" in each)
    (container,) = template["spec"]["containers"]
    assert container["image"].startswith("registry.example.com/aerostack/aerostack:")
    settings = variables(container)
    for variable, argument in (
        ("AEROSTACK_VAULT", "--vault"),
        ("AEROSTACK_VAULT_ID", "--vault-id"),
        ("AEROSTACK_CA", "--ca"),
        ("AEROSTACK_TOKEN_FILE", "--token-file"),
    ):
        assert settings[variable] == arguments[argument], variable
    assert container["volumeMounts"][:2] == of_chart["spec"]["containers"][0]["volumeMounts"]
    assert template["spec"]["volumes"][:2] == of_chart["spec"]["volumes"]
    # The time that the last command prints is that of a backup that has ended.
    assert "wait --for=condition=complete" in blocks("sh")["scheduled-backup"].splitlines()[-2]
    # The command is one that the command line knows.
    (command,) = re.findall(r'aerostack backup --output "[^"]+"', container["command"][-1])
    desk.run(command.replace("/backups/", ""))


def test_the_nightly_backups_can_be_copied_out_of_the_cluster(desk: Desk) -> None:
    desk.cluster.install()
    desk.block("scheduled-backup")
    desk.block("list-backups")
    pod = desk.cluster.api.of("Pod")["aerostack-backups"]
    template = desk.cluster.api.of("CronJob")["aerostack-backup"]["spec"]["jobTemplate"]["spec"]["template"]
    (reader,), (writer,) = pod["spec"]["containers"], template["spec"]["containers"]
    for field in ("serviceAccountName", "securityContext"):
        assert pod["spec"][field] == template["spec"][field], field
    assert reader["image"] == writer["image"]
    assert pod["spec"]["volumes"] == [each for each in template["spec"]["volumes"] if each["name"] == "backups"]
    (mount,) = reader["volumeMounts"]
    assert mount == {**writer["volumeMounts"][-1], "readOnly": True}
    desk.block("copy-backup")
    (backup,) = desk.folder.glob("vault-*.backup")
    # The name fits the pattern by which the CronJob names its backups.
    assert re.fullmatch(r"vault-\d{4}-\d\d-\d\dT\d{6}Z\.backup", backup.name)
    assert backup.stat().st_mode & 0o077 == 0 and "aerostack-backups" not in desk.cluster.api.of("Pod")


def test_the_alert_of_the_page_sees_a_backup_that_never_succeeded() -> None:
    alert = yaml.safe_load(blocks("yaml")["backup-alert"])
    (metric,) = set(re.findall(r"kube_cronjob_status_last_successful_time\{[^}]*\}", alert["expr"]))
    assert 'cronjob="aerostack-backup"' in metric and f"or absent({metric})" in alert["expr"]


def test_the_root_key_can_be_made_before_the_installation(desk: Desk) -> None:
    # The namespace may exist, for example because it has the pull Secret.
    desk.cluster.run("kubectl", "create", "namespace", NAMESPACE)
    desk.block("root-key")
    assert len((desk.folder / "aerostack-root-key.key").read_text().strip()) == 44
    desk.cluster.install("--set", "rootKey.generate=false")


def test_every_pod_has_the_pull_secret_that_exists_before_the_installation(desk: Desk) -> None:
    (desk.folder / ".docker").mkdir()
    (desk.folder / ".docker" / "config.json").write_text('{"auths": {}}')
    desk.block("pull-secret")
    desk.cluster.install("--set", "image.pullSecrets={registry}")
    workloads = [each for kind in ("StatefulSet", "Deployment", "CronJob") for each in desk.cluster.api.of(kind).values()]
    assert len(workloads) == 3
    for pod in [pod for each in workloads for pod in pod_specs(each)]:
        assert [each["name"] for each in pod["imagePullSecrets"]] == ["registry"]
    assert "registry" in desk.cluster.api.of("Secret")


def test_the_overlay_names_images_and_roles(desk: Desk) -> None:
    desk.write("overlay/kustomization.yaml", "overlay")
    shutil.copytree(REPOSITORY / "deploy" / "kubernetes", desk.folder / "aerostack" / "deploy" / "kubernetes")
    made = manifests(run("kubectl", "kustomize", str(desk.folder / "overlay")).stdout)
    (vault,) = one(made, "StatefulSet", "aerostack-vault")["spec"]["template"]["spec"]["containers"]
    assert vault["image"] == "registry.example.com/aerostack/vault-service:0.1.0"
    assert variables(vault)["AEROSTACK_VAULT_INJECTOR"] == "system:serviceaccount:shop:web=shop"
    assert "AEROSTACK_VAULT_ROOT_KEY_FILE" in variables(vault)
    (webhook,) = one(made, "Deployment", "aerostack-webhook")["spec"]["template"]["spec"]["containers"]
    assert variables(webhook)["AEROSTACK_WEBHOOK_IMAGE"] == webhook["image"]
    issuer = variables(vault)["AEROSTACK_VAULT_JWT_ISSUER"]
    (rendered,) = one(manifests((PLAIN / "vault.yaml").read_text()), "StatefulSet", "aerostack-vault")["spec"]["template"][
        "spec"
    ]["containers"]
    assert issuer == variables(rendered)["AEROSTACK_VAULT_JWT_ISSUER"]
    assert "/" in one(made, "Job", "aerostack-certificates-first")["spec"]["template"]["spec"]["containers"][0]["image"]
    desk.run(f"cd overlay && {blocks('sh')['plain']}")
    assert "aerostack-vault" in desk.cluster.api.of("StatefulSet")
    for kind in ("Job", "Role", "RoleBinding", "ServiceAccount"):
        assert "aerostack-certificates-first" not in desk.cluster.api.of(kind), kind

    key = {"name": "aerostack-root-key", "namespace": NAMESPACE}
    desk.cluster.api.put({"apiVersion": "v1", "kind": "Secret", "metadata": key, "data": {}})
    desk.run(f"kubectl --namespace {NAMESPACE} apply --filename deploy/kubernetes/example/backup.yaml")
    desk.block("plain-remove")
    assert "aerostack-backups" in desk.cluster.api.of("PersistentVolumeClaim")
    kinds = {each["kind"] for name in ("vault", "webhook", "certificates") for each in manifests((PLAIN / f"{name}.yaml").read_text())}
    for kind in kinds - {"Secret"}:
        assert not desk.cluster.api.of(kind), kind
    assert "aerostack-root-key" in desk.cluster.api.of("Secret")


def test_the_policy_of_the_page_lets_sidecars_reach_the_vault() -> None:
    policy = yaml.safe_load(blocks("yaml")["egress"])
    assert kubernetes_validate.validate(policy, "1.29", strict=True)
    objects = rendered_with(CHART / "ci" / "default-values.yaml")
    labels = one(objects, "StatefulSet", "aerostack-vault")["spec"]["template"]["metadata"]["labels"]
    (peer,) = policy["spec"]["egress"][0]["to"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_notes_lead_from_nothing_to_an_injected_call(desk: Desk) -> None:
    desk.write("aerostack-values.yaml", "values")
    notes = desk.run(f"helm install aerostack {CHART} --namespace {NAMESPACE} --create-namespace").partition(
        "NOTES:\n"
    )[2]
    commands = [line.strip() for line in notes.splitlines() if re.match("  [a-z(]", line)]
    desk.certificates()
    for command in commands:
        desk.run(command.replace(" CHART ", f" {CHART} "))
    assert injectors(desk) == "system:serviceaccount:shop:web=shop"
    assert "web" in desk.cluster.api.of("Deployment")
    assert "curl" in commands[-1] and "/shop/github/user" in commands[-1]
    assert "aerostack workspace secret set shop GITHUB_TOKEN" in desk.called.read_text()


def test_the_example_and_the_page_use_the_same_names(desk: Desk) -> None:
    example = manifests((REPOSITORY / "deploy/kubernetes/example/application.yaml").read_text())
    template = one(example, "Deployment", "web")["spec"]["template"]
    for name, value in template["metadata"]["annotations"].items():
        quoted = f'"{value}"' if value == "true" else value
        assert f"{name}: {quoted}\n" in page(), name
    servers = yaml.safe_load(one(example, "ConfigMap", "web-servers")["data"]["servers.yaml"])["servers"]
    assert [(each["workspace"], each["name"]) for each in servers] == [("shop", "github")]
    (role,) = yaml.safe_load(blocks("yaml")["values"])["roles"]["injectors"]
    assert role == f"system:serviceaccount:shop:{template['spec']['serviceAccountName']}=shop"


def test_the_pages_name_the_annotations_that_the_webhook_knows() -> None:
    code = (REPOSITORY / "injector-service" / "src" / "webhook" / "annotations.rs").read_text()
    names = dict(re.findall(r'const (\w+): &str = "(aerostack\.dev/[a-z-]+)";', code))
    # The constant that lists the annotations of users.
    (of_users,) = re.findall(r"const \w+: \[&str; \d+\] = \[(.*?)\];", code, re.DOTALL)
    known = {names[constant] for constant in re.findall(r"\w+", of_users)}
    webhook = (REPOSITORY / "docs" / "webhook.md").read_text()
    for text in (page(), webhook):
        rows = re.findall(r"^\| (`aerostack\.dev/.*?) \|", text, re.MULTILINE)
        assert {name for row in rows for name in re.findall(r"`(aerostack\.dev/[a-z-]+)`", row)} == known


def test_every_alert_is_explained() -> None:
    (group,) = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == re.findall(r"^\| `(Aerostack\w+)` \|", page(), re.MULTILINE)


def test_every_setting_that_the_page_names_is_a_value_of_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(re.findall(r"`((?:" + "|".join(values) + r")(?:\.\w+)+)(?:: [^`]*)?`", page()))
    assert len(named) > 20
    for name in named:
        value = values
        for part in name.split("."):
            assert part in value, name
            value = value[part]
