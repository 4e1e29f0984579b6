//! Tests of answers that were changed on their way, or are not sealed.

use proto::vault::v1::{DecryptResponse, DecryptStreamResponse, decrypt_answer::Outcome};

use crate::{
    fake::{Act, Fake, honest, value_of},
    scene, value,
};
use e2e::Pki;

/// A name and a change of a message.
type Change = (&'static str, fn(&mut DecryptStreamResponse));

/// Changes each answer of a message.
fn each(message: &mut DecryptStreamResponse, change: fn(&mut DecryptResponse)) {
    for answer in &mut message.answers {
        if let Some(Outcome::Response(response)) = &mut answer.outcome {
            change(response);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_changed_on_its_way_is_never_used() {
    let pki = Pki::new();
    let changes: [Change; 8] = [
        ("in clear", |message| {
            each(message, |response| {
                response.sealed.clear();
                response.secrets[0].value = value_of("A");
            });
        }),
        ("in clear beside what was sealed", |message| {
            each(message, |response| {
                response.secrets[0].value = b"canary-other".to_vec()
            });
        }),
        ("another version", |message| {
            each(message, |response| response.secrets[0].version += 1);
        }),
        ("bound to nothing", |message| {
            each(message, |response| {
                response.secrets[0].upstream_origins = vec!["https://*.example.com".to_owned()];
            });
        }),
        ("a flipped bit", |message| {
            each(message, |response| response.sealed[0] ^= 1);
        }),
        ("cut short", |message| {
            each(message, |response| response.sealed.truncate(4));
        }),
        ("to another call", |message| {
            for answer in &mut message.answers {
                answer.id += 1;
            }
        }),
        ("of another epoch", |message| message.epoch += 1),
    ];
    for (what, change) in changes {
        let vault = Fake::new(|call| Act::Answer(vec![honest(&call)]))
            .serve(&pki)
            .await;
        let scene = scene(&pki, vault.address, &[("s", &["A"])]).await;
        scene.call("s").await;
        assert_eq!(value(&scene.upstream.last(), "A"), Some(value_of("A")), "{what}");
        let calls = scene.upstream.seen().len();
        vault.fake.tamper(change);
        let refused = scene.call("s").await;
        assert!(refused.status().is_server_error(), "{what}: {}", refused.status());
        assert_eq!(scene.upstream.seen().len(), calls, "{what}");
    }
}
