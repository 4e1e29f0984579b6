//! Tests of servers that are added from the catalog.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use e2e::{Pair, Upstream, pki};
use proto::injector::v1::{
    AuthType, ListCatalogEntriesRequest, ListCatalogEntriesResponse, Oauth, OnEcho, Protocol, Scrub, Server,
    catalog_service_client::CatalogServiceClient,
};
use tempfile::TempDir;
use tonic::{Code, Status};

use super::{URL, get, secret_header, why};

pub(super) const EDITOR: &str = "spiffe://test/editor";
pub(super) const VIEWER: &str = "spiffe://test/viewer";

/// Both services, with the workspaces `dev` and `ops`, an editor and a viewer of `dev`, and a catalog.
pub(super) struct Shop {
    pub(super) pair: Pair,
    dir: TempDir,
}

impl Shop {
    /// Starts the services with these entries in the catalog.
    pub(super) async fn open(entries: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("catalog.yaml");
        write(&path, entries);
        let pair = with_roles(Some(path)).await;
        Self { pair, dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("catalog.yaml")
    }

    async fn add(&self, entry: &str, server: Server) -> Result<Server, Status> {
        self.pair.injector.try_add_from(entry, server).await
    }

    /// Adds a server with only the name of an entry, and returns the refusal.
    async fn refused(&self, entry: &str) -> ((Code, String), String) {
        let status = self.add(entry, dev()).await.unwrap_err();
        (why(&status), status.message().to_owned())
    }

    pub(super) async fn list_as(
        &self,
        who: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<Listed, Status> {
        list(&self.pair, who, page_size, page_token).await
    }
}

/// The names on a page, and the token of the next page.
pub(super) type Listed = (Vec<String>, String);

pub(super) async fn with_roles(catalog: Option<PathBuf>) -> Pair {
    let pair = Pair::start_with(
        |_| {},
        |settings| {
            settings.catalog = catalog;
            settings.roles.editor = vec![format!("{EDITOR}=dev")];
            settings.roles.viewer = vec![format!("{VIEWER}=dev")];
        },
    )
    .await;
    pair.vault.workspace("dev").await;
    pair.vault.workspace("ops").await;
    pair
}

fn write(path: &PathBuf, entries: &str) {
    fs::write(path, format!("version: 1\nservers:\n{entries}")).unwrap();
}

pub(super) fn entry(name: &str, url: &str) -> String {
    format!("- name: '{name}'\n  url: {url}\n")
}

/// Returns a server of the workspace `dev` without any other field.
fn dev() -> Server {
    Server {
        workspace: "dev".into(),
        ..Default::default()
    }
}

async fn list(pair: &Pair, who: &str, page_size: u32, page_token: &str) -> Result<Listed, Status> {
    let request = ListCatalogEntriesRequest {
        page_size,
        page_token: page_token.into(),
    };
    let mut client = CatalogServiceClient::new(pair.injector.channel(who));
    let ListCatalogEntriesResponse {
        entries,
        next_page_token,
    } = client.list_catalog_entries(request).await?.into_inner();
    let names = entries.into_iter().map(|entry| entry.name).collect();
    Ok((names, next_page_token))
}

fn not_found() -> (Code, String) {
    (Code::NotFound, "CATALOG_ENTRY_NOT_FOUND".into())
}

fn invalid() -> (Code, String) {
    (Code::FailedPrecondition, "CATALOG_INVALID".into())
}

#[tokio::test]
async fn a_server_is_added_by_the_name_of_a_catalog_entry_and_serves_calls() {
    let upstream = Upstream::start().await;
    let shop = Shop::open(&format!(
        "{}  secrets: [suggested]\n",
        entry("@aerostack/github", &upstream.url())
    ))
    .await;
    shop.pair.vault.put("dev", "GITHUB_TOKEN", "tok-1").await;
    shop.pair.vault.put("dev", "SUGGESTED", "not-asked-for").await;
    let given = Server {
        inject_secrets: vec!["github-token".into()],
        ..dev()
    };
    let added = shop.add("@aerostack/github", given).await.unwrap();
    assert_eq!((added.name.as_str(), added.revision), ("github", 1));
    assert_eq!(added.inject_secrets, ["GITHUB_TOKEN"]);
    assert_eq!(get(&shop.pair.injector, "github").await.unwrap(), added);

    assert_eq!(shop.pair.injector.get("/dev/github/").await.status(), 200);
    let seen = upstream.last();
    assert_eq!(seen.secret_headers(), ["x-mcp-secret-github-token"]);
    assert_eq!(seen.header("x-mcp-secret-github-token"), Some("tok-1"));

    let again = shop.add("@aerostack/github", dev()).await.unwrap_err();
    assert_eq!(why(&again), (Code::AlreadyExists, "SERVER_EXISTS".into()));
    shop.pair.stop().await;
}

#[tokio::test]
async fn fields_of_the_request_win_over_those_of_the_entry() {
    let shop = Shop::open(&format!(
        "{}  auth_type: bearer\n  protocol: http2\n  tls: {{server_name: other.example}}\n  description: Mail\n",
        entry("@tools/mail", "https://mail.example/v1")
    ))
    .await;
    let given = Server {
        name: "first".into(),
        inject_secrets: vec!["A".into()],
        ..dev()
    };
    let as_it_is = shop.add("@tools/mail", given.clone()).await.unwrap();
    assert_eq!(
        (
            as_it_is.name.as_str(),
            as_it_is.url.as_str(),
            as_it_is.description.as_str()
        ),
        ("first", "https://mail.example/v1", "Mail")
    );
    assert_eq!(
        (as_it_is.auth_type(), as_it_is.protocol()),
        (AuthType::Bearer, Protocol::Http2)
    );
    assert_eq!(as_it_is.tls.unwrap().server_name, "other.example");

    let given = Server {
        name: "second".into(),
        url: URL.into(),
        auth_type: AuthType::SecretHeaders.into(),
        protocol: Protocol::Auto.into(),
        oauth: Oauth::Replace.into(),
        inject_secrets: vec!["A".into(), "B".into()],
        description: "mine".into(),
        ..given
    };
    let mine = shop.add("@tools/mail", given.clone()).await.unwrap();
    let expected = Server {
        uid: mine.uid.clone(),
        revision: 1,
        create_time: mine.create_time,
        update_time: mine.update_time,
        workspace_uid: mine.workspace_uid.clone(),
        injections: vec![secret_header("a", false), secret_header("b", false)],
        scrub: Scrub::Headers.into(),
        on_echo: OnEcho::Mask.into(),
        ..given
    };
    assert_eq!(mine, expected);
    shop.pair.stop().await;
}

#[tokio::test]
async fn a_server_from_an_entry_is_validated_like_any_other() {
    let shop = Shop::open(&format!(
        "{}  auth_type: bearer\n{}  allow_plaintext: true\n",
        entry("@a/bearer", URL),
        entry("@a/plain", "http://10.0.0.1"),
    ))
    .await;
    // Only the complete server shows the mistake: a server with bearer authentication has exactly one secret.
    assert_eq!(
        shop.refused("@a/bearer").await.0,
        (Code::InvalidArgument, "SERVER_INVALID".into())
    );
    // The URL is that of the injector's own listener, which was unknown when the catalog was read.
    let listener = format!("http://{}", shop.pair.injector.data_plane);
    write(&shop.file(), &entry("@a/ourselves", &listener));
    assert_eq!(
        shop.refused("@a/ourselves").await.0,
        (Code::FailedPrecondition, "UPSTREAM_ADDRESS_REFUSED".into())
    );
    // The permission to send secrets in cleartext applies only to the URL of the entry.
    write(
        &shop.file(),
        &format!(
            "{}  allow_plaintext: true\n",
            entry("@a/plain", "http://10.0.0.1")
        ),
    );
    let elsewhere = Server {
        url: "http://10.0.0.2".into(),
        ..dev()
    };
    let refused = shop.add("@a/plain", elsewhere.clone()).await.unwrap_err();
    assert_eq!(why(&refused), (Code::InvalidArgument, "SERVER_INVALID".into()));
    let allowed = Server {
        name: "elsewhere".into(),
        allow_plaintext: true,
        ..elsewhere
    };
    shop.add("@a/plain", allowed).await.unwrap();
    assert!(shop.add("@a/plain", dev()).await.unwrap().allow_plaintext);
    shop.pair.stop().await;
}

#[tokio::test]
async fn the_refusal_of_an_unknown_entry_names_the_existing_ones() {
    let shop = Shop::open(&format!("{}{}", entry("@a/one", URL), entry("@b/two", URL))).await;
    let (refused, message) = shop.refused("@a/two").await;
    assert_eq!(refused, not_found());
    assert!(
        message.contains("@a/two in the catalog; it has @b/two, @a/one"),
        "{message}"
    );
    for malformed in ["one", "@a", "@A/one", "@a/one/x", "a/one"] {
        let (refused, message) = shop.refused(malformed).await;
        assert_eq!(
            refused,
            (Code::InvalidArgument, "SERVER_NAME_INVALID".into()),
            "{malformed}"
        );
        assert!(message.contains("@SCOPE/NAME"), "{message}");
    }
    let unnamed = Server {
        name: "One".into(),
        ..dev()
    };
    let refused = shop.add("@a/one", unnamed).await.unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::InvalidArgument, "SERVER_NAME_INVALID".into())
    );
    shop.pair.stop().await;
}

