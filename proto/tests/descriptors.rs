//! Properties of all messages of the protocol.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up should say so at once"
)]

use prost_reflect::{DescriptorPool, MessageDescriptor, Value};
use proto::{
    METHODS_THAT_CARRY_VALUES,
    vault::v1::{DecryptedSecret, PutSecretRequest, put_secret_request},
};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap()
}

/// Returns the full names of the sensitive fields that `message` contains at any depth.
fn sensitive_fields(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    seen: &mut Vec<String>,
) -> Vec<String> {
    if seen.contains(&message.full_name().to_owned()) {
        return Vec::new();
    }
    seen.push(message.full_name().to_owned());
    let option = pool.get_extension_by_name("aerostack.v1.sensitive").unwrap();
    let mut found = Vec::new();
    for field in message.fields() {
        if *field.options().get_extension(&option) == Value::Bool(true) {
            found.push(field.full_name().to_owned());
        }
        if let Some(inner) = field.kind().as_message() {
            found.extend(sensitive_fields(pool, inner, seen));
        }
    }
    found
}

#[test]
fn no_response_outside_the_decrypt_service_can_carry_a_value() {
    let pool = pool();
    let mut with_values = Vec::new();
    let mut methods = 0;
    for service in pool.services() {
        for method in service.methods() {
            methods += 1;
            if !sensitive_fields(&pool, &method.output(), &mut Vec::new()).is_empty() {
                with_values.push(method.full_name().to_owned());
            }
        }
    }
    assert!(methods > 15, "the walk saw {methods} methods");
    assert_eq!(
        with_values,
        [
            "vault.v1.DecryptService.Decrypt",
            "vault.v1.DecryptService.DecryptStream"
        ]
    );
}

#[test]
fn the_list_of_methods_that_carry_values_is_complete() {
    let pool = pool();
    let mut with_values = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            if !sensitive_fields(&pool, &method.input(), &mut Vec::new()).is_empty() {
                with_values.push(format!("/{}/{}", service.full_name(), method.name()));
            }
        }
    }
    assert_eq!(with_values, METHODS_THAT_CARRY_VALUES);
}

#[test]
fn every_field_that_carries_a_value_is_marked() {
    let pool = pool();
    let request = pool.get_message_by_name("vault.v1.PutSecretRequest").unwrap();
    let mut fields = sensitive_fields(&pool, &request, &mut Vec::new());
    fields.sort();
    assert_eq!(
        fields,
        ["vault.v1.PutSecretRequest.data", "vault.v1.PutSecretRequest.text"]
    );
    let answer = pool.get_message_by_name("vault.v1.DecryptResponse").unwrap();
    assert_eq!(
        sensitive_fields(&pool, &answer, &mut Vec::new()),
        ["vault.v1.DecryptedSecret.value"]
    );
    // Values are sent as `bytes`, so every `bytes` field without the mark needs a reason in this list.
    for message in pool
        .all_messages()
        .filter(|message| !message.package_name().starts_with("google."))
    {
        for field in message
            .fields()
            .filter(|field| field.kind() == prost_reflect::Kind::Bytes)
        {
            let sensitive = sensitive_fields(&pool, &message, &mut Vec::new());
            let (name, message) = (field.name(), message.name());
            // The fields without the mark hold public keys, nonces and ciphertext.
            let harmless = match message {
                "DecryptRequest" => name == "recipient_key",
                "DecryptResponse" => ["sealed", "encapsulated_key"].contains(&name),
                "DecryptStreamResponse" => name == "encapsulated_key",
                "ExportBackupResponse" | "RestoreBackupRequest" => name == "chunk",
                "Recipient" => ["public_key", "stream_nonce"].contains(&name),
                _ => false,
            };
            assert!(
                harmless || sensitive.contains(&field.full_name().to_owned()),
                "{}",
                field.full_name()
            );
        }
    }
}

#[test]
fn debug_redacts_values() {
    let data = put_secret_request::Value::Data(b"canary".to_vec());
    let text = put_secret_request::Value::Text("canary".to_owned());
    for value in [data, text] {
        let request = PutSecretRequest {
            name: "NAME".into(),
            value: Some(value),
            ..Default::default()
        };
        let printed = format!("{request:?} {request:#?}");
        assert!(
            printed.contains("NAME") && printed.contains("[redacted]"),
            "{printed}"
        );
        assert!(
            !printed.contains("canary") && !printed.contains("99, 97"),
            "{printed}"
        );
    }
    let answer = DecryptedSecret {
        value: b"canary".to_vec(),
        version: 7,
        ..Default::default()
    };
    let printed = format!("{answer:?}");
    assert!(
        printed.contains("version: 7") && !printed.contains("canary"),
        "{printed}"
    );
}
