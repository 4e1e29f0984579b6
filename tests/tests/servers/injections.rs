//! Servers whose injections name the places of their secrets.

use e2e::{Pair, Upstream, pair::server};
use http::Request;
use proto::{
    WarningKind,
    injector::v1::{
        AuthType, BasicPlacement, CookiePlacement, ExplainInjectionRequest, HeaderPlacement, Injection,
        OnEcho, ProtobufMessages, ProtobufPlacement, Scrub, Server, injection::Placement,
    },
};
use tonic::Code;

use super::{dev, get, update, why};

fn header(name: &str, value: &str) -> Injection {
    let (name, value) = (name.into(), value.into());
    Injection {
        required: true,
        placement: Some(Placement::Header(HeaderPlacement { name, value })),
    }
}

fn basic(username: &str, password: &str) -> Injection {
    let (username, password) = (username.into(), password.into());
    Injection {
        required: false,
        placement: Some(Placement::Basic(BasicPlacement { username, password })),
    }
}

fn cookie(name: &str, value: &str) -> Injection {
    let (name, value) = (name.into(), value.into());
    Injection {
        required: false,
        placement: Some(Placement::Cookie(CookiePlacement { name, value })),
    }
}

fn custom(url: &str, injections: Vec<Injection>) -> Server {
    Server {
        injections,
        ..server("dev", "api", url, &[])
    }
}

async fn explained(pair: &Pair) -> Vec<(String, String)> {
    let request = ExplainInjectionRequest {
        workspace: "dev".into(),
        name: "api".into(),
    };
    let explained = pair.injector.servers().explain_injection(request).await;
    let secrets = explained.unwrap().into_inner().secrets;
    secrets
        .into_iter()
        .map(|secret| (secret.name, secret.placement))
        .collect()
}

#[tokio::test]
async fn a_server_with_injections_is_stored_shown_and_called() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    for (name, value) in [("KEY", "the-key"), ("USER", "me"), ("SESSION", "abc")] {
        pair.vault.put("dev", name, value.as_bytes()).await;
    }
    let injections = vec![
        header("x-api-key", "Key ${key}"),
        basic("${USER}", "${KEY}"),
        cookie("session", "${SESSION}"),
    ];
    pair.injector.add(custom(&upstream.url(), injections)).await;
    let shown = get(&pair.injector, "api").await.unwrap();
    assert_eq!(shown.auth_type(), AuthType::Custom);
    assert_eq!(shown.inject_secrets, ["KEY", "USER", "SESSION"]);
    assert_eq!(shown.required_secrets, ["KEY"]);
    assert_eq!(shown.injections[0], header("x-api-key", "Key ${KEY}"));
    assert_eq!(
        explained(&pair).await,
        [
            ("KEY", "header x-api-key: Key ${KEY}"),
            ("USER", "basic authentication"),
            ("KEY", "basic authentication"),
            ("SESSION", "cookie session"),
        ]
        .map(|(name, place)| (name.to_owned(), place.to_owned()))
    );
    let answer = pair.injector.send(Request::get("/dev/api/"), "").await;
    assert_eq!(answer.status(), 200);

    // The server as it was read can be sent back unchanged.
    let paths = ["auth_type", "inject_secrets", "required_secrets", "injections"];
    let again = update(&pair.injector, shown.clone(), &paths).await.unwrap();
    assert_eq!(
        (again.injections, again.inject_secrets, again.required_secrets),
        (shown.injections, shown.inject_secrets, shown.required_secrets)
    );
}

