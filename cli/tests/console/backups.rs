//! Backups: the download, and the restore into an empty vault.

use std::{fs, time::Instant};

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use proto::vault::v1::{
    PutSecretRequest, put_secret_request::Value, secret_service_client::SecretServiceClient,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    browser::{Answer, Browser, Console, FORM_WITH_FILE, between, multipart},
    support::dev::PATIENCE,
};

const NO_BACKUP: &str = "The file is not a backup of a vault";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

async fn with_secret(console: &Console) -> Browser {
    let mut browser = console.signed_in().await;
    browser
        .change("/workspaces", &[("name", "w"), ("plan", "enterprise")])
        .await;
    browser
        .change("/w/w/secrets", &[("name", "A"), ("value", "1")])
        .await;
    browser
}

/// Starts a console for an empty vault with the same root key.
async fn empty_vault_like(console: &Console) -> (Console, Browser) {
    let key = fs::read(console.dev.dir.join("root.key")).unwrap();
    let empty = Console::start_with_root_key(key).await;
    let browser = empty.signed_in().await;
    (empty, browser)
}

async fn download(browser: &Browser) -> Vec<u8> {
    let form = format!("csrf={}", browser.csrf).into_bytes();
    let answer = browser.request(Method::POST, "/backup/make", &[FORM], form).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap().to_bytes().to_vec()
}

/// Puts more than the connections between the vault and the browser buffer.
async fn put_much(console: &Console) {
    const SECRETS: usize = 600;
    let mut client = SecretServiceClient::new(console.dev.admin());
    for number in 0..SECRETS {
        let request = PutSecretRequest {
            workspace: "w".to_owned(),
            name: format!("KEY_{number}"),
            value: Some(Value::Text("x".repeat(60_000))),
            ..Default::default()
        };
        client.put_secret(request).await.unwrap();
    }
}

