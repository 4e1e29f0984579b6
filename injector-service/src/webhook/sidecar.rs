//! The sidecar's container and volumes, as JSON.

// The module `net` of `core` has addresses and no sockets.
use core::net::SocketAddr;

use chassis::{
    channel::ServiceAddress,
    kubernetes::{ObjectName, members},
    worker_threads::MAX_THREADS,
};
use proto::Principal;
use serde_json::{Value, json};

use crate::limits::BUFFERED_TOTAL;

use super::{
    annotations::{SidecarRequest, VAULT_CA},
    image_prefix::ImagePrefix,
    quantity::ResourceAmount,
};

pub(super) const NAME: &str = "aerostack-injector";
pub(super) const DATA_PLANE_PORT: u16 = 7100;
/// Prefix of the variables of the sidecar's settings, which is `config::ENVIRONMENT`. `config` imports this module's settings, so
/// this file does not import `config`.
pub(super) const VARIABLES: &str = "AEROSTACK_INJECTOR_";

const TOKEN: &str = "aerostack-token";
const AUTHORITIES: &str = "aerostack-ca";
const SERVERS: &str = "aerostack-servers";
pub(super) const VOLUMES: [&str; 3] = [TOKEN, AUTHORITIES, SERVERS];

/// User and group of the image.
const USER: u32 = 65_532;
/// The probes of a container.
pub(super) const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];

/// The state of a sidecar in which its pod is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SidecarReadiness {
    /// The sidecar can use its vault. An outage of the vault then takes every injected pod out of its Services.
    Vault,
    /// The sidecar runs. During an outage of the vault the pod gets requests, and the sidecar refuses the calls that need a secret.
    Live,
}

/// The settings that all injections share.
#[derive(Debug, Clone)]
pub(super) struct InjectionSettings {
    pub(super) image: String,
    /// The images that a pod may choose instead.
    pub(super) allowed_images: Vec<ImagePrefix>,
    pub(super) vault: ServiceAddress,
    pub(super) vault_id: Principal,
    pub(super) token_audience: String,
    /// Life of a token in seconds. The kubelet renews a token after 80 % of it.
    pub(super) token_seconds: u64,
    /// Address of the sidecars' metrics. Its port is the same in every pod.
    pub(super) metrics_listen: SocketAddr,
    pub(super) readiness: SidecarReadiness,
    pub(super) cpu: ResourceAmount,
    pub(super) memory: ResourceAmount,
    /// The namespaces whose pods get no sidecar.
    pub(super) excluded_namespaces: Vec<ObjectName>,
}

pub(super) fn container(request: &SidecarRequest, settings: &InjectionSettings) -> Value {
    let readiness: &[&str] = match settings.readiness {
        SidecarReadiness::Vault => &[],
        SidecarReadiness::Live => &["--live"],
    };
    json!({
        "name": NAME,
        "image": request.image.as_ref().unwrap_or(&settings.image),
        "restartPolicy": "Always",
        "env": variables(request, settings),
        // The name of a port has 15 characters at most.
        "ports": [{"name": "aerostack-probe", "containerPort": settings.metrics_listen.port(), "protocol": "TCP"}],
        "resources": resources(request, settings),
        // The profile "restricted" of Pod Security.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        // Two minutes for the vault to answer. After that the kubelet restarts the sidecar.
        "startupProbe": probe(&["--startup"], 1, 120),
        "readinessProbe": probe(readiness, 5, 3),
        "livenessProbe": probe(&["--live"], 10, 3),
        "volumeMounts": [
            {"name": TOKEN, "mountPath": "/var/run/secrets/aerostack", "readOnly": true},
            {"name": AUTHORITIES, "mountPath": "/var/run/aerostack/ca", "readOnly": true},
            {"name": SERVERS, "mountPath": "/etc/aerostack", "readOnly": true},
        ],
    })
}

fn variables(request: &SidecarRequest, settings: &InjectionSettings) -> Vec<Value> {
    let listeners = request.listeners.iter().map(|listener| {
        let (port, workspace, server) = (listener.port, &listener.workspace, &listener.server);
        format!("127.0.0.1:{port}={workspace}/{server}")
    });
    let listeners = listeners.collect::<Vec<_>>().join(";");
    let variables = [
        ("NO_ADMIN", "true".to_owned()),
        ("VAULT", settings.vault.to_string()),
        ("VAULT_CA", "/var/run/aerostack/ca/ca.crt".to_owned()),
        ("VAULT_ID", settings.vault_id.to_string()),
        ("VAULT_TOKEN_FILE", "/var/run/secrets/aerostack/token".to_owned()),
        ("SERVERS", "/etc/aerostack/servers.yaml".to_owned()),
        ("DATA_PLANE_LISTEN", format!("127.0.0.1:{DATA_PLANE_PORT}")),
        ("METRICS_LISTEN", settings.metrics_listen.to_string()),
        ("WORKER_THREADS", worker_threads(request, settings).to_string()),
        ("LISTEN_SERVER", listeners),
    ];
    let buffered = max_buffered_total(request, settings).map(|value| ("MAX_BUFFERED_TOTAL", value));
    let given = variables.into_iter().filter(|(_, value)| !value.is_empty());
    given
        .chain(buffered)
        .map(|(name, value)| json!({"name": format!("{VARIABLES}{name}"), "value": value}))
        .collect()
}