#[tokio::test]
async fn an_update_changes_between_the_two_views_of_secrets() {
    let pair = dev().await;
    pair.injector.add(server("dev", "api", super::URL, &["A"])).await;
    let change = |server: Server| Server {
        workspace: "dev".into(),
        name: "api".into(),
        ..server
    };
    let described = change(Server {
        description: "x".into(),
        scrub: Scrub::All.into(),
        on_echo: OnEcho::Block.into(),
        ..Server::default()
    });
    let paths = ["description", "scrub", "on_echo"];
    let stored = update(&pair.injector, described, &paths).await.unwrap();
    assert_eq!(stored.auth_type(), AuthType::SecretHeaders);
    assert_eq!((stored.scrub(), stored.on_echo()), (Scrub::All, OnEcho::Block));

    let own = change(Server {
        injections: vec![header("x-key", "${B}")],
        ..Server::default()
    });
    let stored = update(&pair.injector, own, &["injections"]).await.unwrap();
    assert_eq!(stored.auth_type(), AuthType::Custom);
    assert_eq!(stored.inject_secrets, ["B"]);

    let secrets = change(Server {
        inject_secrets: vec!["C".into()],
        ..Server::default()
    });
    let refused = update(&pair.injector, secrets, &["inject_secrets"])
        .await
        .unwrap_err();
    assert_eq!(
        why(&refused),
        (Code::InvalidArgument, "SERVER_INVALID".to_owned())
    );
    assert!(
        refused.message().starts_with("inject_secrets: "),
        "{}",
        refused.message()
    );

    let bearer = change(Server {
        auth_type: AuthType::Bearer.into(),
        ..Server::default()
    });
    let stored = update(&pair.injector, bearer, &["auth_type"]).await.unwrap();
    assert_eq!(
        (stored.auth_type(), stored.inject_secrets),
        (AuthType::Bearer, vec!["B".to_owned()])
    );
    assert_eq!(stored.injections, [header("authorization", "Bearer ${B}")]);
}

#[tokio::test]
async fn entries_of_messages_are_stored_shown_and_changed() {
    let pair = dev().await;
    pair.vault.put("dev", "TOKEN", b"\xff-no-text").await;
    let entry = |field, key: &str, value: &str| Injection {
        required: false,
        placement: Some(Placement::Protobuf(ProtobufPlacement {
            field,
            key: key.into(),
            value: value.into(),
        })),
    };
    let described = Server {
        grpc_methods: vec!["pkg.S/M".into()],
        ..custom(
            super::URL,
            vec![entry(7, "", "Bearer ${token}"), entry(7, "b", "${B}")],
        )
    };
    let warnings = pair.injector.add_with_warnings(described).await;
    let unfit = warnings.iter().find(|(kind, _)| *kind == WarningKind::ValueUnfit);
    assert!(
        unfit.is_some_and(|(_, text)| text.contains("is not UTF-8")),
        "{warnings:?}"
    );

    let shown = get(&pair.injector, "api").await.unwrap();
    assert_eq!(shown.auth_type(), AuthType::Custom);
    assert_eq!(
        shown.injections,
        [entry(7, "TOKEN", "Bearer ${TOKEN}"), entry(7, "b", "${B}")]
    );
    assert_eq!(shown.inject_secrets, ["TOKEN", "B"]);
    assert_eq!(shown.protobuf_messages(), ProtobufMessages::First);
    assert_eq!(
        explained(&pair).await,
        [
            ("TOKEN", "gRPC message field 7 entry TOKEN, of pkg.S/M"),
            ("B", "gRPC message field 7 entry b, of pkg.S/M"),
        ]
        .map(|(name, place)| (name.to_owned(), place.to_owned()))
    );
    let file = std::fs::read_to_string(pair.injector.servers_file()).unwrap();
    assert!(
        file.contains("protobuf:") && file.contains("key: TOKEN"),
        "{file}"
    );

    let change = |injections| Server {
        protobuf_messages: ProtobufMessages::All.into(),
        ..custom(super::URL, injections)
    };
    let paths = ["injections", "protobuf_messages"];
    let changed = change(vec![entry(8, "", "${B}")]);
    let changed = update(&pair.injector, changed, &paths).await.unwrap();
    assert_eq!(changed.injections, [entry(8, "B", "${B}")]);
    assert_eq!(changed.protobuf_messages(), ProtobufMessages::All);
    assert_eq!(changed.grpc_methods, ["pkg.S/M"]);

    for wrong in [
        vec![entry(8, "B", "${B}"), entry(8, "", "${b}")],
        vec![entry(8, "", "${A}${B}")],
        vec![entry(0, "", "${A}")],
    ] {
        let refused = update(&pair.injector, change(wrong), &paths).await.unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::InvalidArgument, "SERVER_INVALID".to_owned())
        );
    }

    // The short form has the same view.
    let skill = Server {
        auth_type: AuthType::Skill.into(),
        protobuf_secrets_field: 7,
        grpc_methods: vec!["pkg.S/M".into()],
        ..server("dev", "skill", super::URL, &["TOKEN"])
    };
    let shown = pair.injector.add(skill).await;
    assert_eq!(shown.injections[1], entry(7, "TOKEN", "${TOKEN}"));
    assert_eq!(shown.protobuf_messages(), ProtobufMessages::First);
}
