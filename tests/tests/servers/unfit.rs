//! Tests of warnings before the first call: values that do not fit their place, unusable client certificates, and expired
//! secrets.

use e2e::{Pair, Upstream, pair::server};
use http::Request;
use proto::{
    WarningKind,
    injector::v1::{
        AuthType, ExplainInjectionRequest, ExplainInjectionResponse, Server, UpstreamTls,
        explained_secret::State,
    },
    vault::v1::{PutSecretRequest, put_secret_request::Value},
};

use super::dev;

async fn explain(pair: &Pair, name: &str) -> ExplainInjectionResponse {
    let request = ExplainInjectionRequest {
        workspace: "dev".into(),
        name: name.into(),
    };
    let explained = pair.injector.servers().explain_injection(request).await;
    explained.unwrap().into_inner()
}

#[tokio::test]
async fn a_value_that_does_not_fit_its_place_is_reported_before_the_first_call() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    let long = [b'x'; 8193];
    let key_file = b"{\n  \"private_key\": \"-----BEGIN-----\\n\"\n}\n";
    let values = [
        b"ghp_abc".as_slice(),
        b"ghp_abc\n\n",
        b" ghp_abc",
        b"ghp\tabc",
        "\u{feff}ghp_abc".as_bytes(),
        "schl\u{fc}ssel".as_bytes(),
        &long,
        key_file,
        b"\x82\x1a\x7f",
    ];
    for auth_type in [AuthType::SecretHeaders, AuthType::Bearer, AuthType::Skill] {
        for value in values {
            pair.vault.put("dev", "TOKEN", value).await;
            let api = Server {
                auth_type: auth_type.into(),
                ..server("dev", "api", &upstream.url(), &["TOKEN"])
            };
            let warnings = pair.injector.add_with_warnings(api).await;
            let warned = warnings.iter().any(|(kind, _)| *kind == WarningKind::ValueUnfit);
            let explained = explain(&pair, "api").await;
            let request = Request::post("/dev/api/").header("content-type", "application/json");
            let answer = pair.injector.send(request, "{}").await;
            // The call is refused as the warning says.
            let goes_out = answer.status() == 200;
            assert_eq!(warned, !goes_out, "{auth_type:?} {value:?}");
            assert_eq!(explained.would_forward, goes_out, "{auth_type:?} {value:?}");
            if !goes_out {
                assert_eq!(answer.status(), 502);
                assert_eq!(explained.secrets[0].state(), State::Unfit);
                let detail = &explained.secrets[0].detail;
                let fault = detail.split(',').next().unwrap().trim_start_matches("the value ");
                let told = String::from_utf8_lossy(answer.body()).into_owned();
                assert!(told.contains(fault), "{told}: {detail}");
                for said in warnings.iter().map(|(_, message)| message).chain([detail, &told]) {
                    assert!(!said.contains("ghp") && !said.contains("BEGIN"), "{said}");
                }
            }
            pair.injector.remove("dev", "api").await;
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_client_certificate_that_cannot_be_used_is_reported_before_the_first_call() {
    let pair = dev().await;
    let api = Server {
        tls: Some(UpstreamTls {
            client_cert_secret: "CERT".into(),
            ..Default::default()
        }),
        ..server("dev", "api", "https://api.example.com", &[])
    };
    for (value, kind, state) in [
        (None, Some(WarningKind::SecretMissing), State::Missing),
        (Some("one line"), Some(WarningKind::ValueUnfit), State::Unfit),
        (Some("-----BEGIN CERTIFICATE-----\n..."), None, State::Injected),
    ] {
        if let Some(value) = value {
            pair.vault.put("dev", "CERT", value).await;
        }
        let warnings = pair.injector.add_with_warnings(api.clone()).await;
        let kinds: Vec<_> = warnings.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, Vec::from_iter(kind));
        let explained = explain(&pair, "api").await;
        let [certificate] = explained.secrets.as_slice() else {
            panic!("{explained:?}")
        };
        assert_eq!((certificate.name.as_str(), certificate.state()), ("CERT", state));
        assert_eq!(explained.would_forward, state == State::Injected);
        pair.injector.remove("dev", "api").await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_expired_secret_is_not_reported_as_missing() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let soon = prost_types::Timestamp::from(soon);
    let request = PutSecretRequest {
        workspace: "dev".into(),
        name: "TOKEN".into(),
        value: Some(Value::Text("x".into())),
        expires_at: Some(prost_types::Timestamp { nanos: 0, ..soon }),
        ..Default::default()
    };
    pair.vault.secrets().put_secret(request).await.unwrap();
    let api = Server {
        required_secrets: vec!["TOKEN".into()],
        ..server("dev", "api", &upstream.url(), &["TOKEN"])
    };
    pair.injector.add(api.clone()).await;
    e2e::eventually("it expired", async || {
        explain(&pair, "api").await.secrets[0].state() == State::Expired
    })
    .await;
    assert!(!explain(&pair, "api").await.would_forward);
    let refused = pair.injector.send(Request::get("/dev/api/"), "").await;
    let told = String::from_utf8_lossy(refused.body()).into_owned();
    assert!(told.contains("has expired"), "{told}");
    let optional = Server {
        name: "optional".into(),
        required_secrets: Vec::new(),
        ..api
    };
    let warnings = pair.injector.add_with_warnings(optional).await;
    assert_eq!(warnings[0].0, WarningKind::SecretExpired);
    assert!(explain(&pair, "optional").await.would_forward);
    assert_eq!(
        pair.injector
            .send(Request::get("/dev/optional/"), "")
            .await
            .status(),
        200
    );
    assert!(upstream.last().secret_headers().is_empty());
    pair.stop().await;
}
