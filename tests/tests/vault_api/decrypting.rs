//! Tests of the decrypt RPCs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_decrypt_answers_each_name_in_order_and_a_missing_secret_does_not_fail_the_others() {
    let vault = Vault::start().await;
    let workspace = vault.workspace("w").await;
    vault
        .put_for(
            "w",
            "BOUND",
            "bound",
            &["https://api.github.com", "https://*.example.com:8443"],
        )
        .await;
    vault.put("w", "FREE", "old").await;
    vault.put("w", "FREE", "free").await;
    let request = DecryptRequest {
        workspace_uid: workspace.uid.clone(),
        server: "s".into(),
        ..ask("w", ["free", "missing", "bound"])
    };
    let answer = decrypt(&vault, request.clone()).await.unwrap();
    assert_eq!(answer.workspace_uid, workspace.uid);
    let expected = |values: bool| {
        let value = |value: &str| {
            if values {
                value.as_bytes().to_vec()
            } else {
                Vec::new()
            }
        };
        // A check returns facts instead of the value.
        let facts = |value: &str| (!values).then(|| ValueFacts::of(value.as_bytes()));
        let ok = DecryptStatus::Ok.into();
        let origins = ["https://api.github.com", "https://*.example.com:8443"]
            .map(str::to_owned)
            .to_vec();
        [
            DecryptedSecret {
                name: "FREE".into(),
                status: ok,
                version: 2,
                value: value("free"),
                upstream_origins: vec![],
                facts: facts("free"),
            },
            DecryptedSecret {
                name: "MISSING".into(),
                status: DecryptStatus::NotFound.into(),
                ..Default::default()
            },
            DecryptedSecret {
                name: "BOUND".into(),
                status: ok,
                version: 1,
                value: value("bound"),
                upstream_origins: origins,
                facts: facts("bound"),
            },
        ]
    };
    assert_eq!(answer.secrets, expected(true));
    let checked = decrypt(
        &vault,
        DecryptRequest {
            check_only: true,
            ..request
        },
    )
    .await
    .unwrap();
    assert_eq!(checked.secrets, expected(false));
    assert!(
        decrypt(&vault, ask::<&str>("w", []))
            .await
            .unwrap()
            .secrets
            .is_empty()
    );

    // A put replaces the origins, so a put without origins removes them.
    vault.put("w", "BOUND", "bound").await;
    assert!(
        decrypt_one(&vault, "w", "BOUND")
            .await
            .upstream_origins
            .is_empty()
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decrypt_that_cannot_be_answered_completely_is_refused() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "A_B", "v").await;
    let names: Vec<_> = (0..65).map(|number| format!("N{number}")).collect();
    assert_eq!(
        decrypt(&vault, ask("w", &names[..64]))
            .await
            .unwrap()
            .secrets
            .len(),
        64
    );
    refused(
        decrypt(&vault, ask("w", &names)).await,
        Code::InvalidArgument,
        "REQUEST_MALFORMED",
    );
    for twins in [["A_B", "A_B"], ["a-b", "A.B"], ["a b", "a\u{e9}b"]] {
        refused(
            decrypt(&vault, ask("w", twins)).await,
            Code::InvalidArgument,
            "SECRET_NAME_DUPLICATE",
        );
    }
    refused(
        decrypt(&vault, ask("gone", ["A"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    let other = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    for (uid, code, reason) in [
        (other.to_owned(), Code::FailedPrecondition, "WORKSPACE_REPLACED"),
        (other.to_uppercase(), Code::InvalidArgument, "REQUEST_MALFORMED"),
        ("x".to_owned(), Code::InvalidArgument, "REQUEST_MALFORMED"),
    ] {
        let request = DecryptRequest {
            workspace_uid: uid,
            ..ask("w", ["A_B"])
        };
        refused(decrypt(&vault, request).await, code, reason);
    }
    // The server is authenticated with sealed values, so the vault must not shorten or change it.
    for server in ["x".repeat(64), "Not a label".to_owned()] {
        let request = DecryptRequest {
            server,
            ..ask("w", ["A_B"])
        };
        refused(
            decrypt(&vault, request).await,
            Code::InvalidArgument,
            "SERVER_NAME_INVALID",
        );
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_at_most_1_mib_of_values() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    for number in 0..16 {
        vault
            .put("w", &format!("BIG{number}"), vec![number; LARGEST])
            .await;
    }
    vault.put("w", "LAST", "x").await;
    let mut names: Vec<_> = (0..16).map(|number| format!("BIG{number}")).collect();
    let answer = decrypt(&vault, ask("w", &names)).await.unwrap();
    assert_eq!(
        answer
            .secrets
            .iter()
            .map(|secret| secret.value.len())
            .sum::<usize>(),
        MIB
    );
    names.push("LAST".to_owned());
    refused(
        decrypt(&vault, ask("w", &names)).await,
        Code::ResourceExhausted,
        "LIMIT_EXCEEDED",
    );
    vault.stop().await;
}

fn value(outcome: &Outcome) -> &[u8] {
    match outcome {
        Outcome::Response(response) => &response.secrets[0].value,
        Outcome::Error(error) => panic!("{error:?}"),
    }
}

fn failure(outcome: &Outcome) -> (Code, &'static str) {
    match outcome {
        Outcome::Response(response) => panic!("{response:?}"),
        Outcome::Error(error) => (Code::from(error.code), error.reason().name()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_carries_many_decrypts_and_answers_match_their_ids() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    put_many(&vault, "w", 3).await;
    for number in 0..3 {
        vault
            .put("w", &format!("S{number:04}"), format!("value {number}"))
            .await;
    }
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    let ids: BTreeSet<u64> = (0..256).map(|number| u64::MAX - number * 7).collect();
    stream
        .say(ids.iter().map(|id| (*id, ask("w", [format!("S{:04}", id % 3)]))))
        .await;
    stream.say([]).await;
    stream
        .say([(1, ask("w", ["S0001"])), (2, ask("w", ["S0002"]))])
        .await;
    let answers = stream.gather(258).await;
    assert_eq!(
        answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [1, 2].into_iter().chain(ids).collect::<Vec<_>>()
    );
    for (id, outcome) in &answers {
        assert_eq!(value(outcome), format!("value {}", id % 3).as_bytes());
    }
    // The next call on the same stream receives the new version.
    vault.put("w", "S0000", "fresh").await;
    stream.say([(9, ask("w", ["S0000"]))]).await;
    assert_eq!(value(&stream.gather(1).await[0].1), b"fresh");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_call_does_not_end_its_stream() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    let replaced = DecryptRequest {
        workspace_uid: proto::Uid::generate().to_string(),
        ..ask("w", ["NAME"])
    };
    let bad = [
        (
            ask("NOT A LABEL", ["NAME"]),
            (Code::InvalidArgument, "WORKSPACE_NAME_INVALID"),
        ),
        (ask("gone", ["NAME"]), (Code::NotFound, "WORKSPACE_NOT_FOUND")),
        (ask("w", [""]), (Code::InvalidArgument, "SECRET_NAME_INVALID")),
        (
            ask("w", ["a-b", "a.b"]),
            (Code::InvalidArgument, "SECRET_NAME_DUPLICATE"),
        ),
        (ask("w", 0..65), (Code::InvalidArgument, "REQUEST_MALFORMED")),
        (replaced, (Code::FailedPrecondition, "WORKSPACE_REPLACED")),
    ];
    let calls = bad
        .iter()
        .enumerate()
        .map(|(id, (request, _))| (id as u64, request.clone()));
    stream.say(calls.chain([(99, ask("w", ["NAME"]))])).await;
    // A call without a request is refused like any malformed call.
    stream
        .calls
        .send(DecryptStreamRequest {
            calls: vec![DecryptCall {
                id: 100,
                request: None,
            }],
            recipient: None,
        })
        .await
        .unwrap();
    let answers = stream.gather(bad.len() + 2).await;
    for ((id, outcome), (_, expected)) in answers.iter().zip(&bad) {
        assert_eq!(failure(outcome), *expected, "call {id}");
    }
    assert_eq!(value(&answers[bad.len()].1), b"v");
    assert_eq!(failure(&answers[bad.len() + 1].1).1, "WORKSPACE_NAME_INVALID");
    stream.say([(1, ask("w", ["NAME"]))]).await;
    assert_eq!(value(&stream.gather(1).await[0].1), b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_more_than_256_calls_is_refused() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream.say((0..257).map(|id| (id, ask("w", ["NAME"])))).await;
    refused(stream.hear().await, Code::InvalidArgument, "REQUEST_MALFORMED");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_stream_is_authorized_for_its_own_workspace() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.injector = vec![format!("{}=mine", pki::INJECTOR)]
    })
    .await;
    for workspace in ["mine", "theirs"] {
        vault.workspace(workspace).await;
        vault.put(workspace, "NAME", workspace).await;
    }
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream
        .say([
            (1, ask("mine", ["NAME"])),
            (2, ask("theirs", ["NAME"])),
            (3, ask("nowhere", ["NAME"])),
        ])
        .await;
    let answers = stream.gather(3).await;
    assert_eq!(value(&answers[0].1), b"mine");
    let (Outcome::Error(theirs), Outcome::Error(nowhere)) = (&answers[1].1, &answers[2].1) else {
        panic!("{answers:?}")
    };
    assert_eq!(theirs, nowhere, "what exists must not show");
    assert_eq!(
        failure(&answers[1].1),
        (Code::PermissionDenied, "PERMISSION_DENIED")
    );
    let alone = refused(
        decrypt(&vault, ask("theirs", ["NAME"])).await,
        Code::PermissionDenied,
        "PERMISSION_DENIED",
    );
    assert_eq!(alone.message(), theirs.message);
    vault.stop().await;
}