fn digest(backup: &[u8]) -> String {
    let digest = Sha256::digest(backup);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn restore(browser: &mut Browser, backup: &[u8]) -> Answer {
    let csrf = browser.csrf.clone();
    browser
        .upload("/backup/restore", &[("csrf", csrf.as_bytes()), ("file", backup)])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downloaded_backup_is_restored_into_an_empty_vault() {
    let console = Console::start().await;
    let mut browser = with_secret(&console).await;
    let form = format!("csrf={}", browser.csrf).into_bytes();
    let answer = browser.request(Method::POST, "/backup/make", &[FORM], form).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let disposition = header("content-disposition");
    assert!(
        disposition.starts_with("attachment; filename=\"vault-") && disposition.ends_with(".backup\""),
        "{disposition}"
    );
    assert_eq!(header("cache-control"), "no-store");
    let backup = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(backup.starts_with(b"aerostack backup"));
    let shown = browser.get("/backup/live").await;
    assert!(
        shown.has("was sent completely") && shown.has(&digest(&backup)),
        "{}",
        shown.text
    );

    let (_empty, mut other) = empty_vault_like(&console).await;
    assert!(other.get("/backup").await.has("action=\"/backup/restore\""));
    let answer = restore(&mut other, &backup).await;
    assert_eq!(answer.leads_to(), "/");
    let page = other.get("/").await;
    assert!(
        page.has("was restored: 1 workspace, 1 secret in 1 version.") && page.has("/w/w/secrets"),
        "{}",
        page.text
    );
    // The vault is no longer empty.
    let page = other.get("/backup").await;
    assert!(
        page.has("into an empty vault only") && !page.has("/backup/restore"),
        "{}",
        page.text
    );
    let again = restore(&mut other, &backup).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(again.has("The vault has workspaces"), "{}", again.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_whole_backup_changes_nothing() {
    let console = Console::start().await;
    let browser = with_secret(&console).await;
    let backup = download(&browser).await;
    let (_empty, mut other) = empty_vault_like(&console).await;
    let cut_off = &backup[..backup.len() - 1];
    let mut changed = backup.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (file, status, text) in [
        (cut_off, 400, "The backup is damaged, or not whole"),
        (&changed, 400, "Take another copy of the backup"),
        (b"hello".as_slice(), 422, NO_BACKUP),
        (b"", 422, "Choose the file of the backup"),
    ] {
        let answer = restore(&mut other, file).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
        assert!(answer.has(text), "{}", answer.text);
        assert!(other.get("/").await.has("Make the first workspace"));
    }
    // A file of many megabytes that the vault refuses at its beginning is read to its end, so that the browser sees the answer.
    let large = vec![b'x'; 40 * 1024 * 1024];
    let answer = restore(&mut other, &large).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.has(NO_BACKUP), "{}", answer.text);
    assert_eq!(restore(&mut other, &backup).await.leads_to(), "/");
}

/// The vault restores a backup as soon as it has all bytes of the file, so the end of the form decides nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_reported_when_the_end_of_the_form_is_missing() {
    let console = Console::start().await;
    let browser = with_secret(&console).await;
    let backup = download(&browser).await;
    let (_empty, mut other) = empty_vault_like(&console).await;
    let form = multipart(&[("csrf", other.csrf.as_bytes()), ("file", &backup)]);
    // The boundary after the file breaks off in its middle.
    let broken_off = &form[..form.len() - 8];
    let mut stream = TcpStream::connect(other.host()).await.unwrap();
    let head = format!(
        "POST /backup/restore HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\ncontent-type: {}\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n",
        other.host(),
        other.cookie.as_deref().unwrap(),
        FORM_WITH_FILE.1,
        broken_off.len()
    );
    stream
        .write_all(&[head.as_bytes(), broken_off, b"\r\n"].concat())
        .await
        .unwrap();
    // The console reads the file while it answers these.
    for _ in 0..20 {
        other.get("/backup").await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let page = other.get("/").await;
    assert_eq!(
        answer.contains("Nothing was changed"),
        !page.has("/w/w/secrets"),
        "{answer}"
    );
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert!(page.has("was restored: 1 workspace"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_without_the_token_before_the_file_is_not_made() {
    let console = Console::start().await;
    let browser = with_secret(&console).await;
    let backup = download(&browser).await;
    let (_empty, mut other) = empty_vault_like(&console).await;
    let csrf = other.csrf.clone();
    let forms: [&[(&str, &[u8])]; 4] = [
        &[("file", &backup)],
        &[("csrf", b"x"), ("file", &backup)],
        &[("csrf", &[b'x'; 10_000]), ("file", &backup)],
        &[("file", &backup), ("csrf", csrf.as_bytes())],
    ];
    for form in forms {
        let answer = other.upload("/backup/restore", form).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
    }
    let answer = other.post("/backup/restore", &[]).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(other.get("/").await.has("Make the first workspace"));
    let answer = browser
        .request(Method::POST, "/backup/make", &[FORM], b"csrf=x".to_vec())
        .await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_ends_with_its_session() {
    let console = Console::start().await;
    let mut browser = with_secret(&console).await;
    put_much(&console).await;
    let form = format!("csrf={}", browser.csrf).into_bytes();
    let answer = browser.request(Method::POST, "/backup/make", &[FORM], form).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    browser.post("/sign-out", &[]).await;
    let ended = body.collect().await;
    assert!(ended.is_err(), "the download looks whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_breaks_off_does_not_look_whole() {
    let mut console = Console::start().await;
    let mut browser = with_secret(&console).await;
    put_much(&console).await;
    let form = format!("csrf={}", browser.csrf).into_bytes();
    let answer = browser.request(Method::POST, "/backup/make", &[FORM], form).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("content-length"));
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    console.dev.child.kill().unwrap();
    console.dev.wait().await;
    let ended = body.collect().await;
    assert!(ended.is_err(), "the download looks whole");
    let started = Instant::now();
    let shown = loop {
        let shown = browser.get("/backup/live").await;
        if !shown.has("is being made") {
            break shown;
        }
        assert!(started.elapsed() < PATIENCE, "{}", shown.text);
    };
    assert!(shown.has("is not whole, throw it away"), "{}", shown.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_download_of_a_session_keeps_its_own_state() {
    let console = Console::start().await;
    let mut browser = with_secret(&console).await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let form = format!("csrf={}", browser.csrf).into_bytes();
        let answer = browser.request(Method::POST, "/backup/make", &[FORM], form).await;
        let disposition = answer.headers()["content-disposition"].to_str().unwrap();
        let name = between(disposition, "filename=\"", "\"").to_owned();
        let backup = answer.into_body().collect().await.unwrap().to_bytes();
        made.push((name, digest(&backup)));
    }
    let shown = browser.get("/backup/live").await;
    assert_eq!(
        shown.text.matches("was sent completely").count(),
        2,
        "{}",
        shown.text
    );
    for (name, digest) in &made {
        let (_, rest) = shown.text.split_once(&format!(">{name}<")).unwrap();
        assert_eq!(between(rest, "<code class=\"key-id\">", "<"), digest);
    }
}