/// Returns the number of processors that the sidecar may use. Without this number, the sidecar would have a thread for each
/// processor of the node, and each thread takes a stream of those that the vault allows to the service account.
fn worker_threads(request: &SidecarRequest, settings: &InjectionSettings) -> usize {
    let cpu = amount(&request.cpu, &settings.cpu);
    cpu.limit.unwrap_or(cpu.request).rounded_up().min(MAX_THREADS)
}

/// Returns half of the sidecar's memory limit. With more buffered bodies, the sidecar would exceed its limit, and be killed with all
/// its calls. Returns `None` without a limit: the sidecar then has its default.
fn max_buffered_total(request: &SidecarRequest, settings: &InjectionSettings) -> Option<String> {
    let limit = amount(&request.memory, &settings.memory).limit?;
    let half = (limit.rounded_up() / 2).min(*BUFFERED_TOTAL.end());
    Some(format!("{}MiB", half >> 20))
}

fn amount(wanted: &Option<ResourceAmount>, default: &ResourceAmount) -> ResourceAmount {
    match wanted {
        Some(wanted) => wanted.clone().with_limit_of(default),
        None => default.clone(),
    }
}

fn resources(request: &SidecarRequest, settings: &InjectionSettings) -> Value {
    let (mut requests, mut limits) = (json!({}), json!({}));
    for (name, amount) in [
        ("cpu", amount(&request.cpu, &settings.cpu)),
        ("memory", amount(&request.memory, &settings.memory)),
    ] {
        members::set(&mut requests, name, amount.request.text());
        if let Some(limit) = amount.limit {
            members::set(&mut limits, name, limit.text());
        }
    }
    json!({"requests": requests, "limits": limits})
}

/// Returns a probe that the kubelet runs inside the container. A request of the kubelet to the address of the pod would be refused by
/// the proxy of a mesh that accepts mutual TLS only, and would not arrive when the address is IPv6 and the sidecar listens on IPv4.
fn probe(flags: &[&str], period: u32, failures: u32) -> Value {
    let command = [&["injector-service", "healthcheck"], flags].concat();
    json!({
        "exec": {"command": command},
        "periodSeconds": period,
        // The command gives up after three seconds, and says why.
        "timeoutSeconds": 4,
        "failureThreshold": failures,
    })
}

/// Returns the sidecar's volumes. Their files are readable by everybody in the containers that mount them, which is the sidecar
/// alone.
///
/// The kubelet decides about the owner and the mode of a projected token. When all containers of the pod run as one user, the
/// file belongs to this user with mode 0600. When the pod has an `fsGroup`, which all containers are in, the file belongs to this
/// group with mode 0640. Otherwise the file belongs to root with `defaultMode`: then the sidecar, which is neither root nor in
/// root's group, reads the file only with mode 0444.
pub(super) fn volumes(request: &SidecarRequest, settings: &InjectionSettings) -> [Value; 3] {
    const READABLE: u32 = 0o444;
    let token = json!({
        "audience": settings.token_audience,
        "expirationSeconds": settings.token_seconds,
        "path": "token",
    });
    let authorities = format!("metadata.annotations['{VAULT_CA}']");
    [
        json!({"name": TOKEN, "projected": {"defaultMode": READABLE, "sources": [{"serviceAccountToken": token}]}}),
        json!({"name": AUTHORITIES, "downwardAPI": {
            "defaultMode": READABLE,
            "items": [{"path": "ca.crt", "fieldRef": {"fieldPath": authorities}}],
        }}),
        json!({"name": SERVERS, "configMap": {
            "defaultMode": READABLE,
            "name": request.servers_config.as_str(),
            // The kubelet starts no pod whose ConfigMap lacks this key. Without `items`, the sidecar would start without servers.
            "items": [{"key": "servers.yaml", "path": "servers.yaml"}],
        }}),
    ]
}

/// Returns the variables of the program's containers.
pub(super) fn program_variables(request: &SidecarRequest) -> Vec<Value> {
    let url = format!("http://127.0.0.1:{DATA_PLANE_PORT}");
    let mut variables = vec![json!({"name": "AEROSTACK_URL", "value": url})];
    if let Some(workspace) = &request.workspace {
        variables.push(json!({"name": "AEROSTACK_WORKSPACE", "value": workspace.as_str()}));
    }
    variables
}
