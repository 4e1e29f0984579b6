//! Pods that the sidecar cannot be added to.

use serde_json::Value;

use super::{
    annotations::{STATUS, SidecarRequest},
    denial::Denial,
    mesh, pod,
    sidecar::{DATA_PLANE_PORT, InjectionSettings, NAME, VOLUMES},
};

/// Denies a pod in which the sidecar would not work, or that has something else under a name of the sidecar.
pub(super) fn check(
    pod: &Value,
    request: &SidecarRequest,
    settings: &InjectionSettings,
) -> Result<(), Denial> {
    let field = |pointer| pod.pointer(pointer);
    if field("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Err(Denial::HostNetwork);
    }
    let windows = Some("windows");
    if field("/spec/os/name").and_then(Value::as_str) == windows
        || field("/spec/nodeSelector/kubernetes.io~1os").and_then(Value::as_str) == windows
    {
        return Err(Denial::Windows);
    }
    check_ports(pod, request, settings.metrics_listen.port())?;
    check_names(pod)?;
    mesh::check(pod, settings.vault.port())
}

fn check_ports(pod: &Value, request: &SidecarRequest, metrics_port: u16) -> Result<(), Denial> {
    let own = [DATA_PLANE_PORT, metrics_port];
    let wanted: Vec<_> = request.listeners.iter().map(|listener| listener.port).collect();
    if let Some(port) = wanted.iter().find(|port| own.contains(port)) {
        return Err(Denial::OwnPort(*port));
    }
    let others = pod::containers(pod).filter(|container| pod::name(container) != NAME);
    for container in others {
        let declared = container.get("ports").and_then(Value::as_array);
        for declared in declared.into_iter().flatten() {
            let number = declared.get("containerPort").and_then(Value::as_u64);
            let is_tcp = declared.get("protocol").is_none_or(|protocol| protocol == "TCP");
            let port = number.and_then(|number| u16::try_from(number).ok());
            if let Some(port) = port.filter(|port| is_tcp && (own.contains(port) || wanted.contains(port))) {
                return Err(Denial::PortInUse {
                    port,
                    container: pod::name(container).to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Denies a pod with a container or volume that has a name of the sidecar, unless the annotation [`STATUS`] says that the webhook added
/// it. Anybody who creates a pod can set the annotation, which is harmless: they choose the containers of the pod anyway.
fn check_names(pod: &Value) -> Result<(), Denial> {
    let is_injected = pod::annotation(pod, STATUS) == Some("injected");
    let has = |list: &str, name: &str| pod::position(pod::list(pod, list), name).is_some();
    if has("containers", NAME) || (has("initContainers", NAME) && !is_injected) {
        return Err(Denial::ForeignContainer(NAME));
    }
    let foreign = VOLUMES.iter().find(|name| has("volumes", name) && !is_injected);
    match foreign {
        Some(name) => Err(Denial::ForeignVolume((*name).to_owned())),
        None => Ok(()),
    }
}
