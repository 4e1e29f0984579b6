//! Every method with every role.

use super::*;

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
