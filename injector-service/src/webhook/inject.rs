//! Adds the sidecar to a pod. The result depends on the pod and the settings alone, so that a second review of the same pod changes
//! nothing.

use chassis::kubernetes::members;
use serde_json::{Value, json};

use super::{
    annotations::{STATUS, SidecarRequest, VAULT_CA},
    conflicts,
    denial::Denial,
    mesh, pod,
    sidecar::{self, InjectionSettings, NAME, PROBES},
};

/// The label of pods with a sidecar, by which a NetworkPolicy selects them.
const LABEL: &str = "aerostack.dev/injector";

/// The parts of a pod that [`inject`] may change.
const PARTS: [&str; 5] = [
    "/metadata/annotations",
    "/metadata/labels",
    "/spec/volumes",
    "/spec/initContainers",
    "/spec/containers",
];

/// The result of a review of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodInjection {
    /// The pod does not ask for a sidecar.
    NotRequested,
    /// The pod has everything already.
    Complete,
    /// The operations of a JSON Patch (RFC 6902) that add what is missing.
    Patch(Vec<Value>),
}

/// Returns the changes that give a pod of `namespace` its sidecar. `vault_ca` is the PEM text of the vault's CAs.
pub(super) fn inject(
    pod: &Value,
    namespace: &str,
    settings: &InjectionSettings,
    vault_ca: &str,
) -> Result<PodInjection, Denial> {
    let Some(request) = SidecarRequest::parse(pod)? else {
        return Ok(PodInjection::NotRequested);
    };
    let mut excluded = settings.excluded_namespaces.iter();
    if excluded.any(|excluded| excluded.as_str() == namespace) {
        return Err(Denial::ExcludedNamespace(namespace.to_owned()));
    }
    check_image(&request, settings)?;
    conflicts::check(pod, &request, settings)?;
    let mut injected = pod.clone();
    add_metadata(&mut injected, vault_ca);
    for volume in sidecar::volumes(&request, settings) {
        put(pod::list_mut(&mut injected, "volumes"), volume);
    }
    add_variables(&mut injected, &sidecar::program_variables(&request));
    place_sidecar(&mut injected, sidecar::container(&request, settings));
    Ok(match difference(pod, &injected) {
        operations if operations.is_empty() => PodInjection::Complete,
        operations => PodInjection::Patch(operations),
    })
}

/// Refuses an image that the settings do not allow. Whoever may set annotations only, such as a build system, would otherwise run a
/// program of his own with the pod's token for the vault.
fn check_image(request: &SidecarRequest, settings: &InjectionSettings) -> Result<(), Denial> {
    let Some(image) = &request.image else {
        return Ok(());
    };
    let is_allowed = *image == settings.image
        || settings
            .allowed_images
            .iter()
            .any(|prefix| prefix.contains(image));
    match is_allowed {
        true => Ok(()),
        false => Err(Denial::ImageNotAllowed(image.clone())),
    }
}

fn add_metadata(pod: &mut Value, vault_ca: &str) {
    let metadata = members::object(pod, "metadata");
    let annotations = members::object(metadata, "annotations");
    members::set(annotations, STATUS, "injected");
    members::set(annotations, VAULT_CA, vault_ca);
    members::set(members::object(metadata, "labels"), LABEL, "true");
}

/// Adds variables to the program's containers, init containers included. A variable that a container has already stays. The new
/// ones come first, because a variable can refer only to those before it.
fn add_variables(pod: &mut Value, variables: &[Value]) {
    pod::change_containers(pod, |container| {
        let name = pod::name(container);
        if name == NAME || mesh::is_of_mesh(name) {
            return;
        }
        let env = members::array(container, "env");
        let missing = variables
            .iter()
            .filter(|variable| pod::position(env, pod::name(variable)).is_none());
        let missing: Vec<_> = missing.cloned().collect();
        env.splice(0..0, missing);
    });
}

/// Puts the sidecar at its place among the init containers. A sidecar that the pod has already keeps the fields that Kubernetes and other
/// webhooks added to it, such as defaults.
fn place_sidecar(pod: &mut Value, sidecar: Value) {
    let containers = pod::list_mut(pod, "initContainers");
    let sidecar = match pod::position(containers, NAME) {
        Some(at) => merged(without_settings(containers.remove(at)), sidecar),
        None => sidecar,
    };
    let at = mesh::sidecar_position(containers);
    containers.insert(at, sidecar);
}

/// Removes two things from a sidecar of an earlier review: the variables with its settings, which may be out of date, and the actions of
/// its probes. A probe may have one action only, so that an action of an earlier release or of a mesh must not stay beside ours.
fn without_settings(mut sidecar: Value) -> Value {
    const ACTIONS: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];
    for probe in PROBES {
        if let Some(Value::Object(probe)) = sidecar.get_mut(probe) {
            probe.retain(|member, _| !ACTIONS.contains(&member.as_str()));
        }
    }
    let env = members::array(&mut sidecar, "env");
    env.retain(|variable| !pod::name(variable).starts_with(sidecar::VARIABLES));
    sidecar
}

/// Adds a named element to a list, or merges it into the element of this name.
fn put(list: &mut Vec<Value>, element: Value) {
    match pod::position(list, pod::name(&element)) {
        Some(at) => {
            if let Some(found) = list.get_mut(at) {
                *found = merged(found.take(), element);
            }
        }
        None => list.push(element),
    }
}

/// Returns `found` with everything of `wanted`. Members and elements that only `found` has stay.
fn merged(found: Value, wanted: Value) -> Value {
    match (found, wanted) {
        (Value::Object(mut found), Value::Object(wanted)) => {
            for (name, value) in wanted {
                let before = found.remove(&name).unwrap_or_default();
                found.insert(name, merged(before, value));
            }
            Value::Object(found)
        }
        (Value::Array(found), Value::Array(wanted)) => Value::Array(merged_lists(found, wanted)),
        (_, wanted) => wanted,
    }
}

/// Merges two lists: the elements of `wanted` come first, in their order, and each is merged into the element of `found` that
/// [`is_same`].
fn merged_lists(mut found: Vec<Value>, wanted: Vec<Value>) -> Vec<Value> {
    let mut list: Vec<_> = wanted
        .into_iter()
        .map(
            |element| match found.iter().position(|other| is_same(other, &element)) {
                Some(at) => merged(found.remove(at), element),
                None => element,
            },
        )
        .collect();
    list.append(&mut found);
    list
}

/// Returns true for two elements of one name. Elements without names are compared by the members that both have.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one.get("name"), other.get("name")) {
        (Some(one), Some(other)) => one == other,
        (None, None) => match (one, other) {
            (Value::Object(one), Value::Object(other)) => one.keys().any(|name| other.contains_key(name)),
            (one, other) => one == other,
        },
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Returns operations that replace each part of the pod that differs. The API applies them to the very object that it sent.
fn difference(before: &Value, after: &Value) -> Vec<Value> {
    let changed = PARTS
        .into_iter()
        .filter(|part| before.pointer(part) != after.pointer(part));
    let operation = |part: &str| {
        let value = after.pointer(part).cloned().unwrap_or_default();
        json!({"op": "add", "path": part, "value": value})
    };
    changed.map(operation).collect()
}

#[cfg(test)]
mod tests;
