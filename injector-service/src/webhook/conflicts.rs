//! Pods that the sidecar cannot be added to.

use serde_json::Value;

use super::{
    annotations::{LISTEN_SERVER, STATUS, SidecarRequest},
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
    check_sidecar(pod)?;
    check_mounts(pod)?;
    mesh::check(pod, settings.vault.port())
}

/// Denies a pod in which two containers would listen on the same port.
fn check_ports(pod: &Value, request: &SidecarRequest, metrics_port: u16) -> Result<(), Denial> {
    let own = [
        (DATA_PLANE_PORT, "calls of the program"),
        (metrics_port, "its metrics"),
    ];
    let annotated = request
        .listeners
        .iter()
        .map(|listener| (listener.port, LISTEN_SERVER));
    for (port, _) in annotated.clone() {
        if let Some(&(port, purpose)) = own.iter().find(|own| own.0 == port) {
            return Err(Denial::OwnPort { port, purpose });
        }
    }
    let needed: Vec<_> = own.into_iter().chain(annotated).collect();
    for container in others(pod) {
        let declared = container.get("ports").and_then(Value::as_array);
        for declared in declared.into_iter().flatten() {
            let number = declared.get("containerPort").and_then(Value::as_u64);
            let is_tcp = declared.get("protocol").is_none_or(|protocol| protocol == "TCP");
            let same = |needed: &&(u16, _)| is_tcp && number == Some(u64::from(needed.0));
            if let Some(&(port, purpose)) = needed.iter().find(same) {
                return Err(Denial::PortInUse {
                    port,
                    container: pod::name(container).to_owned(),
                    purpose,
                });
            }
        }
    }
    Ok(())
}

/// Denies a pod in which another container mounts a volume of the sidecar: the token for the vault would be readable by the program.
fn check_mounts(pod: &Value) -> Result<(), Denial> {
    for container in others(pod) {
        let mounts = container.get("volumeMounts").and_then(Value::as_array);
        let is_mounted = |volume: &&str| mounts.is_some_and(|mounts| pod::position(mounts, volume).is_some());
        if let Some(volume) = VOLUMES.into_iter().find(is_mounted) {
            return Err(Denial::MountedVolume {
                container: pod::name(container).to_owned(),
                volume,
            });
        }
    }
    Ok(())
}

/// Returns the containers that are not the sidecar.
fn others(pod: &Value) -> impl Iterator<Item = &Value> {
    pod::containers(pod).filter(|container| pod::name(container) != NAME)
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

/// Denies a pod whose sidecar was not made by the webhook, although the annotation [`STATUS`] says so: the webhook keeps members that
/// others added to a sidecar, and these would let it run another program, with other settings or with more rights.
fn check_sidecar(pod: &Value) -> Result<(), Denial> {
    const FOREIGN: [&str; 6] = [
        "command",
        "args",
        "envFrom",
        "lifecycle",
        "securityContext.privileged",
        "securityContext.capabilities.add",
    ];
    let sidecars = pod::list(pod, "initContainers");
    let Some(sidecar) = pod::position(sidecars, NAME).and_then(|at| sidecars.get(at)) else {
        return Ok(());
    };
    let is_set = |field: &&'static str| match sidecar.pointer(&format!("/{}", field.replace('.', "/"))) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    match FOREIGN.into_iter().find(is_set) {
        Some(field) => Err(Denial::ForeignSidecar(field)),
        None => Ok(()),
    }
}
