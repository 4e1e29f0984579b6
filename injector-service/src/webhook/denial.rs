//! The reasons for which a pod that asks for a sidecar is denied. Kubernetes shows the text to the user or controller that creates the
//! pod.

use http::StatusCode;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denial {
    #[error("the annotation {annotation} is wrong: {problem}")]
    InvalidAnnotation {
        annotation: &'static str,
        problem: String,
    },
    #[error("the annotation {name:?} is unknown; known are {known}")]
    UnknownAnnotation { name: String, known: String },
    #[error(
        "the pod has the annotation {0} but not aerostack.dev/inject; set aerostack.dev/inject to \"true\" to add the sidecar, or to \
         \"false\" to start the pod without it"
    )]
    NotAsked(String),
    #[error(
        "the pod has the label aerostack.dev/inject: {0:?} and no annotation of this name, and a label has no effect; write \
         aerostack.dev/inject: \"true\" into the annotations of the pod (in a Deployment, spec.template.metadata.annotations)"
    )]
    Label(String),
    #[error(
        "the annotation aerostack.dev/servers-config is missing: it names the ConfigMap whose key servers.yaml has the servers"
    )]
    NoServersConfig,
    #[error("the namespace {0} is excluded from injection; remove the annotation aerostack.dev/inject")]
    ExcludedNamespace(String),
    #[error(
        "the annotation aerostack.dev/image is not allowed with the image {0}: the sidecar has the pod's token for the vault; remove \
         the annotation, or add the image to --allow-image of the webhook (webhook.allowedImages of the chart)"
    )]
    ImageNotAllowed(String),
    #[error(
        "a pod with hostNetwork gets no sidecar: its data plane would listen on the node's loopback interface, where every process \
         with the node's network reaches it"
    )]
    HostNetwork,
    #[error("the sidecar runs on Linux only, and this pod is for Windows")]
    Windows,
    #[error(
        "the container {container:?} uses port {port}, which the sidecar needs for {purpose}; use another port"
    )]
    PortInUse {
        port: u16,
        container: String,
        purpose: &'static str,
    },
    #[error(
        "the annotation aerostack.dev/listen-server has port {port}, which the sidecar needs for {purpose}; choose another port"
    )]
    OwnPort { port: u16, purpose: &'static str },
    #[error("the pod has a container named {0} that this webhook did not add; rename it")]
    ForeignContainer(&'static str),
    #[error(
        "the init container aerostack-injector of the pod has {0}, which this webhook does not set; remove the container, and the webhook adds it"
    )]
    ForeignSidecar(&'static str),
    #[error("the pod has a volume named {0} that this webhook did not add; rename it")]
    ForeignVolume(String),
    #[error(
        "the container {container:?} mounts the volume {volume}, which is for the sidecar alone; remove the mount: a program calls \
         through the sidecar and needs none of its files"
    )]
    MountedVolume { container: String, volume: &'static str },
    #[error(
        "the network of this pod is only usable once {proxy} runs, which is an ordinary container here and starts after the sidecar; \
         run {proxy} as a native sidecar, or exclude the vault's port with the annotation {annotation}: \"{port}\""
    )]
    MeshStartsLater {
        proxy: &'static str,
        annotation: &'static str,
        port: u16,
    },
}

impl Denial {
    /// Returns the HTTP status code for Kubernetes: 403 for a pod that is not allowed, 400 for one that is wrong.
    pub(super) fn code(&self) -> StatusCode {
        match self {
            Self::ExcludedNamespace(_) | Self::ImageNotAllowed(_) | Self::HostNetwork => {
                StatusCode::FORBIDDEN
            }
            Self::InvalidAnnotation { .. }
            | Self::UnknownAnnotation { .. }
            | Self::NotAsked(_)
            | Self::Label(_)
            | Self::NoServersConfig
            | Self::Windows
            | Self::PortInUse { .. }
            | Self::OwnPort { .. }
            | Self::ForeignContainer(_)
            | Self::ForeignSidecar(_)
            | Self::ForeignVolume(_)
            | Self::MountedVolume { .. }
            | Self::MeshStartsLater { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_pod_adds_no_line_to_the_log() {
        let name = "aerostack.dev/x\n2026-01-01T00:00:00Z  INFO forged".to_owned();
        let unknown = Denial::UnknownAnnotation {
            name: name.clone(),
            known: String::new(),
        };
        let in_use = Denial::PortInUse {
            port: 7100,
            container: name.clone(),
            purpose: "calls",
        };
        let mounted = Denial::MountedVolume {
            container: name.clone(),
            volume: "aerostack-token",
        };
        for denial in [unknown, in_use, mounted, Denial::Label(name)] {
            assert!(!denial.to_string().contains('\n'), "{denial}");
        }
    }
}
