//! Tests of values that are sealed to a key of the injector, and of a vault that requires sealing.

use e2e::{Pair, Pki, Upstream, Vault, pair::server, pki};

use proto::{
    Principal,
    seal::{Opener, RecipientKey, SealContext, SealError, SealedCall},
    vault::v1::{
        DecryptCall, DecryptRequest, DecryptResponse, DecryptStreamRequest, DecryptStreamResponse, Recipient,
        decrypt_answer::Outcome, decrypt_service_client::DecryptServiceClient,
    },
};
use tokio::time::timeout;
use tonic::Code;

use crate::{Conversation, ask, refused};

const NONCE: [u8; 32] = [5; 32];

fn between<T>(nonce: &[u8], epoch: u64, with: impl FnOnce(SealContext<'_>) -> T) -> T {
    with(SealContext {
        vault: &Principal::parse(pki::VAULT).unwrap(),
        injector: &Principal::parse(pki::INJECTOR).unwrap(),
        nonce,
        epoch,
    })
}

fn recipient(key: &RecipientKey, epoch: u64) -> Recipient {
    Recipient {
        epoch,
        public_key: key.public(),
        stream_nonce: NONCE.to_vec(),
    }
}

impl Conversation {
    async fn say_to(&self, recipient: Option<Recipient>, calls: &[(u64, DecryptRequest)]) {
        let calls = calls.iter().map(|(id, request)| DecryptCall {
            id: *id,
            request: Some(request.clone()),
        });
        let message = DecryptStreamRequest {
            calls: calls.collect(),
            recipient,
        };
        self.calls.send(message).await.unwrap();
    }

    async fn message(&mut self) -> DecryptStreamResponse {
        let message = timeout(e2e::PATIENCE, self.answers.message()).await;
        message.expect("no answer came").unwrap().unwrap()
    }
}

/// Returns the responses of a message with their ids.
fn responses(message: DecryptStreamResponse) -> Vec<(u64, DecryptResponse)> {
    let response = |outcome| match outcome {
        Some(Outcome::Response(response)) => response,
        other => panic!("no response: {other:?}"),
    };
    let answers = message.answers.into_iter();
    answers
        .map(|answer| (answer.id, response(answer.outcome)))
        .collect()
}

fn opened(
    opener: &mut Opener,
    epoch: u64,
    id: u64,
    response: &DecryptResponse,
) -> Result<Vec<Vec<u8>>, SealError> {
    let server = "";
    let values = opener.open(SealedCall { epoch, id, server }, response)?;
    let count = response
        .secrets
        .iter()
        .filter(|secret| secret.version > 0)
        .count();
    Ok(values.split(count)?.iter().map(|value| value.to_vec()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_a_recipient_has_no_value_in_clear() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "A", "value-of-a").await;
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    let key = RecipientKey::generate().unwrap();
    let calls = [(1, ask("w", ["A", "NONE"])), (2, ask("w", ["A"]))];
    stream.say_to(Some(recipient(&key, 1)), &calls).await;

    let message = stream.message().await;
    assert!(!format!("{message:?}").contains("value-of-a"));
    assert_eq!(message.epoch, 1);
    let mut opener = between(&NONCE, 1, |between| {
        key.open(&message.encapsulated_key, between).unwrap()
    });
    let responses = responses(message);
    assert_eq!(
        opened(&mut opener, 1, 1, &responses[0].1).unwrap(),
        [b"value-of-a"]
    );
    assert_eq!(
        opened(&mut opener, 1, 2, &responses[1].1).unwrap(),
        [b"value-of-a"]
    );
    for (_, response) in &responses {
        assert!(response.secrets.iter().all(|secret| secret.value.is_empty()));
    }

    // The encapsulated key is sent once, and the HPKE context continues.
    stream.say_to(None, &[(3, ask("w", ["A"]))]).await;
    let message = stream.message().await;
    assert_eq!((message.epoch, message.encapsulated_key.len()), (1, 0));
    let (id, response) = self::responses(message).remove(0);
    assert_eq!(opened(&mut opener, 1, id, &response).unwrap(), [b"value-of-a"]);

    // An answer without a value is sealed as well.
    let check = DecryptRequest {
        check_only: true,
        ..ask("w", ["A"])
    };
    stream.say_to(None, &[(4, check)]).await;
    let (id, response) = self::responses(stream.message().await).remove(0);
    let answering = SealedCall {
        epoch: 1,
        id,
        server: "",
    };
    assert!(opener.open(answering, &response).unwrap().split(0).is_ok());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_has_a_context_of_its_own() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "A", "value-of-a").await;
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    for epoch in [1, 7] {
        let key = RecipientKey::generate().unwrap();
        let calls = [(epoch, ask("w", ["A"]))];
        stream.say_to(Some(recipient(&key, epoch)), &calls).await;
        let message = stream.message().await;
        assert_eq!(message.epoch, epoch);
        let mut opener = between(&NONCE, epoch, |between| {
            key.open(&message.encapsulated_key, between).unwrap()
        });
        let (id, response) = responses(message).remove(0);
        assert_eq!(
            opened(&mut opener, epoch, id, &response).unwrap(),
            [b"value-of-a"]
        );
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_recipient_is_answered_even_without_calls() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "A", "value-of-a").await;
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    for epoch in [1, 2, 3] {
        let key = RecipientKey::generate().unwrap();
        stream.say_to(Some(recipient(&key, epoch)), &[]).await;
        let message = stream.message().await;
        assert_eq!((message.epoch, message.answers.len()), (epoch, 0));
        let mut opener = between(&NONCE, epoch, |between| {
            key.open(&message.encapsulated_key, between).unwrap()
        });
        // The key is sent once, and an empty message without a recipient has no answer.
        stream.say_to(None, &[]).await;
        stream.say_to(None, &[(epoch, ask("w", ["A"]))]).await;
        let message = stream.message().await;
        assert_eq!((message.epoch, message.encapsulated_key.len()), (epoch, 0));
        let (id, response) = responses(message).remove(0);
        let values = opened(&mut opener, epoch, id, &response).unwrap();
        assert_eq!(values, [b"value-of-a"]);
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_recipient_ends_the_stream() {
    let vault = Vault::start().await;
    let key = RecipientKey::generate().unwrap();
    let good = recipient(&key, 2);
    let bad = [
        (
            "epoch 0",
            Recipient {
                epoch: 0,
                ..good.clone()
            },
        ),
        (
            "short nonce",
            Recipient {
                stream_nonce: vec![5; 31],
                ..good.clone()
            },
        ),
        (
            "short key",
            Recipient {
                public_key: vec![9; 31],
                ..good.clone()
            },
        ),
        (
            "a point of small order",
            Recipient {
                public_key: vec![0; 32],
                ..good.clone()
            },
        ),
    ];
    for (what, recipient) in bad {
        let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
        stream.say_to(Some(recipient), &[]).await;
        let ended = stream.hear().await;
        assert!(ended.is_err(), "{what}");
        refused(ended, Code::InvalidArgument, "REQUEST_MALFORMED");
    }
    // The epoch is lower than the previous one.
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream.say_to(Some(good.clone()), &[]).await;
    assert_eq!(stream.message().await.epoch, 2);
    stream.say_to(Some(good.clone()), &[]).await;
    refused(stream.hear().await, Code::InvalidArgument, "REQUEST_MALFORMED");
    // The nonce differs from the previous one.
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream.say_to(Some(good.clone()), &[]).await;
    assert_eq!(stream.message().await.epoch, 2);
    let other = Recipient {
        epoch: 3,
        stream_nonce: vec![6; 32],
        ..good
    };
    stream.say_to(Some(other), &[]).await;
    refused(stream.hear().await, Code::InvalidArgument, "REQUEST_MALFORMED");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unary_answer_is_sealed_to_the_key_in_its_request() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "A", "value-of-a").await;
    let mut client = DecryptServiceClient::new(vault.channel(pki::INJECTOR));
    let key = RecipientKey::generate().unwrap();
    let request = DecryptRequest {
        recipient_key: key.public(),
        ..ask("w", ["A"])
    };
    let response = client.decrypt(request.clone()).await.unwrap().into_inner();
    assert!(!format!("{response:?}").contains("value-of-a"));
    let mut opener = between(&[], 0, |between| {
        key.open(&response.encapsulated_key, between).unwrap()
    });
    assert_eq!(opened(&mut opener, 0, 0, &response).unwrap(), [b"value-of-a"]);

    let bad = DecryptRequest {
        recipient_key: vec![1; 5],
        ..request
    };
    refused(
        client.decrypt(bad).await,
        Code::InvalidArgument,
        "REQUEST_MALFORMED",
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_requires_sealing_sends_no_value_in_clear() {
    let vault = Vault::start_with(Pki::new(), |settings| settings.require_sealed = true).await;
    vault.workspace("w").await;
    vault.put("w", "A", "value-of-a").await;
    let mut client = DecryptServiceClient::new(vault.channel(pki::INJECTOR));
    let unary = client.decrypt(ask("w", ["A"])).await;
    refused(unary, Code::FailedPrecondition, "SEALING_REQUIRED");
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream.say([(1, ask("w", ["A"]))]).await;
    refused(stream.hear().await, Code::FailedPrecondition, "SEALING_REQUIRED");

    let key = RecipientKey::generate().unwrap();
    let sealed = DecryptRequest {
        recipient_key: key.public(),
        ..ask("w", ["A"])
    };
    assert!(client.decrypt(sealed).await.is_ok());
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream
        .say_to(Some(recipient(&key, 1)), &[(1, ask("w", ["A"]))])
        .await;
    assert_eq!(stream.message().await.epoch, 1);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injector_works_with_a_vault_that_requires_sealing() {
    let pair = Pair::start_with(|settings| settings.require_sealed = true, |_| {}).await;
    let upstream = Upstream::start().await;
    pair.vault.workspace("w").await;
    pair.vault.put("w", "A", "value-of-a").await;
    pair.injector.add(server("w", "s", &upstream.url(), &["A"])).await;
    assert_eq!(pair.injector.get("/w/s/").await.status(), 200);
    assert_eq!(upstream.last().header("x-mcp-secret-a"), Some("value-of-a"));
    pair.stop().await;
}
