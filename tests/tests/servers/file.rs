//! Tests of the servers file, which other programs may change.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use e2e::{Injector, Upstream, eventually, pair::server};
use proto::injector::v1::{ExplainInjectionRequest, Server};
use tonic::Code;

use super::{URL, dev, get, remove, update, why};

/// Replaces a file in one step, as editors and Kubernetes do.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// Returns a servers file with one server.
fn yaml(name: &str, url: &str) -> String {
    format!(
        "version: 1\nservers:\n- workspace: dev\n  name: {name}\n  url: {url}\n  injections:\n  - secret: token\n"
    )
}

#[tokio::test]
async fn servers_outlive_a_restart() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    let added = pair
        .injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    let file = fs::read_to_string(pair.injector.servers_file()).unwrap();
    let mode = fs::metadata(pair.injector.servers_file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    pair.injector.stop().await;

    let again = |settings: &mut injector_service::config::Settings| {
        fs::write(settings.servers.as_ref().unwrap(), &file).unwrap();
    };
    let injector = Injector::start_with(pair.vault.pki.clone(), pair.vault.address, again).await;
    injector.ready().await;
    assert_eq!(get(&injector, "api").await.unwrap(), added);
    assert_eq!(injector.get("/dev/api/").await.status(), 200);
    assert_eq!(upstream.last().header("x-mcp-secret-token"), Some("tok-1"));
    injector.stop().await;
    pair.vault.stop().await;
}

#[tokio::test]
async fn an_edited_file_is_reloaded_without_a_restart() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let pair = dev().await;
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    let file = pair.injector.servers_file();
    replace(&file, &yaml("api", &first.url()));
    eventually("the server is known", async || {
        pair.injector.get("/dev/api/").await.status() == 200
    })
    .await;
    assert_eq!(first.last().header("x-mcp-secret-token"), Some("tok-1"));
    let known = get(&pair.injector, "api").await.unwrap();

    // Some editors write a file in place.
    fs::write(&file, yaml("api", &second.url())).unwrap();
    eventually("the server has moved", async || {
        assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
        !second.seen().is_empty()
    })
    .await;
    let moved = get(&pair.injector, "api").await.unwrap();
    assert_eq!((moved.uid, moved.revision), (known.uid, known.revision + 1));

    // A server that the API adds joins those in the edited file.
    pair.injector.add(server("dev", "other", &first.url(), &[])).await;
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("name: api") && text.contains("name: other"),
        "{text}"
    );
    replace(&file, "version: 1\nservers: []\n");
    eventually("both are gone", async || {
        pair.injector.get("/dev/api/").await.status() == 404
            && pair.injector.get("/dev/other/").await.status() == 404
    })
    .await;
    pair.stop().await;
}

#[tokio::test]
async fn an_invalid_file_changes_nothing() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    let file = pair.injector.servers_file();
    let own = format!("http://{}", pair.injector.data_plane);
    for (what, invalid) in [
        ("not YAML", "{".to_owned()),
        ("another version", "version: 2\nservers: []\n".to_owned()),
        (
            "an unknown field",
            format!("{}  surprise: 1\n", yaml("api", &upstream.url())),
        ),
        (
            "a server twice",
            yaml("api", &upstream.url()) + &yaml("api", &upstream.url())["version: 1\nservers:\n".len()..],
        ),
        ("a metadata address", yaml("api", "http://169.254.169.254")),
        ("our own listener", yaml("api", &own)),
        ("cleartext over a network", yaml("api", "http://10.0.0.1")),
        (
            "a user in the URL",
            yaml("api", "https://user:canary@api.example.com"),
        ),
    ] {
        replace(&file, &yaml("api", &upstream.url()));
        eventually("the valid file is used", async || {
            pair.injector.get("/dev/api/").await.status() == 200
                && remove(&pair.injector, "none", 0).await.unwrap_err().code() == Code::NotFound
        })
        .await;
        replace(&file, &invalid);
        // A change through the API reads the file first, so the test does not have to wait.
        let refused = pair
            .injector
            .try_add(server("dev", "other", URL, &[]))
            .await
            .unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::FailedPrecondition, "REGISTRY_INVALID".into()),
            "{what}"
        );
        assert!(!refused.message().contains("canary"));
        assert_eq!(pair.injector.get("/dev/api/").await.status(), 200, "{what}");
        assert_eq!(
            get(&pair.injector, "api").await.unwrap().url,
            upstream.url(),
            "{what}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), invalid, "{what}");
    }
    fs::remove_file(&file).unwrap();
    let refused = pair
        .injector
        .try_add(server("dev", "other", URL, &[]))
        .await
        .unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::FailedPrecondition, "REGISTRY_INVALID".into())
    );
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
    pair.stop().await;
}

#[tokio::test]
async fn a_read_only_file_makes_changes_through_the_api_fail() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    let file = pair.injector.servers_file();
    let text = yaml("api", &upstream.url());
    fs::write(&file, &text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    eventually("the server is known", async || {
        pair.injector.get("/dev/api/").await.status() == 200
    })
    .await;
    let read_only = (Code::FailedPrecondition, "REGISTRY_READ_ONLY".to_owned());
    let described = Server {
        description: "x".into(),
        ..server("dev", "api", "", &[])
    };
    assert_eq!(
        why(&pair
            .injector
            .try_add(server("dev", "other", URL, &[]))
            .await
            .unwrap_err()),
        read_only
    );
    assert_eq!(
        why(&update(&pair.injector, described, &["description"])
            .await
            .unwrap_err()),
        read_only
    );
    assert_eq!(
        why(&remove(&pair.injector, "api", 0).await.unwrap_err()),
        read_only
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    // The RPCs that read still work.
    assert_eq!(get(&pair.injector, "api").await.unwrap().url, upstream.url());
    let request = ExplainInjectionRequest {
        workspace: "dev".into(),
        name: "api".into(),
    };
    assert_eq!(
        pair.injector
            .servers()
            .explain_injection(request)
            .await
            .unwrap()
            .into_inner()
            .secrets
            .len(),
        1
    );
    pair.stop().await;
}
