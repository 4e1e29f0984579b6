//! Tokens of clients appear in no log, metric, response or audit log.

use std::time::Duration;

use e2e::{Injector, Pki, TokenIssuer, Vault, issuer::replace_file};
use proto::vault::v1::{ListWorkspacesRequest, workspace_service_client::WorkspaceServiceClient};
use tonic::Request;

use super::*;

const ACCOUNT: &str = "system:serviceaccount:dev:web";
const ADMIN_ACCOUNT: &str = "system:serviceaccount:dev:admin";

/// Returns the signature of a token: it is secret as long as the token is valid, and nothing else has it.
fn signature(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

#[tokio::test]
async fn no_log_metric_or_response_contains_a_token() {
    let (log, dir, pki) = (log(), TempDir::new().unwrap(), Pki::new());
    let issuer = TokenIssuer::start(&pki).await;
    let (reader, own) = (dir.path().join("reader"), dir.path().join("own"));
    // The token by which the vault reads the key set, and the one of the injector.
    issuer.require(SECRET);
    replace_file(&reader, SECRET);
    let injector_token = issuer.token(ACCOUNT, Duration::from_secs(600));
    replace_file(&own, &injector_token);
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.jwt.jwt_issuer = vec![format!("{},token={}", issuer.setting(), reader.display())];
        settings.roles.admin.push(ADMIN_ACCOUNT.to_owned());
        settings.injector.push(format!("{ACCOUNT}=*"));
        settings.audit.audit_log = Some(audit_log(&dir));
    })
    .await;
    let injector = Injector::start_with(pki.clone(), vault.address, |settings| {
        (settings.vault_cert, settings.vault_key) = (None, None);
        settings.vault_token_file = Some(own.clone());
    })
    .await;
    injector.ready().await;

    let admin_token = issuer.token(ADMIN_ACCOUNT, Duration::from_secs(600));
    let changed = format!("{}{SENT}", &admin_token[..admin_token.len() - 20]);
    let mut heard = Responses::default();
    for (token, is_served) in [
        (admin_token.as_str(), true),
        (injector_token.as_str(), false),
        (changed.as_str(), false),
        (SENT, false),
    ] {
        let mut request = Request::new(ListWorkspacesRequest::default());
        let mut value: tonic::metadata::AsciiMetadataValue = format!("Bearer {token}").parse().unwrap();
        // The client is in this process, and its log counts too.
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        let mut client = WorkspaceServiceClient::new(vault.channel(pki::ADMIN));
        let answer = client.list_workspaces(request).await;
        assert_eq!(heard.rpc(answer), is_served, "{token}");
    }
    // A renewed token, and a file that is none.
    let renewed = issuer.token(ACCOUNT, Duration::from_secs(1_200));
    replace_file(&own, &renewed);
    eventually("the token is renewed", async || {
        log.text().matches("the token was read again").count() > 0
    })
    .await;
    replace_file(&own, &format!("{SENT} {SENT}"));
    eventually("the file is not used", async || {
        log.text().contains("the token file cannot be used")
    })
    .await;
    for address in [vault.metrics, injector.metrics] {
        heard.answer(&get(&format!("http://{address}/metrics")).await);
        heard.answer(&get(&format!("http://{address}/readyz")).await);
    }
    injector.stop().await;
    vault.stop().await;

    let audit = std::fs::read_to_string(audit_log(&dir)).unwrap();
    assert!(audit.contains(&format!("#{ADMIN_ACCOUNT}")), "{audit}");
    let text = log.text();
    assert!(text.contains("token refused"));
    for (place, said) in [
        ("an answer", heard.0.join("\n")),
        ("the audit log", audit),
        ("a log", text),
    ] {
        assert_eq!(leaks(&said), Vec::<String>::new(), "in {place}");
        for token in [&injector_token, &admin_token, &renewed] {
            assert!(!said.contains(signature(token)), "in {place}");
        }
    }
}
