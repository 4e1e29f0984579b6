//! Reads and changes pods. A pod is a JSON value, so that fields that this program does not know stay as they are.

use chassis::kubernetes::members;
use serde_json::{Map, Value};

/// The lists of containers that may be in a pod that is created. Ephemeral containers are added later.
const LISTS: [&str; 2] = ["initContainers", "containers"];

pub(super) fn annotations(pod: &Value) -> Option<&Map<String, Value>> {
    pod.pointer("/metadata/annotations")?.as_object()
}

pub(super) fn annotation<'p>(pod: &'p Value, name: &str) -> Option<&'p str> {
    annotations(pod)?.get(name)?.as_str()
}

/// Returns the elements of a list of the pod's specification. A missing list is empty.
pub(super) fn list<'p>(pod: &'p Value, name: &str) -> &'p [Value] {
    let list = pod.get("spec").and_then(|spec| spec.get(name));
    list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns all containers, with the containers that start first at the beginning.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    LISTS.into_iter().flat_map(|name| list(pod, name))
}

/// Returns the name of a container, a volume or a variable.
pub(super) fn name(element: &Value) -> &str {
    element.get("name").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn position(elements: &[Value], wanted: &str) -> Option<usize> {
    elements.iter().position(|element| name(element) == wanted)
}

/// Returns a list of the pod's specification to change. A missing list is made.
pub(super) fn list_mut<'p>(pod: &'p mut Value, name: &str) -> &'p mut Vec<Value> {
    members::array(members::object(pod, "spec"), name)
}

/// Calls `change` with each container of both lists.
pub(super) fn change_containers(pod: &mut Value, mut change: impl FnMut(&mut Value)) {
    for name in LISTS {
        let list = pod.get_mut("spec").and_then(|spec| spec.get_mut(name));
        let containers = list.and_then(Value::as_array_mut);
        containers.into_iter().flatten().for_each(&mut change);
    }
}
