//! Tests of authentication and authorization: every method with every role, invalid certificates, TLS, and scopes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

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

// Every method with every role.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Admin,
    Editor,
    Viewer,
    Injector,
    /// A caller with a certificate of the CA and without a role.
    Stranger,
    /// A caller without a certificate.
    Nobody,
}

use Who::{Admin, Editor, Nobody, Stranger, Viewer};

const EVERYONE: [Who; 6] = [Admin, Editor, Viewer, Who::Injector, Stranger, Nobody];

/// The roles that may call each RPC of the vault by its documentation. The list is independent of the table in the code.
const VAULT: [(&str, &[Who]); 23] = [
    ("vault.v1.WorkspaceService.CreateWorkspace", &[Admin]),
    ("vault.v1.WorkspaceService.GetWorkspace", &[Admin]),
    ("vault.v1.WorkspaceService.ListWorkspaces", &[Admin]),
    ("vault.v1.WorkspaceService.UpdateWorkspace", &[Admin]),
    ("vault.v1.WorkspaceService.DeleteWorkspace", &[Admin]),
    ("vault.v1.SecretService.PutSecret", &[Admin, Editor]),
    ("vault.v1.SecretService.ListSecrets", &[Admin, Editor, Viewer]),
    (
        "vault.v1.SecretService.GetSecretMetadata",
        &[Admin, Editor, Viewer],
    ),
    (
        "vault.v1.SecretService.ListSecretVersions",
        &[Admin, Editor, Viewer],
    ),
    ("vault.v1.SecretService.RestoreSecretVersion", &[Admin, Editor]),
    ("vault.v1.SecretService.DeleteSecret", &[Admin, Editor]),
    ("vault.v1.DecryptService.Decrypt", &[Who::Injector]),
    ("vault.v1.DecryptService.DecryptStream", &[Who::Injector]),
    ("vault.v1.KeyService.GetKeyStatus", &[Admin]),
    ("vault.v1.KeyService.ListWorkspaceKeys", &[Admin]),
    ("vault.v1.KeyService.RotateWorkspaceKey", &[Admin]),
    ("vault.v1.KeyService.RotateRootKey", &[Admin]),
    ("vault.v1.BackupService.ExportBackup", &[Admin]),
    ("vault.v1.BackupService.RestoreBackup", &[Admin]),
    ("grpc.health.v1.Health.Check", &EVERYONE),
    (
        "grpc.health.v1.Health.Watch",
        &[Admin, Editor, Viewer, Who::Injector],
    ),
    (
        "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
        &[Admin, Editor, Viewer, Who::Injector],
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
        &[Admin, Editor, Viewer, Who::Injector],
    ),
];

/// The roles that may call each RPC of the injector, which does not know the role injector.
const INJECTOR: [(&str, &[Who]); 11] = [
    ("injector.v1.ServerService.AddServer", &[Admin, Editor]),
    ("injector.v1.ServerService.UpdateServer", &[Admin, Editor]),
    ("injector.v1.ServerService.GetServer", &[Admin, Editor, Viewer]),
    ("injector.v1.ServerService.ListServers", &[Admin, Editor, Viewer]),
    ("injector.v1.ServerService.RemoveServer", &[Admin, Editor]),
    (
        "injector.v1.ServerService.ExplainInjection",
        &[Admin, Editor, Viewer],
    ),
    (
        "injector.v1.CatalogService.ListCatalogEntries",
        &[Admin, Editor, Viewer],
    ),
    ("grpc.health.v1.Health.Check", &EVERYONE),
    ("grpc.health.v1.Health.Watch", &[Admin, Editor, Viewer]),
    (
        "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
        &[Admin, Editor, Viewer],
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
        &[Admin, Editor, Viewer],
    ),
];

