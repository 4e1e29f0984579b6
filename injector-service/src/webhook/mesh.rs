//! Service meshes, whose proxies run in the same pod.
//!
//! A mesh redirects the connections of a pod to its proxy, and the sidecar reaches the vault only where the redirected connection
//! works. The place of the sidecar among the init containers follows from this:
//!
//! - The proxy is a native sidecar: the sidecar comes directly after the containers of the mesh. It starts when the network works,
//!   and the kubelet ends it before the proxy, so that its last calls still go through.
//! - The proxy is an ordinary container, and an init container redirects the connections: the sidecar comes first, and starts before
//!   the redirection. Later connections go through the proxy.
//! - The proxy is an ordinary container, and a CNI plugin redirected the connections before any container started: the sidecar would
//!   never start, and the program neither. Such a pod is denied, unless the vault's port is excluded from the redirection.

use serde_json::Value;

use super::{denial::Denial, pod};

struct Mesh {
    proxy: &'static str,
    /// The init container that redirects connections.
    redirect: &'static str,
    /// The init container that exists only where a CNI plugin redirects.
    cni_check: &'static str,
    /// The annotation with the ports whose connections are not redirected.
    excluded_ports: &'static str,
}

const MESHES: [Mesh; 2] = [
    Mesh {
        proxy: "istio-proxy",
        redirect: "istio-init",
        cni_check: "istio-validation",
        excluded_ports: "traffic.sidecar.istio.io/excludeOutboundPorts",
    },
    Mesh {
        proxy: "linkerd-proxy",
        redirect: "linkerd-init",
        cni_check: "linkerd-network-validator",
        excluded_ports: "config.linkerd.io/skip-outbound-ports",
    },
];

/// Returns true for the name of a container that belongs to a mesh.
pub(super) fn is_of_mesh(name: &str) -> bool {
    MESHES
        .iter()
        .any(|mesh| [mesh.proxy, mesh.redirect, mesh.cni_check].contains(&name))
}

/// Returns the index at which the sidecar belongs among these other init containers.
pub(super) fn sidecar_position(others: &[Value]) -> usize {
    let is_proxy = |container: &Value| MESHES.iter().any(|mesh| mesh.proxy == pod::name(container));
    if !others.iter().any(is_proxy) {
        return 0;
    }
    let last = others
        .iter()
        .rposition(|container| is_of_mesh(pod::name(container)));
    last.map_or(0, |last| last + 1)
}

/// Denies a pod whose sidecar could not reach the vault on `vault_port` before the proxy of a mesh runs.
pub(super) fn check(pod: &Value, vault_port: u16) -> Result<(), Denial> {
    let has = |list: &str, name: &str| pod::position(pod::list(pod, list), name).is_some();
    let starts_too_late = |mesh: &&Mesh| {
        has("containers", mesh.proxy)
            && has("initContainers", mesh.cni_check)
            && !pod::annotation(pod, mesh.excluded_ports).is_some_and(|ports| includes(ports, vault_port))
    };
    match MESHES.iter().find(starts_too_late) {
        Some(mesh) => Err(Denial::MeshStartsLater {
            proxy: mesh.proxy,
            annotation: mesh.excluded_ports,
            port: vault_port,
        }),
        None => Ok(()),
    }
}

/// Returns true when a list such as `443,7000-7200` includes a port.
fn includes(ports: &str, port: u16) -> bool {
    ports.split(',').map(str::trim).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bounds = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        bounds.is_some_and(|(first, last)| (first..=last).contains(&port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_ports_has_single_ports_and_ranges() {
        for (ports, included) in [
            ("7150", true),
            ("443, 7150", true),
            ("7000-7200", true),
            ("", false),
            ("715", false),
            ("7151-7200", false),
            ("x", false),
        ] {
            assert_eq!(includes(ports, 7150), included, "{ports:?}");
        }
    }
}
