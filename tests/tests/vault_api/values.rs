//! Tests of values.

use proto::vault::v1::RestoreSecretVersionRequest;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn values_of_1_byte_to_64_kib_come_back_byte_for_byte() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    for value in [
        b"v".to_vec(),
        vec![0],
        b"a\0b\r\n".to_vec(),
        vec![0xff, 0xfe, 0x80],
        every_byte,
        vec![7; LARGEST],
    ] {
        vault.put("w", "NAME", &value).await;
        assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, value);
    }
    let text = "h\u{e9}llo 🔑\0";
    let request = PutSecretRequest {
        value: Some(Value::Text(text.to_owned())),
        ..named("w", "NAME")
    };
    try_put(&vault, request).await.unwrap();
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, text.as_bytes());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_outside_the_limits_is_refused_with_the_limit() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "kept").await;
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let data = |length| Some(Value::Data(vec![b'x'; length]));
    for value in [
        data(0),
        data(LARGEST + 1),
        data(2 * LARGEST),
        text(""),
        text(&"x".repeat(LARGEST + 1)),
    ] {
        let answer = try_put(
            &vault,
            PutSecretRequest {
                value,
                ..named("w", "NAME")
            },
        )
        .await;
        let status = refused(answer, Code::InvalidArgument, "SECRET_VALUE_SIZE");
        assert!(status.message().contains("65536"), "{}", status.message());
        assert!(!status.message().contains("xx"), "{}", status.message());
    }
    let answer = try_put(
        &vault,
        PutSecretRequest {
            value: None,
            ..named("w", "NAME")
        },
    )
    .await;
    refused(answer, Code::InvalidArgument, "SECRET_VALUE_SIZE");
    let kept = decrypt_one(&vault, "w", "NAME").await;
    assert_eq!((kept.value.as_slice(), kept.version), (b"kept".as_slice(), 1));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_contains_no_value_in_clear() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let canary = "canary-at-rest-".repeat(20);
    vault.put("w", "NAME", &canary).await;
    vault.put("w", "NAME", format!("{canary}2")).await;
    let dir = vault.dir.clone();
    vault.stop().await;
    let stored = files(dir.path());
    assert!(
        stored.iter().any(|bytes| has(bytes, b"NAME")),
        "the store was not looked into"
    );
    assert!(!stored.iter().any(|bytes| has(bytes, b"canary-at-rest")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_value_that_does_not_fit_a_header_has_the_warning_of_its_put() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let first = try_put(&vault, put("w", "NAME", b"ghp_abc\n")).await.unwrap();
    assert_eq!(first.warnings.len(), 1);
    assert!(
        try_put(&vault, put("w", "NAME", b"ghp_abc"))
            .await
            .unwrap()
            .warnings
            .is_empty()
    );
    let restore = |version| RestoreSecretVersionRequest {
        request_id: format!("restore {version}"),
        ..super::older_versions::restore("NAME", version)
    };
    for _ in 0..2 {
        let answer = vault.secrets().restore_secret_version(restore(1)).await.unwrap();
        assert_eq!(answer.into_inner().warnings, first.warnings);
    }
    let answer = vault.secrets().restore_secret_version(restore(2)).await.unwrap();
    assert!(answer.into_inner().warnings.is_empty());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_a_header_is_put_with_a_warning() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    for (value, part) in [
        (b"ghp_abc".as_slice(), None),
        (b"ghp_abc\n", Some("ends with a line break")),
        (b"-----BEGIN-----\nMC4=\n-----END-----", Some("several lines")),
        (b"ghp_abc ", Some("a space")),
        (b"ghp\tabc", Some("printable ASCII")),
        ("schl\u{fc}ssel".as_bytes(), Some("printable ASCII")),
        ("\u{feff}ghp_abc".as_bytes(), Some("byte order mark")),
        (&[b'x'; 8193], Some("8192")),
        // The bytes are "ghp_abc0" given as `data` in JSON, which is base64.
        (b"\x82\x1a\x7f\x69\xb7\x34", Some("`data` is base64")),
    ] {
        let request = PutSecretRequest {
            request_id: format!("{value:?}").chars().take(128).collect(),
            ..put("w", "NAME", value)
        };
        let answer = try_put(&vault, request.clone()).await.unwrap();
        let shown: Vec<_> = answer.warnings.iter().map(|warning| warning.kind()).collect();
        let expected = part.map(|_| WarningKind::ValueUnfit);
        assert_eq!(shown, Vec::from_iter(expected), "{value:?}");
        for warning in &answer.warnings {
            assert_eq!(warning.secret, "NAME");
            assert!(warning.message.contains(part.unwrap()), "{}", warning.message);
            assert!(!warning.message.contains("ghp") && !warning.message.contains("xx"));
        }
        // A retry gets the same answer, and an injector gets the facts.
        assert_eq!(try_put(&vault, request).await.unwrap().warnings, answer.warnings);
        let check = DecryptRequest {
            check_only: true,
            ..ask("w", ["NAME"])
        };
        let checked = decrypt(&vault, check).await.unwrap();
        assert_eq!(checked.secrets[0].facts, Some(ValueFacts::of(value)));
        assert_eq!(decrypt_one(&vault, "w", "NAME").await.facts, None);
    }
    vault.stop().await;
}
