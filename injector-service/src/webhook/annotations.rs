//! The annotations by which a pod asks for a sidecar.

use chassis::{kubernetes::ObjectName, worker_threads::MAX_THREADS};
use proto::{ServerName, WorkspaceName};
use serde_json::{Map, Value};

use super::{
    denial::Denial,
    pod,
    quantity::{BYTES, PROCESSORS, Quantity, ResourceAmount},
};

/// The annotation with which a pod asks for a sidecar: `true` or `false`.
pub(super) const INJECT: &str = "aerostack.dev/inject";
const WORKSPACE: &str = "aerostack.dev/workspace";
const SERVERS_CONFIG: &str = "aerostack.dev/servers-config";
const IMAGE: &str = "aerostack.dev/image";
const CPU: &str = "aerostack.dev/cpu";
const MEMORY: &str = "aerostack.dev/memory";
pub(super) const LISTEN_SERVER: &str = "aerostack.dev/listen-server";
/// Set by the webhook: `injected`.
pub(super) const STATUS: &str = "aerostack.dev/status";
/// Set by the webhook: the CAs of the vault, PEM.
pub(super) const VAULT_CA: &str = "aerostack.dev/vault-ca";

const PREFIX: &str = "aerostack.dev/";
/// The annotations that users set.
const USER_ANNOTATIONS: [&str; 7] = [
    INJECT,
    WORKSPACE,
    SERVERS_CONFIG,
    IMAGE,
    CPU,
    MEMORY,
    LISTEN_SERVER,
];

/// The least memory with which the sidecar starts. A smaller number is almost always a missing unit.
const LEAST_MEMORY: &str = "16Mi";
/// Ports below need a capability that the sidecar does not have.
const LEAST_PORT: u16 = 1024;

/// The annotations of a pod that asks for a sidecar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SidecarRequest {
    pub(super) workspace: Option<WorkspaceName>,
    /// The ConfigMap with the servers.
    pub(super) servers_config: ObjectName,
    pub(super) image: Option<String>,
    pub(super) cpu: Option<ResourceAmount>,
    pub(super) memory: Option<ResourceAmount>,
    pub(super) listeners: Vec<ServerListener>,
}

/// A port that leads to one server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerListener {
    pub(super) port: u16,
    pub(super) workspace: WorkspaceName,
    pub(super) server: ServerName,
}

impl SidecarRequest {
    /// Reads the annotations of a pod. Returns `None` for a pod that does not ask for a sidecar.
    pub(super) fn parse(pod: &Value) -> Result<Option<Self>, Denial> {
        let none = Map::new();
        let annotations = pod::annotations(pod).unwrap_or(&none);
        match text(annotations, INJECT) {
            Some("false") => return Ok(None),
            Some("true") | None => {}
            Some(value) => {
                return Err(invalid(
                    INJECT,
                    format!("{value:?} is neither \"true\" nor \"false\""),
                ));
            }
        }
        refuse_unknown(annotations)?;
        if text(annotations, INJECT).is_none() {
            refuse_unasked(annotations)?;
            return refuse_label(pod).map(|()| None);
        }
        let workspace = parsed(annotations, WORKSPACE, WorkspaceName::parse)?;
        let listeners = match text(annotations, LISTEN_SERVER) {
            Some(text) => ServerListener::parse_all(text, workspace.as_ref())?,
            None => Vec::new(),
        };
        Ok(Some(Self {
            servers_config: parsed(annotations, SERVERS_CONFIG, ObjectName::parse)?
                .ok_or(Denial::NoServersConfig)?,
            image: parsed(annotations, IMAGE, image)?,
            cpu: parsed(annotations, CPU, cpu)?,
            memory: parsed(annotations, MEMORY, memory)?,
            workspace,
            listeners,
        }))
    }
}

/// Refuses a pod with an unknown annotation of this program: a misspelt annotation would have no effect.
fn refuse_unknown(annotations: &Map<String, Value>) -> Result<(), Denial> {
    let unknown = annotations.keys().find(|name| {
        name.starts_with(PREFIX)
            && !USER_ANNOTATIONS.contains(&name.as_str())
            && ![STATUS, VAULT_CA].contains(&name.as_str())
    });
    match unknown {
        Some(name) => Err(Denial::UnknownAnnotation {
            name: name.clone(),
            known: USER_ANNOTATIONS.join(", "),
        }),
        None => Ok(()),
    }
}

