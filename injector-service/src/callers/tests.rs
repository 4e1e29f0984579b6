use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use tempfile::TempDir;

use super::*;

const CI: &str = "0123456789abcdef0123456789abcdef";

/// Returns callers with a token of `token:ci`, and the directory of its file. `callers` are texts of `--caller`.
fn callers(callers: &[&str]) -> (Callers, TempDir) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ci");
    fs::write(&path, CI).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let setting = format!("ci={}", path.display());
    let mut policy = CallerPolicy::default();
    for text in callers {
        policy.add(text, &Issuers::default()).unwrap();
    }
    let callers = Callers {
        policy: (!callers.is_empty()).then_some(policy),
        tokens: StaticTokens::load([setting].iter()).unwrap(),
        issuers: Issuers::default(),
        local_users: [1000].into(),
    };
    (callers, dir)
}

fn certificate(principal: &str, not_after: SystemTime) -> ConnectionPeer {
    ConnectionPeer::Network(Peer::Known {
        principal: Principal::parse(principal).unwrap(),
        not_after,
    })
}

/// Returns the name in the log of the caller of `dev/github`, or the reason of the refusal.
async fn outcome(callers: &Callers, peer: &ConnectionPeer, token: Option<&str>) -> String {
    let token = token.map(|token| CallerToken(HeaderValue::from_str(token).unwrap()));
    let caller = match callers.identify(peer, token.as_ref()).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal.reason.name().to_owned(),
    };
    match caller.permit("dev", "github") {
        Ok(_) => caller
            .name()
            .map_or_else(|| "anyone".to_owned(), |name| name.to_string()),
        Err(refusal) => refusal.reason.name().to_owned(),
    }
}

#[tokio::test]
async fn with_callers_in_the_settings_a_call_over_tcp_needs_an_identity_that_is_permitted() {
    let (callers, _dir) = callers(&[
        "token:ci=dev/github",
        "spiffe://td/web=dev/*",
        "spiffe://td/shop=shop/*",
    ]);
    let later = SystemTime::now() + Duration::from_secs(60);
    let earlier = SystemTime::now() - Duration::from_secs(60);
    let nobody = ConnectionPeer::Network(Peer::Anonymous);
    for (peer, token, expected) in [
        (&nobody, None, "UNAUTHENTICATED"),
        (&nobody, Some(CI), "token:ci"),
        (&nobody, Some("wrong"), "UNAUTHENTICATED"),
        (&nobody, Some(""), "UNAUTHENTICATED"),
        (&certificate("spiffe://td/web", later), None, "spiffe://td/web"),
        (&certificate("spiffe://td/web", earlier), None, "UNAUTHENTICATED"),
        (&certificate("spiffe://td/shop", later), None, "PERMISSION_DENIED"),
        (
            &certificate("spiffe://td/other", later),
            None,
            "PERMISSION_DENIED",
        ),
        // With a token, only the token counts.
        (&certificate("spiffe://td/shop", later), Some(CI), "token:ci"),
        (
            &certificate("spiffe://td/web", later),
            Some("wrong"),
            "UNAUTHENTICATED",
        ),
    ] {
        assert_eq!(
            outcome(&callers, peer, token).await,
            expected,
            "{peer:?} {token:?}"
        );
    }
}

#[tokio::test]
async fn without_callers_in_the_settings_nobody_is_asked_and_a_token_is_not_read() {
    let (callers, _dir) = callers(&[]);
    let nobody = ConnectionPeer::Network(Peer::Anonymous);
    for token in [None, Some(CI), Some("wrong")] {
        assert_eq!(outcome(&callers, &nobody, token).await, "anyone", "{token:?}");
    }
}

#[tokio::test]
async fn the_uid_decides_on_the_unix_socket_and_a_token_narrows_a_permitted_user() {
    let (with, _dir) = callers(&["token:ci=shop/*"]);
    let (without, _dir) = callers(&[]);
    let (permitted, other) = (ConnectionPeer::LocalUser(1000), ConnectionPeer::LocalUser(1001));
    for callers in [&with, &without] {
        assert_eq!(outcome(callers, &permitted, None).await, "uid:1000");
        assert_eq!(outcome(callers, &other, None).await, "PERMISSION_DENIED");
        assert_eq!(outcome(callers, &other, Some(CI)).await, "PERMISSION_DENIED");
    }
    assert_eq!(outcome(&with, &permitted, Some(CI)).await, "PERMISSION_DENIED");
    assert_eq!(outcome(&with, &permitted, Some("wrong")).await, "UNAUTHENTICATED");
    assert_eq!(outcome(&without, &permitted, Some("wrong")).await, "uid:1000");
}

#[test]
fn a_token_is_taken_out_of_the_headers_and_two_are_refused() {
    let taken = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TOKEN, HeaderValue::from_static(value));
        }
        let taken = CallerToken::take(&mut headers).map_err(|refusal| refusal.reason);
        assert!(headers.is_empty());
        taken.map(|token| token.map(|CallerToken(value)| value))
    };
    assert_eq!(taken(&[]), Ok(None));
    assert_eq!(taken(&["a"]), Ok(Some(HeaderValue::from_static("a"))));
    assert_eq!(taken(&["a", "a"]), Err(Reason::RequestMalformed));
    assert_eq!(taken(&["", "a", "b"]), Err(Reason::RequestMalformed));
}
