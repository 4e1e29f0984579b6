"""The work of a kubelet that podman does not do: it puts Secrets, ConfigMaps, annotations and tokens of service accounts into the
directories that a pod mounts, replaces them as a whole when they change, and gives pods the environment of a cluster.

`podman kube play` of Debian 12 (4.3) knows neither projected volumes nor native sidecars nor probes. So native sidecars become
ordinary containers, volumes become directories of this machine, and the tests ask the probes themselves,
as the commands or requests that the pod names."""

from __future__ import annotations

import base64
import copy
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api_server import ApiServer
from service_accounts import API_AUDIENCE, ServiceAccounts

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
# Fields of containers that are of the kubelet. Podman would listen on `ports` on this machine, too.
OF_THE_KUBELET = ("startupProbe", "readinessProbe", "livenessProbe", "restartPolicy", "ports")

Files = dict[str, tuple[bytes, int]]


def write_as_kubelet(folder: Path, files: Files, group: int) -> None:
    """Replaces all files of a volume at once: each is a link through `..data`, and `..data` is exchanged."""
    folder.mkdir(parents=True, exist_ok=True)
    now = folder / f"..{time.time_ns()}"
    now.mkdir()
    for name, (content, mode) in files.items():
        file = now / name
        file.write_bytes(content)
        file.chmod(mode)
        os.chown(file, 0, group)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data", name))
    link = folder / "..new"
    link.symlink_to(now.name)
    data = folder / "..data"
    old = data.readlink() if data.is_symlink() else None
    link.rename(data)
    if old:
        shutil.rmtree(folder / old)


@dataclass
class Kubelet:
    folder: Path
    api: ApiServer
    accounts: ServiceAccounts
    ca: bytes
    # Addresses by name, in the place of the cluster's DNS.
    hosts: dict[str, str] = field(default_factory=dict)
    # Life of a projected token, in the place of what the pod asks for. The tests do not wait for ten minutes.
    token_seconds: float = 600

    def pod(self, pod: dict[str, Any], name: str, namespace: str) -> dict[str, Any]:
        """The pod as podman can play it, with its volumes filled."""
        spec = copy.deepcopy(pod["spec"])
        self.fill(pod, name, namespace)
        volumes = spec.setdefault("volumes", [])
        sidecars = [each for each in spec.pop("initContainers", []) if each.get("restartPolicy") == "Always"]
        spec["containers"] = sidecars + spec["containers"]
        for volume in volumes:
            path = str(self.volume(name, volume))
            volume_name = volume["name"]
            volume.clear()
            volume |= {"name": volume_name, "hostPath": {"path": path, "type": "Directory"}}
        if spec.get("automountServiceAccountToken"):
            path = str(self.folder / name / "kubernetes-api")
            volumes.append({"name": "kubernetes-api", "hostPath": {"path": path, "type": "Directory"}})
        for container in spec["containers"]:
            for of_kubelet in OF_THE_KUBELET:
                container.pop(of_kubelet, None)
            if spec.get("automountServiceAccountToken"):
                mount = {"name": "kubernetes-api", "mountPath": ACCOUNT, "readOnly": True}
                container.setdefault("volumeMounts", []).append(mount)
            container.setdefault("env", []).extend(
                [
                    {"name": "KUBERNETES_SERVICE_HOST", "value": self.api.address},
                    {"name": "KUBERNETES_SERVICE_PORT", "value": str(self.api.port)},
                    {"name": "KUBERNETES_SERVICE_PORT_HTTPS", "value": str(self.api.port)},
                ]
            )
        spec["hostAliases"] = [{"ip": ip, "hostnames": [host]} for host, ip in self.hosts.items()]
        spec["restartPolicy"] = "Never"
        metadata = {"name": name, "labels": pod["metadata"].get("labels", {})}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def volume(self, pod: str, volume: dict[str, Any]) -> Path:
        if "persistentVolumeClaim" in volume:
            return self.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
        return self.folder / pod / volume["name"]

    def fill(self, pod: dict[str, Any], name: str, namespace: str) -> None:
        """Writes all volumes anew, as a kubelet does when something changed."""
        spec = pod["spec"]
        group = spec.get("securityContext", {}).get("fsGroup", 0)
        for volume in spec.get("volumes", []):
            folder = self.volume(name, volume)
            if "emptyDir" in volume or "persistentVolumeClaim" in volume:
                folder.mkdir(parents=True, exist_ok=True)
                os.chown(folder, 0, group)
                # What Kubernetes gives a volume of a pod with an fsGroup.
                folder.chmod(0o2775 if group else 0o777)
            else:
                write_as_kubelet(folder, self.files(volume, pod, namespace, bool(group)), group)
        if spec.get("automountServiceAccountToken"):
            token = self.token(pod, namespace, API_AUDIENCE, bool(group))
            files = {"ca.crt": (self.ca, 0o644), "token": token, "namespace": (namespace.encode(), 0o644)}
            write_as_kubelet(self.folder / name / "kubernetes-api", files, group)

    def token(self, pod: dict[str, Any], namespace: str, audience: str, has_group: bool) -> tuple[bytes, int]:
        account = pod["spec"].get("serviceAccountName", "default")
        token = self.accounts.token(namespace, account, audience, self.token_seconds)
        # As Kubernetes chooses: for the group of the pod, or for everybody in the container when it has none.
        return token.encode(), 0o640 if has_group else 0o644

    def files(self, volume: dict[str, Any], pod: dict[str, Any], namespace: str, has_group: bool) -> Files:
        match volume:
            case {"secret": source} | {"configMap": source}:
                return self.of_object(source, "secret" in volume, namespace, source.get("defaultMode", 0o644))
            case {"downwardAPI": source}:
                return self.of_annotations(source, pod)
            case {"projected": source}:
                files: Files = {}
                mode = source.get("defaultMode", 0o644)
                for each in source["sources"]:
                    files |= self.projected(each, pod, namespace, mode, has_group)
                return files
        raise AssertionError(f"no such volume: {volume}")

    def projected(
        self, source: dict[str, Any], pod: dict[str, Any], namespace: str, mode: int, has_group: bool
    ) -> Files:
        match source:
            case {"serviceAccountToken": token}:
                return {token["path"]: self.token(pod, namespace, token["audience"], has_group)}
            case {"secret": of} | {"configMap": of}:
                return self.of_object(of, "secret" in source, namespace, mode)
            case {"downwardAPI": of}:
                return self.of_annotations(of, pod)
        raise AssertionError(f"no such source: {source}")

    def of_object(self, source: dict[str, Any], is_secret: bool, namespace: str, mode: int) -> Files:
        name = source.get("secretName") or source["name"]
        plural = "secrets" if is_secret else "configmaps"
        data = self.api.objects["v1", plural, namespace, name].get("data", {})
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        contents = {item["path"]: data[item["key"]] for item in items}
        return {
            path: (base64.b64decode(value) if is_secret else value.encode(), mode) for path, value in contents.items()
        }

    def of_annotations(self, source: dict[str, Any], pod: dict[str, Any]) -> Files:
        files = {}
        for item in source["items"]:
            annotation = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
            files[item["path"]] = (pod["metadata"]["annotations"][annotation].encode(), 0o644)
        return files