/// Refuses a pod that configures a sidecar and does not ask for one: the program would start without the sidecar.
fn refuse_unasked(annotations: &Map<String, Value>) -> Result<(), Denial> {
    let without_effect = annotations
        .keys()
        .find(|name| USER_ANNOTATIONS.contains(&name.as_str()));
    match without_effect {
        Some(name) => Err(Denial::NotAsked(name.clone())),
        None => Ok(()),
    }
}

/// Refuses a pod that asks for a sidecar by a label, as the pods of some other injectors do.
fn refuse_label(pod: &Value) -> Result<(), Denial> {
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
    match labels.and_then(|labels| text(labels, INJECT)) {
        None | Some("false") => Ok(()),
        Some(value) => Err(Denial::Label(value.to_owned())),
    }
}

fn text<'a>(annotations: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    annotations.get(name)?.as_str()
}

fn parsed<T, E: ToString>(
    annotations: &Map<String, Value>,
    name: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Denial> {
    let value = text(annotations, name).map(parse).transpose();
    value.map_err(|error| invalid(name, error.to_string()))
}

fn invalid(annotation: &'static str, problem: String) -> Denial {
    Denial::InvalidAnnotation { annotation, problem }
}

/// Accepts the reference of an image. The kubelet knows the whole syntax; this check finds empty texts and typing errors.
pub(super) fn image(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    match !text.is_empty() && !text.contains("://") && text.bytes().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is not the reference of an image, such as registry.example.com/injector-service:1"
        )),
    }
}

/// Reads the processor time of the sidecar: `REQUEST` or `REQUEST,LIMIT`.
pub(super) fn cpu(text: &str) -> Result<ResourceAmount, String> {
    let amount = ResourceAmount::parse(text, &PROCESSORS)?;
    match amount.most().rounded_up() > MAX_THREADS {
        true => Err(format!(
            "{:?} is more than the {MAX_THREADS} processors that the sidecar can use; write a unit, such as 20m",
            amount.most().text()
        )),
        false => Ok(amount),
    }
}

/// Reads the memory of the sidecar: `REQUEST` or `REQUEST,LIMIT`.
pub(super) fn memory(text: &str) -> Result<ResourceAmount, String> {
    let amount = ResourceAmount::parse(text, &BYTES)?;
    let least = Quantity::parse(LEAST_MEMORY, &BYTES)?;
    match amount.request < least {
        true => Err(format!(
            "{:?} is less than {LEAST_MEMORY}, which the sidecar needs; write a unit, such as 64Mi",
            amount.request.text()
        )),
        false => Ok(amount),
    }
}

impl ServerListener {
    /// Reads `PORT=SERVER` and `PORT=WORKSPACE/SERVER`, separated by `;`.
    fn parse_all(text: &str, workspace: Option<&WorkspaceName>) -> Result<Vec<Self>, Denial> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let listeners: Vec<_> = parts
            .map(|part| Self::parse(part, workspace))
            .collect::<Result<_, _>>()
            .map_err(|problem| invalid(LISTEN_SERVER, problem))?;
        let is_repeated = |listener: &Self| {
            let same = listeners.iter().filter(|other| other.port == listener.port);
            same.count() > 1
        };
        match listeners.iter().find(|listener| is_repeated(listener)) {
            Some(repeated) => Err(invalid(
                LISTEN_SERVER,
                format!("port {} occurs twice", repeated.port),
            )),
            None => Ok(listeners),
        }
    }

    fn parse(part: &str, default: Option<&WorkspaceName>) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{part:?} is not PORT=SERVER or PORT=WORKSPACE/SERVER, such as 7101=github; a semicolon separates several"
            )
        };
        let (port, server) = part.split_once('=').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if port < LEAST_PORT {
            return Err(format!(
                "port {port} is below {LEAST_PORT}, and the sidecar has no capability for such a port; choose {LEAST_PORT} or higher"
            ));
        }
        let named = |error: &dyn ToString| format!("{}: {}", wrong(), error.to_string());
        let (workspace, server) = match server.split_once('/') {
            Some((workspace, server)) => (
                WorkspaceName::parse(workspace).map_err(|error| named(&error))?,
                server,
            ),
            None => {
                let default = default.ok_or_else(|| {
                    format!(
                        "{part:?} names no workspace, and the pod has no annotation {WORKSPACE}; write \
                         {port}=WORKSPACE/{server}, or set the annotation"
                    )
                })?;
                (default.clone(), server)
            }
        };
        Ok(Self {
            port,
            workspace,
            server: ServerName::parse(server).map_err(|error| named(&error))?,
        })
    }
}
