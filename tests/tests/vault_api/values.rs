//! Values.

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
async fn what_is_stored_is_not_the_value() {
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
