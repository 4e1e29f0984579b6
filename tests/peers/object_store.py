"""The objects of the stand-in for an API server: kept by name, with a number for each change, for lists and watches."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from typing import Any

# The group and version, the plural of the kind, the namespace, and the name.
Key = tuple[str, str, str, str]
Item = dict[str, Any]

# Kinds by group and version, with the plural of each and whether it is of a namespace.
RESOURCES: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "Namespace": ("namespaces", False),
        "PersistentVolume": ("persistentvolumes", False),
        "Pod": ("pods", True),
        "Secret": ("secrets", True),
        "ConfigMap": ("configmaps", True),
        "Service": ("services", True),
        "ServiceAccount": ("serviceaccounts", True),
        "PersistentVolumeClaim": ("persistentvolumeclaims", True),
    },
    "events.k8s.io/v1": {"Event": ("events", True)},
    "apps/v1": {"Deployment": ("deployments", True), "StatefulSet": ("statefulsets", True)},
    "batch/v1": {"Job": ("jobs", True), "CronJob": ("cronjobs", True)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", True)},
    "networking.k8s.io/v1": {"NetworkPolicy": ("networkpolicies", True)},
    "rbac.authorization.k8s.io/v1": {
        "Role": ("roles", True),
        "RoleBinding": ("rolebindings", True),
        "ClusterRole": ("clusterroles", False),
        "ClusterRoleBinding": ("clusterrolebindings", False),
    },
    "admissionregistration.k8s.io/v1": {"MutatingWebhookConfiguration": ("mutatingwebhookconfigurations", False)},
    "monitoring.coreos.com/v1": {
        "ServiceMonitor": ("servicemonitors", True),
        "PodMonitor": ("podmonitors", True),
        "PrometheusRule": ("prometheusrules", True),
    },
    "cert-manager.io/v1": {"Certificate": ("certificates", True), "Issuer": ("issuers", True)},
}


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


def _status(item: Item) -> Item:
    """The status of what runs: everything is done, and ready."""
    match item["kind"]:
        case "Job":
            complete = {"type": "Complete", "status": "True"}
            return {"succeeded": 1, "conditions": [complete], "completionTime": "2027-01-01T00:00:01Z"}
        case "Pod":
            return {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "True"}]}
        case "Deployment" | "StatefulSet":
            names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            counts = dict.fromkeys(names, item.get("spec", {}).get("replicas", 1))
            return {**counts, "observedGeneration": 1, "currentRevision": "1", "updateRevision": "1"}
        case _:
            return {}


# The fields of a StatefulSet's spec that Kubernetes lets change.
STATEFUL_SET_FIELDS = {
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
}


def _changed_fixed_fields(old: Item, new: Item) -> list[str]:
    """The fields of a workload that differ, and that Kubernetes does not let change."""
    before, after = old.get("spec", {}), new.get("spec", {})
    match old.get("kind"):
        case "StatefulSet":
            fixed = (before.keys() | after.keys()) - STATEFUL_SET_FIELDS
        case "Deployment":
            fixed = {"selector"}
        case _:
            return []
    return sorted(field for field in fixed if before.get(field) != after.get(field))


@dataclass
class Selector:
    """What a list or a watch asks for."""

    version: str
    plural: str
    namespace: str
    name: str
    labels: dict[str, str]

    @classmethod
    def of(cls, key: Key, query: dict[str, str]) -> Selector:
        terms = [term.split("=") for term in query.get("labelSelector", "").split(",") if "=" in term]
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        return cls(*key[:3], name, {term[0]: term[-1] for term in terms})

    @property
    def kind(self) -> str:
        return next(kind for kind, names in RESOURCES[self.version].items() if names[0] == self.plural)

    def matches(self, item: Item) -> bool:
        meta = item["metadata"]
        labels = meta.get("labels", {})
        return (
            (item["apiVersion"], RESOURCES[item["apiVersion"]][item["kind"]][0]) == (self.version, self.plural)
            and self.namespace in ("", meta.get("namespace"))
            and self.name in ("", meta["name"])
            and all(labels.get(name) == value for name, value in self.labels.items())
        )


class ObjectStore:
    def __init__(self) -> None:
        self.objects: dict[Key, Item] = {}
        # The number of the last change, and all changes: number, type and object.
        self.number = 0
        self._events: list[tuple[int, str, Item]] = []
        self._changed = threading.Condition()

    def of(self, kind: str) -> dict[str, Item]:
        """The objects of a kind by name."""
        return {key[3]: value for key, value in self.objects.items() if value["kind"] == kind}

    def put(self, manifest: Item, namespace: str = "") -> Item:
        """Stores an object as it is, as if somebody had created it."""
        version = manifest["apiVersion"]
        plural, namespaced = RESOURCES[version][manifest["kind"]]
        namespace = manifest["metadata"].get("namespace", namespace or "default") if namespaced else ""
        return self.store((version, plural, namespace, manifest["metadata"]["name"]), manifest)

    def store(self, key: Key, new: Item) -> Item:
        version, plural, namespace, name = key
        with self._changed:
            old = self.objects.get(key)
            if old and old.get("immutable") and any(old.get(part) != new.get(part) for part in ("data", "immutable")):
                message = f'Secret "{name}" is invalid: data: Forbidden: field is immutable when `immutable` is set'
                raise Refusal(422, "Invalid", message)
            if old and (fixed := _changed_fixed_fields(old, new)):
                message = f'{plural} "{name}" is invalid: {", ".join(fixed)}: Forbidden: field is immutable'
                raise Refusal(422, "Invalid", message)
            wanted = new.get("metadata", {}).get("resourceVersion")
            if old and wanted and wanted != old["metadata"]["resourceVersion"]:
                raise Refusal(409, "Conflict", f'{plural} "{name}": the object has been modified')
            new = copy.deepcopy(new)
            new.setdefault("apiVersion", version)
            kinds = {names[0]: kind for kind, names in RESOURCES[version].items()}
            new.setdefault("kind", kinds[plural])
            self.number += 1
            defaults = {"uid": f"uid-{self.number}", "creationTimestamp": "2027-01-01T00:00:00Z"}
            new["metadata"] = {**defaults, **new.get("metadata", {}), "name": name, "resourceVersion": str(self.number)}
            if namespace:
                new["metadata"]["namespace"] = namespace
            new["metadata"]["generation"] = 1
            if status := _status(new):
                new["status"] = status
            self.objects[key] = new
            self._report("MODIFIED" if old else "ADDED", new)
            return new

    def delete(self, key: Key) -> None:
        with self._changed:
            self.number += 1
            self._report("DELETED", self.objects.pop(key))

    def _report(self, type_: str, item: Item) -> None:
        self._events.append((self.number, type_, item))
        self._changed.notify_all()

    def selected(self, selector: Selector) -> list[Item]:
        return [item for item in list(self.objects.values()) if selector.matches(item)]

    def events_after(self, number: int) -> list[tuple[int, str, Item]]:
        """Waits up to a second for a change after this one."""
        with self._changed:
            if self.number <= number:
                self._changed.wait(1)
            return [event for event in self._events if event[0] > number]
