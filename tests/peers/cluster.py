"""The chart deploy/helm/aerostack, what helm renders of it, and helm and kubectl as clients of a stand-in for a cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from api_server import ApiServer
from pair import REPOSITORY

CHART = REPOSITORY / "deploy" / "helm" / "aerostack"
PLAIN = REPOSITORY / "deploy" / "kubernetes"
NAMESPACE = "aerostack"
SECONDS = 60
VALUES = sorted((CHART / "ci").glob("*.yaml"))

Manifest = dict[str, Any]


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not on the PATH: .ci/peers --install"
    return found


def run(
    *command: str, folder: Path = REPOSITORY, check: bool = True, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [program(command[0]), *command[1:]],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done


def template(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("helm", "template", "aerostack", str(CHART), "--namespace", NAMESPACE, *arguments, check=check)


def rendered(*arguments: str) -> list[Manifest]:
    return manifests(template(*arguments).stdout)


@cache
def rendered_with(values: Path) -> list[Manifest]:
    return rendered("--values", str(values))


def manifests(text: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(text) if each]


def one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod_specs(manifest: Manifest) -> list[Manifest]:
    """The pods of a manifest: of itself, of a workload's template, or of a CronJob's Job."""
    match manifest["kind"]:
        case "Pod":
            return [manifest["spec"]]
        case "StatefulSet" | "Deployment" | "Job":
            return [manifest["spec"]["template"]["spec"]]
        case "CronJob":
            return [manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
        case _:
            return []


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def variables(container: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


class Cluster:
    """helm and kubectl with the stand-in for an API server, and with nothing of the user's."""

    def __init__(self, folder: Path) -> None:
        self.api = ApiServer()
        self.folder = folder
        config = folder / "kubeconfig"
        config.write_text(self.api.kubeconfig())
        self.environment = {"KUBECONFIG": str(config), "HOME": str(folder)}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(*command, check=check, environment=self.environment)

    def helm(self, command: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("helm", command, "aerostack", *arguments, "--namespace", NAMESPACE, check=check)

    def install(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.helm("install", str(CHART), "--create-namespace", *arguments, check=check)

    def upgrade(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.helm("upgrade", str(CHART), *arguments, check=check)

    def root_key(self) -> dict[str, str]:
        return self.api.of("Secret")["aerostack-root-key"]["data"]


def page() -> str:
    return (REPOSITORY / "docs" / "kubernetes.md").read_text()


def blocks(language: str) -> dict[str, str]:
    """The blocks of docs/kubernetes.md in a language, by the name in the comment `<!-- kubernetes: NAME -->` above."""
    found = re.findall(rf"^<!-- kubernetes: (\S+) -->\n```{language}\n(.*?)^```$", page(), re.MULTILINE | re.DOTALL)
    assert len(dict(found)) == len(found), "two blocks of docs/kubernetes.md have the same name"
    return dict(found)
