//! Tests of authentication and authorization: every method with every role, invalid certificates, TLS, and scopes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod certificates;
mod methods;
mod scopes;
mod settings;
mod tls_versions;
#[path = "../wire/mod.rs"]
mod wire;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use aerostack::pki::{DevPki, Leaf, Usage};
use bytes::Bytes;
use chassis::channel::channel;
use chassis::tls;
use e2e::{
    Injector, Pair, Pki, Vault, eventually,
    pair::{injector_settings, server, vault_settings},
    pki::{self, Files},
};
use prost_reflect::DescriptorPool;
use proto::{
    injector::v1::{
        AddServerRequest, ExplainInjectionRequest, GetServerRequest, ListServersRequest, RemoveServerRequest,
        UpdateServerRequest, server_service_client::ServerServiceClient,
    },
    vault::v1::{
        CreateWorkspaceRequest, DecryptCall, DecryptRequest, DecryptStreamRequest, DeleteSecretRequest,
        DeleteWorkspaceRequest, GetSecretMetadataRequest, GetWorkspaceRequest, ListSecretVersionsRequest,
        ListSecretsRequest, ListWorkspacesRequest, PutSecretRequest, RestoreSecretVersionRequest,
        UpdateWorkspaceRequest, Workspace, decrypt_answer::Outcome,
        decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
        secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
    },
};
use rustls::{
    ClientConfig, NamedGroup,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

const EDITOR: &str = "spiffe://test/editor";
const VIEWER: &str = "spiffe://test/viewer";
const STRANGER: &str = "spiffe://test/stranger";

/// Result of a call.
#[derive(Debug, PartialEq, Eq)]
enum CallResult {
    /// The TLS handshake failed.
    NoConnection,
    Unauthenticated,
    Denied,
    Served,
}

/// Lists workspaces, which an administrator may do, and returns the result.
async fn call_result(channel: &Channel) -> CallResult {
    let call = wire::open(channel, "/vault.v1.WorkspaceService/ListWorkspaces", Bytes::new());
    match timeout(e2e::PATIENCE, call).await.expect("no answer") {
        Ok(_) => CallResult::Served,
        // A status from the service has no source, and one of the transport has.
        Err(status) if std::error::Error::source(&status).is_some() => CallResult::NoConnection,
        Err(status) if status.code() == Code::Unauthenticated => CallResult::Unauthenticated,
        Err(status) if status.code() == Code::PermissionDenied => CallResult::Denied,
        Err(status) => panic!("{status:?}"),
    }
}