#[tokio::test]
async fn without_a_catalog_there_are_no_entries() {
    let pair = with_roles(None).await;
    let refused = pair.injector.try_add_from("@a/b", dev()).await.unwrap_err();
    assert_eq!(why(&refused), not_found());
    assert!(refused.message().contains("--catalog"), "{refused}");
    assert_eq!(
        list(&pair, pki::ADMIN, 0, "").await.unwrap(),
        (vec![], String::new())
    );
    pair.stop().await;
}

#[tokio::test]
async fn an_edit_of_the_catalog_applies_from_the_next_call_on() {
    let shop = Shop::open(&entry("@a/one", URL)).await;
    let one = shop.add("@a/one", dev()).await.unwrap();
    write(&shop.file(), &entry("@a/two", URL));
    assert_eq!(shop.refused("@a/one").await.0, not_found());
    shop.add("@a/two", dev()).await.unwrap();
    assert_eq!(shop.list_as(pki::ADMIN, 0, "").await.unwrap().0, ["@a/two"]);
    // A server that was added earlier stays unchanged.
    assert_eq!(get(&shop.pair.injector, "one").await.unwrap(), one);
    shop.pair.stop().await;
}

#[tokio::test]
async fn an_invalid_catalog_is_refused_with_its_mistakes_but_without_its_path_and_text() {
    let shop = Shop::open(&entry("@a/one", URL)).await;
    let path = shop.file();
    let broken = format!(
        "{}{}  token: canary\n",
        entry("@a/one", URL),
        entry("@a/two", URL)
    );
    for (text, says) in [
        (broken.as_str(), "line 7"),
        (
            &entry("@a/one", "https://u:canary@api.example.com"),
            "line 3, @a/one: url",
        ),
    ] {
        write(&path, text);
        let listed = shop.list_as(VIEWER, 0, "").await.unwrap_err();
        let (refused, message) = shop.refused("@a/one").await;
        assert_eq!((refused, why(&listed)), (invalid(), invalid()));
        for message in [message.as_str(), listed.message()] {
            assert!(!message.contains("catalog.yaml"), "{message}");
            assert!(message.contains(says) && !message.contains("canary"), "{message}");
        }
    }
    fs::remove_file(&path).unwrap();
    let (refused, message) = shop.refused("@a/one").await;
    assert_eq!(refused, invalid());
    assert!(message.contains("there is no such file"), "{message}");
    assert!(!message.contains("catalog.yaml"), "{message}");
    // A server without a catalog entry can still be added.
    let named = Server {
        name: "by-url".into(),
        url: URL.into(),
        ..dev()
    };
    shop.add("", named).await.unwrap();
    write(&path, &entry("@a/one", URL));
    shop.add("@a/one", dev()).await.unwrap();
    shop.pair.stop().await;
}

#[tokio::test]
async fn a_read_only_registry_refuses_servers_from_the_catalog() {
    let shop = Shop::open(&entry("@a/one", URL)).await;
    let servers = shop.pair.injector.servers_file();
    fs::write(&servers, "version: 1\nservers: []\n").unwrap();
    fs::set_permissions(&servers, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(
        shop.refused("@a/one").await.0,
        (Code::FailedPrecondition, "REGISTRY_READ_ONLY".into())
    );
    assert_eq!(shop.list_as(VIEWER, 0, "").await.unwrap().0, ["@a/one"]);
    shop.pair.stop().await;
}