/// Returns all methods of all services in the descriptors.
fn methods() -> BTreeSet<String> {
    let sets = [
        proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let pools = sets.map(|set| DescriptorPool::decode(set).unwrap());
    let services = pools
        .iter()
        .flat_map(DescriptorPool::services)
        .collect::<Vec<_>>();
    services
        .iter()
        .flat_map(|service| service.methods())
        .map(|method| method.full_name().to_owned())
        .collect()
}

/// Converts `a.B.C` into `/a.B/C`.
fn path(method: &str) -> String {
    let (service, method) = method.rsplit_once('.').unwrap();
    format!("/{service}/{method}")
}

async fn check_every_method_with_every_role(table: &[(&str, &[Who])], channels: impl Fn(Who) -> Channel) {
    let methods = methods();
    for (method, _) in table {
        assert!(methods.contains(*method), "{method} does not exist");
    }
    let mut wrong = Vec::new();
    for who in EVERYONE {
        let channel = channels(who);
        for method in &methods {
            let allowed = table
                .iter()
                .any(|(row, roles)| row == method && roles.contains(&who));
            let answer = timeout(e2e::PATIENCE, wire::open(&channel, &path(method), Bytes::new())).await;
            let code = answer
                .expect(method)
                .map_or_else(|status| status.code(), |_| Code::Ok);
            let as_promised = match (allowed, who) {
                (true, _) => !matches!(
                    code,
                    Code::Unauthenticated
                        | Code::PermissionDenied
                        | Code::Unimplemented
                        | Code::Unavailable
                        | Code::Unknown
                ),
                (false, Nobody) => code == Code::Unauthenticated,
                (false, _) => code == Code::PermissionDenied,
            };
            if !as_promised {
                wrong.push(format!("{who:?} {method}: {code:?}, allowed: {allowed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn principal(who: Who) -> &'static str {
    match who {
        Admin => pki::ADMIN,
        Editor => EDITOR,
        Viewer => VIEWER,
        Who::Injector => pki::INJECTOR,
        Stranger => STRANGER,
        Nobody => unreachable!("nobody has no certificate"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_vault_answers_only_its_roles() {
    let vault = roles_everywhere().await;
    check_every_method_with_every_role(&VAULT, |who| match who {
        Nobody => wire::anonymous(&vault.pki, vault.address),
        known => vault.channel(principal(known)),
    })
    .await;
    vault.stop().await;
}

/// Returns the lines of an audit log that are about calls.
fn audit_calls(path: &Path) -> Vec<Json> {
    let mut lines = audit_lines(path);
    lines.retain(|line| line["event"] == "call");
    lines
}

fn audit_lines(path: &Path) -> Vec<Json> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_has_one_line_in_the_audit_log_before_its_answer() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("audit.log");
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.editor = vec![format!("{EDITOR}=*")];
        settings.roles.viewer = vec![format!("{VIEWER}=*")];
        settings.audit.audit_log = Some(log.clone());
    })
    .await;
    let mut wrong = Vec::new();
    let mut seen = 0;
    for who in EVERYONE {
        let channel = match who {
            Nobody => wire::anonymous(&vault.pki, vault.address),
            known => vault.channel(principal(known)),
        };
        for method in methods() {
            let path = path(&method);
            let answer = timeout(e2e::PATIENCE, wire::open(&channel, &path, Bytes::new())).await;
            let refused = answer.expect(&method).err().map(|status| status.code());
            let is_denied = matches!(refused, Some(Code::Unauthenticated | Code::PermissionDenied));
            let expected = usize::from(is_denied || !method.starts_with("grpc."));
            let calls = audit_calls(&log);
            let new = &calls[seen..];
            seen = calls.len();
            let outcome = if refused.is_some() { "refused" } else { "ok" };
            let principal = match who {
                Nobody => Json::Null,
                known => principal(known).into(),
            };
            let as_expected = new.len() == expected
                && new.iter().all(|line| {
                    line["method"] == path[1..]
                        && line["principal"] == principal
                        && line["peer"]
                            .as_str()
                            .is_some_and(|peer| peer.starts_with("127.0.0.1:"))
                        && line["outcome"] == outcome
                        && line["reason"].is_string() == refused.is_some()
                });
            if !as_expected {
                wrong.push(format!("{who:?} {method} {refused:?}: {new:?}"));
            }
        }
    }
    vault.stop().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let lines = audit_lines(&log);
    let events = lines.iter().filter(|line| line["event"] != "call");
    let events: Vec<_> = events.map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["started", "unsealed", "stopped"]);
}

async fn roles_everywhere() -> Vault {
    Vault::start_with(Pki::new(), |settings| {
        settings.roles.editor = vec![format!("{EDITOR}=*")];
        settings.roles.viewer = vec![format!("{VIEWER}=*")];
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_injector_answers_only_its_roles() {
    let vault = Vault::start().await;
    let injector = Injector::start_with(vault.pki.clone(), vault.address, |settings| {
        settings.roles.editor = vec![format!("{EDITOR}=*")];
        settings.roles.viewer = vec![format!("{VIEWER}=*")];
    })
    .await;
    check_every_method_with_every_role(&INJECTOR, |who| match who {
        Nobody => wire::anonymous(&injector.pki, injector.address),
        known => injector.channel(principal(known)),
    })
    .await;
    injector.stop().await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_refused_like_a_forbidden_one() {
    let vault = Vault::start().await;
    let (admin, nobody) = (
        vault.channel(pki::ADMIN),
        wire::anonymous(&vault.pki, vault.address),
    );
    let denied = wire::open(&admin, "/vault.v1.DecryptService/Decrypt", Bytes::new())
        .await
        .unwrap_err();
    for path in [
        "/vault.v1.SecretService/GetSecretValue",
        "/vault.v1.SecretService/putsecret",
        "/vault.v1.SecretService/PutSecret/",
        "/vault.v1.SecretService/%50utSecret",
        "//vault.v1.SecretService/PutSecret",
        "/vault.v1.DecryptService/Decrypt/",
        "/vault.v1.DecryptService/%44ecrypt",
        "/vault.v1.decryptservice/Decrypt",
        "/vault.v1.SecretService/../vault.v1.DecryptService/Decrypt",
        "/vault.v2.SecretService/PutSecret",
        "/grpc.health.v1.Health/Check/x",
        "/",
    ] {
        let status = wire::open(&admin, path, Bytes::new()).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (denied.code(), denied.message()),
            "{path}"
        );
        let status = wire::open(&nobody, path, Bytes::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{path}");
    }
    vault.stop().await;
}

// Invalid certificates.

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

fn admin_leaf() -> Leaf {
    Leaf {
        name: "admin".to_owned(),
        uris: vec![pki::ADMIN.to_owned()],
        ..Pki::blank()
    }
}

fn with(vault: &Vault, files: &Files) -> Channel {
    vault.pki.channel(files, vault.address, pki::VAULT)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_verify_makes_no_connection() {
    let vault = Vault::start().await;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    // The other CA has the same subject and another key.
    let (other, dir) = (Pki::new(), TempDir::new().unwrap());
    let issue = |leaf| vault.pki.leaf(&leaf);
    for (what, files, expected) in [
        ("good", issue(admin_leaf()), CallResult::Served),
        ("self-signed", self_signed(&dir), CallResult::NoConnection),
        (
            "of another CA",
            other.leaf(&admin_leaf()),
            CallResult::NoConnection,
        ),
        (
            "expired",
            issue(Leaf {
                not_after: now - Duration::from_secs(60),
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
        (
            "not yet valid",
            issue(Leaf {
                not_before: now + hour,
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
        (
            "a CA",
            issue(Leaf {
                is_ca: true,
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
        (
            "for servers only",
            issue(Leaf {
                usages: vec![Usage::Server],
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
    ] {
        assert_eq!(
            call_result(&with(&vault, &files)).await,
            expected,
            "a certificate that is {what}"
        );
    }
    assert_eq!(
        call_result(&wire::anonymous(&vault.pki, vault.address)).await,
        CallResult::Unauthenticated
    );
    vault.stop().await;
}

fn self_signed(dir: &TempDir) -> Files {
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(pki::ADMIN.try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let files = Files {
        cert: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_is_matched_exactly_and_a_certificate_names_exactly_one() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.admin.push("dns:admin.test".to_owned())
    })
    .await;
    let of = async |uris: &[&str], dns: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let files = vault.pki.leaf(&Leaf {
            uris: owned(uris),
            dns: owned(dns),
            ..admin_leaf()
        });
        call_result(&with(&vault, &files)).await
    };
    assert_eq!(of(&[pki::ADMIN], &[]).await, CallResult::Served);
    assert_eq!(of(&[pki::ADMIN], &["a.test", "b.test"]).await, CallResult::Served);
    assert_eq!(of(&[], &["admin.test"]).await, CallResult::Served);
    for other in [
        "spiffe://test/admin-evil",
        "spiffe://test/Admin",
        "spiffe://test/admi",
        "spiffe://test/admin/x",
        "spiffe://other/admin",
        "spiffe://test.other/admin",
        "spiffe://other/test/admin",
    ] {
        assert_eq!(of(&[other], &[]).await, CallResult::Denied, "{other}");
    }
    for malformed in [
        "spiffe://TEST/admin",
        "SPIFFE://test/admin",
        "Spiffe://test/admin",
        "spiffe://test/%61dmin",
        "spiffe://test/admin/",
        "spiffe://test//admin",
        "spiffe://test/./admin",
        "spiffe://test/x/../admin",
        "spiffe://test/admin?x",
        "spiffe://test/admin#x",
        "spiffe://u@test/admin",
        "spiffe://test:443/admin",
        "spiffe:/test/admin",
        "https://test/admin",
        "admin",
    ] {
        assert_eq!(
            of(&[malformed], &[]).await,
            CallResult::Unauthenticated,
            "{malformed}"
        );
        // A certificate with an invalid URI is refused even when its DNS name is a principal.
        assert_eq!(
            of(&[malformed], &["admin.test"]).await,
            CallResult::Unauthenticated,
            "{malformed} with a DNS name"
        );
    }
    for several in [
        [pki::ADMIN, "spiffe://test/other"],
        ["spiffe://test/other", pki::ADMIN],
        [pki::ADMIN, pki::ADMIN],
        [pki::ADMIN, "https://test/admin"],
    ] {
        assert_eq!(
            of(&several, &[]).await,
            CallResult::Unauthenticated,
            "{several:?}"
        );
    }
    assert_eq!(of(&[], &[]).await, CallResult::Unauthenticated);
    for names in [
        &["admin.test", "other.test"][..],
        &["*.test"],
        &["Admin.test"],
        &["admin.test."],
    ] {
        assert_eq!(of(&[], names).await, CallResult::Unauthenticated, "{names:?}");
    }
    for name in ["xadmin.test", "admin.test.evil", "admin"] {
        assert_eq!(of(&[], &[name]).await, CallResult::Denied, "{name}");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_similar_to_the_injector_decrypts_nothing() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    for suffix in ["-evil", "/x", "s", "."] {
        let mut client = DecryptServiceClient::new(vault.channel(&format!("{}{suffix}", pki::INJECTOR)));
        let request = DecryptRequest {
            workspace: "w".into(),
            names: vec!["NAME".into()],
            ..Default::default()
        };
        assert_eq!(
            client.decrypt(request).await.unwrap_err().code(),
            Code::PermissionDenied,
            "{suffix}"
        );
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_connects_only_to_the_service_with_the_expected_identity() {
    let vault = Vault::start().await;
    let admin = vault.pki.principal(pki::ADMIN);
    for (name, expected) in [
        (pki::VAULT, CallResult::Served),
        ("spiffe://test/vault-evil", CallResult::NoConnection),
        ("spiffe://other/vault", CallResult::NoConnection),
        (pki::INJECTOR, CallResult::NoConnection),
        // The certificate also has this DNS name, and the URI in it takes precedence.
        ("dns:localhost", CallResult::NoConnection),
    ] {
        assert_eq!(
            call_result(&vault.pki.channel(&admin, vault.address, name)).await,
            expected,
            "{name}"
        );
    }
    assert_eq!(
        call_result(&Pki::new().channel(&admin, vault.address, pki::VAULT)).await,
        CallResult::NoConnection,
        "another CA"
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_during_a_connection_is_refused_from_the_next_call_on() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let short = |id: &str| Leaf {
        uris: vec![id.to_owned()],
        not_after: SystemTime::now() + Duration::from_secs(4),
        ..admin_leaf()
    };
    let admin = with(&vault, &vault.pki.leaf(&short(pki::ADMIN)));
    let mut injector = DecryptServiceClient::new(with(&vault, &vault.pki.leaf(&short(pki::INJECTOR))));
    let (calls, queue) = mpsc::channel(1);
    let mut answers = injector
        .decrypt_stream(ReceiverStream::new(queue))
        .await
        .unwrap()
        .into_inner();
    let mut streamed = async || {
        let request = DecryptRequest {
            workspace: "w".into(),
            names: vec!["NAME".into()],
            ..Default::default()
        };
        let calls_of_one = vec![DecryptCall {
            id: 1,
            request: Some(request),
        }];
        calls
            .send(DecryptStreamRequest {
                calls: calls_of_one,
                recipient: None,
            })
            .await
            .unwrap();
        let mut message = timeout(e2e::PATIENCE, answers.message())
            .await
            .expect("no answer")
            .unwrap()
            .expect("the stream ended");
        match message.answers.pop().unwrap().outcome.unwrap() {
            Outcome::Response(_) => Code::Ok,
            Outcome::Error(error) => Code::from(error.code),
        }
    };
    assert_eq!(call_result(&admin).await, CallResult::Served);
    assert_eq!(streamed().await, Code::Ok);
    // A new connection would fail with `NoConnection`, so this refusal comes over the existing connection.
    eventually("the certificate counts no more", async || {
        call_result(&admin).await != CallResult::Served
    })
    .await;
    assert_eq!(call_result(&admin).await, CallResult::Unauthenticated);
    eventually("nor on a stream that was open before", async || {
        streamed().await == Code::Unauthenticated
    })
    .await;
    assert_eq!(
        call_result(&with(
            &vault,
            &vault.pki.leaf(&Leaf {
                not_after: SystemTime::now() - Duration::from_secs(2),
                ..admin_leaf()
            })
        ))
        .await,
        CallResult::NoConnection
    );
    vault.stop().await;
}

// TLS versions and session tickets.

#[tokio::test(flavor = "multi_thread")]
async fn tls_before_1_3_is_refused() {
    let pair = Pair::start().await;
    for address in [pair.vault.address, pair.injector.address] {
        for (version, taken) in [(&rustls::version::TLS13, true), (&rustls::version::TLS12, false)] {
            let config = Arc::new(wire::anonymous_tls(&pair.vault.pki, &[version]));
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let shaken = timeout(e2e::PATIENCE, TlsConnector::from(config).connect(name, stream))
                .await
                .expect("it hangs");
            assert_eq!(shaken.is_ok(), taken, "{version:?}: {:?}", shaken.err());
        }
    }
    pair.stop().await;
}

/// A session store that counts the tickets of servers.
#[derive(Debug, Default)]
struct Tickets(AtomicUsize);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

fn collecting(pki: &Pki) -> (Arc<Tickets>, Arc<ClientConfig>) {
    let tickets = Arc::new(Tickets::default());
    let mut config = wire::anonymous_tls(pki, &[&rustls::version::TLS13]);
    config.resumption = Resumption::store(tickets.clone());
    (tickets, Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_can_be_resumed() {
    let pair = Pair::start().await;
    for address in [pair.vault.address, pair.injector.address] {
        let (tickets, config) = collecting(&pair.vault.pki);
        let channel = channel(&address.to_string().parse().unwrap(), config).unwrap();
        wire::open(&channel, "/grpc.health.v1.Health/Check", Bytes::new())
            .await
            .unwrap();
        assert_eq!(tickets.0.load(Ordering::Relaxed), 0);
    }
    assert!(
        tickets_of_an_ordinary_server(&pair.vault.pki).await > 0,
        "this test would not see tickets"
    );
    pair.stop().await;
}

async fn tickets_of_an_ordinary_server(pki: &Pki) -> usize {
    let files = pki.principal(pki::VAULT);
    let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let (tickets, config) = collecting(pki);
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    stream.read_u8().await.unwrap();
    tickets.0.load(Ordering::Relaxed)
}

// Scopes.

/// Returns the parts of a refusal by which a caller could distinguish it from another one.
fn seen<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String, Vec<u8>) {
    let status = answer.unwrap_err();
    (
        status.code(),
        status.message().to_owned(),
        status.details().to_vec(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_of_some_workspaces_may_not_administer_the_whole_vault() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.admin.push(format!("{EDITOR}=mine,also-mine"));
    })
    .await;
    vault.workspace("mine").await;
    let some = vault.channel(EDITOR);
    assert_eq!(call_result(&some).await, CallResult::Served);
    for method in ["ExportBackup", "RestoreBackup"] {
        let path = format!("/vault.v1.BackupService/{method}");
        let refused = wire::open(&some, &path, Bytes::new()).await.map(drop);
        let other = wire::open(&vault.channel(STRANGER), &path, Bytes::new())
            .await
            .map(drop);
        assert_eq!(seen(refused), seen(other), "{method}");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_of_one_workspace_can_neither_change_another_nor_learn_that_it_exists() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.editor = vec![format!("{EDITOR}=mine,also-mine")];
        settings.roles.viewer = vec![format!("{EDITOR}=read-only")];
    })
    .await;
    for workspace in ["mine", "also-mine", "read-only", "theirs"] {
        vault.workspace(workspace).await;
        vault.put(workspace, "NAME", "v").await;
    }
    let editor = SecretServiceClient::new(vault.channel(EDITOR));
    let all = async |workspace: &str, secret: &str| {
        let (mut editor, owned, name) = (editor.clone(), workspace.to_owned(), secret.to_owned());
        let value = Some(Value::Text("x".into()));
        let put = PutSecretRequest {
            workspace: owned.clone(),
            name: name.clone(),
            value,
            ..Default::default()
        };
        let list = ListSecretsRequest {
            workspace: owned.clone(),
            ..Default::default()
        };
        let metadata = GetSecretMetadataRequest {
            workspace: owned.clone(),
            name: name.clone(),
        };
        let versions = ListSecretVersionsRequest {
            workspace: owned.clone(),
            name: name.clone(),
            ..Default::default()
        };
        let restore = RestoreSecretVersionRequest {
            workspace: owned.clone(),
            name: name.clone(),
            version: 1,
            ..Default::default()
        };
        let delete = DeleteSecretRequest {
            workspace: owned,
            name,
            ..Default::default()
        };
        [
            editor.put_secret(put).await.map(drop),
            editor.list_secrets(list).await.map(drop),
            editor.get_secret_metadata(metadata).await.map(drop),
            editor.list_secret_versions(versions).await.map(drop),
            editor.restore_secret_version(restore).await.map(drop),
            editor.delete_secret(delete).await.map(drop),
        ]
    };
    for mine in ["mine", "also-mine"] {
        all(mine, "NAME").await.into_iter().for_each(Result::unwrap);
    }
    let [put, list, metadata, versions, restore, delete] = all("read-only", "NAME").await;
    assert!(list.is_ok() && metadata.is_ok() && versions.is_ok());
    for refusal in [put, restore, delete] {
        assert_eq!(seen(refusal).0, Code::PermissionDenied);
    }
    let nowhere = all("nowhere", "NAME").await.map(seen);
    assert!(
        nowhere
            .iter()
            .all(|refusal| *refusal == nowhere[0] && refusal.0 == Code::PermissionDenied),
        "{nowhere:?}"
    );
    assert_eq!(all("theirs", "NAME").await.map(seen), nowhere);
    assert_eq!(all("theirs", "MISSING").await.map(seen), nowhere);
    assert_eq!(
        all("min", "NAME").await.map(seen),
        nowhere,
        "a prefix of a workspace"
    );
    let request = GetSecretMetadataRequest {
        workspace: "theirs".into(),
        name: "NAME".into(),
    };
    let secret = vault
        .secrets()
        .get_secret_metadata(request)
        .await
        .unwrap()
        .into_inner()
        .secret
        .unwrap();
    assert_eq!(secret.version, 1);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_of_some_workspaces_can_neither_see_nor_change_others() {
    let lead = "spiffe://test/lead";
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.admin.push(format!("{lead}=b,d,not-yet"))
    })
    .await;
    for workspace in ["a", "b", "c", "d"] {
        vault.workspace(workspace).await;
    }
    let mut client = WorkspaceServiceClient::new(vault.channel(lead));
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = client
            .list_workspaces(ListWorkspacesRequest {
                page_size: 1,
                page_token,
            })
            .await
            .unwrap()
            .into_inner();
        names.extend(page.workspaces.into_iter().map(|workspace| workspace.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["b", "d"]);
    let mut all = async |name: &str| {
        let workspace = || {
            Some(Workspace {
                name: name.to_owned(),
                plan: 2,
                ..Default::default()
            })
        };
        let update_mask = Some(prost_types::FieldMask {
            paths: vec!["plan".into()],
        });
        [
            client
                .create_workspace(CreateWorkspaceRequest {
                    workspace: workspace(),
                })
                .await
                .map(drop),
            client
                .get_workspace(GetWorkspaceRequest {
                    name: name.to_owned(),
                })
                .await
                .map(drop),
            client
                .update_workspace(UpdateWorkspaceRequest {
                    workspace: workspace(),
                    update_mask,
                })
                .await
                .map(drop),
            client
                .delete_workspace(DeleteWorkspaceRequest {
                    name: name.to_owned(),
                    ..Default::default()
                })
                .await
                .map(drop),
        ]
    };
    let theirs = all("a").await.map(seen);
    assert!(
        theirs
            .iter()
            .all(|refusal| *refusal == theirs[0] && refusal.0 == Code::PermissionDenied),
        "{theirs:?}"
    );
    assert_eq!(all("nowhere").await.map(seen), theirs);
    all("not-yet").await.into_iter().for_each(Result::unwrap);
    let made = vault
        .workspaces()
        .list_workspaces(ListWorkspacesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        made.workspaces
            .iter()
            .map(|workspace| workspace.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b", "c", "d"]
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_of_one_workspace_cannot_change_the_servers_of_another() {
    let pair = Pair::start_with(
        |_| {},
        |settings| settings.roles.editor = vec![format!("{EDITOR}=mine")],
    )
    .await;
    for workspace in ["mine", "theirs"] {
        pair.vault.workspace(workspace).await;
        pair.vault.put(workspace, "NAME", "v").await;
        pair.injector
            .add(server(workspace, "s", "http://127.0.0.1:9", &["NAME"]))
            .await;
    }
    let editor = ServerServiceClient::new(pair.injector.channel(EDITOR));
    let all = async |workspace: &str, name: &str| {
        let (mut editor, workspace, name) = (editor.clone(), workspace.to_owned(), name.to_owned());
        let given = || Some(server(&workspace, &name, "http://127.0.0.1:9", &["NAME"]));
        let update_mask = Some(prost_types::FieldMask {
            paths: vec!["description".into()],
        });
        let list = ListServersRequest {
            workspace: workspace.clone(),
            ..Default::default()
        };
        let get = GetServerRequest {
            workspace: workspace.clone(),
            name: name.clone(),
        };
        let explain = ExplainInjectionRequest {
            workspace: workspace.clone(),
            name: name.clone(),
        };
        let remove = RemoveServerRequest {
            workspace: workspace.clone(),
            name: name.clone(),
            revision: 0,
        };
        [
            editor
                .add_server(AddServerRequest {
                    server: given(),
                    ..Default::default()
                })
                .await
                .map(drop),
            editor
                .update_server(UpdateServerRequest {
                    server: given(),
                    update_mask,
                })
                .await
                .map(drop),
            editor.list_servers(list).await.map(drop),
            editor.get_server(get).await.map(drop),
            editor.explain_injection(explain).await.map(drop),
            editor.remove_server(remove).await.map(drop),
        ]
    };
    let theirs = all("theirs", "s").await.map(seen);
    assert!(
        theirs
            .iter()
            .all(|refusal| *refusal == theirs[0] && refusal.0 == Code::PermissionDenied),
        "{theirs:?}"
    );
    assert_eq!(all("theirs", "missing").await.map(seen), theirs);
    assert_eq!(all("nowhere", "s").await.map(seen), theirs);
    let listed = editor
        .clone()
        .list_servers(ListServersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .servers;
    assert_eq!(
        listed
            .iter()
            .map(|server| server.workspace.as_str())
            .collect::<Vec<_>>(),
        ["mine"]
    );
    all("mine", "new").await.into_iter().for_each(Result::unwrap);
    let kept = pair
        .injector
        .servers()
        .list_servers(ListServersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .servers;
    let kept: Vec<_> = kept
        .iter()
        .map(|server| (server.workspace.as_str(), server.name.as_str()))
        .collect();
    assert_eq!(kept, [("mine", "s"), ("theirs", "s")]);
    pair.stop().await;
}

// Settings.

#[test]
fn settings_that_let_one_principal_administer_and_decrypt_are_refused() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let base = vault_settings(&pki, &dir);
    assert!(base.clone().check().is_ok());
    let both = |edit: &dyn Fn(&mut vault_service::config::Settings)| {
        let mut settings = base.clone();
        edit(&mut settings);
        let report = settings.check().map(drop).unwrap_err().to_string();
        assert!(
            report.contains("no principal may both administer and decrypt"),
            "{report}"
        );
    };
    both(&|settings| settings.injector = vec![format!("{}=*", pki::ADMIN)]);
    both(&|settings| settings.injector.push(format!("{}=other", pki::ADMIN)));
    both(&|settings| settings.roles.editor = vec![format!("{}=w", pki::INJECTOR)]);
    both(&|settings| settings.roles.viewer = vec![format!("{}=w", pki::INJECTOR)]);
}

#[test]
fn every_mistake_in_the_vaults_settings_is_reported_at_once() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let mut settings = vault_settings(&pki, &dir);
    settings.listen = "nowhere".to_owned();
    settings.metrics_listen = "127.0.0.1".to_owned();
    settings.data_dir = None;
    settings.cache_mib = "lots".to_owned();
    settings.root.root_key_file = vec![dir.path().join("missing.key")];
    settings.tls.tls_cert = Some("/dev/null".into());
    settings.tls.client_ca = Some(dir.path().join("missing.pem"));
    settings.roles.admin = vec!["admin".to_owned(), "spiffe://test/x=NOT-A-LABEL".to_owned()];
    settings.roles.editor = vec!["spiffe://test/x".to_owned()];
    settings.process.shutdown_grace = "soon".to_owned();
    let report = settings.check().map(drop).unwrap_err().to_string();
    for part in [
        "--listen: ",
        "--metrics-listen: ",
        "--data-dir: is required",
        "--cache-mib: ",
        "--root-key-file: ",
        "--tls-cert: ",
        "--client-ca: ",
        "--admin: \"admin\"",
        "--admin: \"spiffe://test/x=NOT-A-LABEL\"",
        "--editor: ",
        "--shutdown-grace: ",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
}

#[test]
fn every_mistake_in_the_injectors_settings_is_reported_at_once() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let mut settings = injector_settings(
        &pki,
        dir.path().join("servers.yaml"),
        "127.0.0.1:1".parse().unwrap(),
    );
    settings.listen = "nowhere".to_owned();
    settings.data_plane_listen = "0.0.0.0:0".to_owned();
    settings.listen_server = vec!["127.0.0.1:0".to_owned()];
    settings.servers = None;
    let catalog = dir.path().join("catalog.yaml");
    let entries = "[{name: one, url: 'ftp://a.example'}, {name: '@a/two', url: 'http://a.example'}]";
    fs::write(&catalog, format!("version: 1\nservers: {entries}\n")).unwrap();
    settings.catalog = Some(catalog);
    settings.vault = "https://vault".to_owned();
    settings.vault_id = Some("vault".to_owned());
    settings.limits.vault_timeout = "2".to_owned();
    settings.tls.tls_key = None;
    settings.roles.viewer = vec!["dns:x".to_owned()];
    settings.host = vec!["not a name".to_owned()];
    settings.limits.max_connections = "many".to_owned();
    let report = settings.check().map(drop).unwrap_err().to_string();
    for part in [
        "--listen: ",
        "--data-plane-listen: ",
        "--listen-server: ",
        "--servers: is required",
        "--catalog: ",
        "line 2, entry 1: name: ",
        "line 2, entry 1: url: ",
        "line 2, @a/two: url: ",
        "--vault: ",
        "--vault-id: ",
        "--vault-timeout: ",
        "--tls-key: is required",
        "--viewer: ",
        "--host: ",
        "--max-connections: ",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
}

#[test]
fn a_development_ca_is_refused_on_an_address_that_is_not_loopback() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let development = DevPki::ensure(dir.path()).unwrap();
    for (listen, taken) in [
        ("127.0.0.1:0", true),
        ("[::1]:0", true),
        ("0.0.0.0:0", false),
        ("[::]:0", false),
        ("192.0.2.1:0", false),
    ] {
        let mut vault = vault_settings(&pki, &dir);
        (vault.listen, vault.tls.client_ca) = (listen.to_owned(), Some(development.ca.clone()));
        let mut injector = injector_settings(
            &pki,
            dir.path().join("servers.yaml"),
            "127.0.0.1:1".parse().unwrap(),
        );
        (injector.listen, injector.tls.client_ca) = (listen.to_owned(), Some(development.ca.clone()));
        for report in [vault.check().map(drop).err(), injector.check().map(drop).err()] {
            assert_eq!(report.is_none(), taken, "{listen}: {report:?}");
            assert!(
                report.is_none_or(|report| report.to_string().contains("development CA")),
                "{listen}"
            );
        }
    }
}
