//! Invalid certificates.

use super::*;

fn admin_leaf() -> Leaf {
    Leaf {
        name: "admin".to_owned(),
        uris: vec![pki::ADMIN.to_owned()],
        ..Pki::blank()
    }
}

fn with(vault: &Vault, files: &Files) -> Channel {
    vault.pki.channel(files, vault.address, pki::VAULT)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_verify_makes_no_connection() {
    let vault = Vault::start().await;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    // The other CA has the same subject and another key.
    let (other, dir) = (Pki::new(), TempDir::new().unwrap());
    let issue = |leaf| vault.pki.leaf(&leaf);
    for (what, files, expected) in [
        ("good", issue(admin_leaf()), CallResult::Served),
        ("self-signed", self_signed(&dir), CallResult::NoConnection),
        (
            "of another CA",
            other.leaf(&admin_leaf()),
            CallResult::NoConnection,
        ),
        (
            "expired",
            issue(Leaf {
                not_after: now - Duration::from_secs(60),
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
        (
            "not yet valid",
            issue(Leaf {
                not_before: now + hour,
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
        (
            "a CA",
            issue(Leaf {
                is_ca: true,
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
        (
            "for servers only",
            issue(Leaf {
                usages: vec![Usage::Server],
                ..admin_leaf()
            }),
            CallResult::NoConnection,
        ),
    ] {
        assert_eq!(
            call_result(&with(&vault, &files)).await,
            expected,
            "a certificate that is {what}"
        );
    }
    assert_eq!(
        call_result(&wire::anonymous(&vault.pki, vault.address)).await,
        CallResult::Unauthenticated
    );
    vault.stop().await;
}

fn self_signed(dir: &TempDir) -> Files {
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(pki::ADMIN.try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let files = Files {
        cert: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_is_matched_exactly_and_exactly_one_name_has_a_role() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.admin.push("dns:admin.test".to_owned());
        settings.roles.viewer.push("dns:viewer.test=*".to_owned());
        settings.roles.viewer.push("spiffe://test/viewer=*".to_owned());
    })
    .await;
    let of = async |uris: &[&str], dns: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let files = vault.pki.leaf(&Leaf {
            uris: owned(uris),
            dns: owned(dns),
            ..admin_leaf()
        });
        call_result(&with(&vault, &files)).await
    };
    assert_eq!(of(&[pki::ADMIN], &[]).await, CallResult::Served);
    assert_eq!(of(&[pki::ADMIN], &["a.test", "b.test"]).await, CallResult::Served);
    assert_eq!(of(&[], &["admin.test"]).await, CallResult::Served);
    for other in [
        "spiffe://test/admin-evil",
        "spiffe://test/Admin",
        "spiffe://test/admi",
        "spiffe://test/admin/x",
        "spiffe://other/admin",
        "spiffe://test.other/admin",
        "spiffe://other/test/admin",
    ] {
        assert_eq!(of(&[other], &[]).await, CallResult::Denied, "{other}");
    }
    for malformed in [
        "spiffe://TEST/admin",
        "SPIFFE://test/admin",
        "Spiffe://test/admin",
        "spiffe://test/%61dmin",
        "spiffe://test/admin/",
        "spiffe://test//admin",
        "spiffe://test/./admin",
        "spiffe://test/x/../admin",
        "spiffe://test/admin?x",
        "spiffe://test/admin#x",
        "spiffe://u@test/admin",
        "spiffe://test:443/admin",
        "spiffe:/test/admin",
        "https://test/admin",
        "admin",
    ] {
        assert_eq!(
            of(&[malformed], &[]).await,
            CallResult::Unauthenticated,
            "{malformed}"
        );
        // A certificate with an invalid URI is refused even when its DNS name is a principal.
        assert_eq!(
            of(&[malformed], &["admin.test"]).await,
            CallResult::Unauthenticated,
            "{malformed} with a DNS name"
        );
    }
    for several in [
        [pki::ADMIN, "spiffe://test/other"],
        ["spiffe://test/other", pki::ADMIN],
        [pki::ADMIN, "https://test/admin"],
    ] {
        assert_eq!(of(&several, &[]).await, CallResult::Served, "{several:?}");
        // DNS names count only without a URI.
        assert_eq!(of(&several, &["viewer.test"]).await, CallResult::Served);
    }
    for several in [
        [pki::ADMIN, "spiffe://test/viewer"],
        [pki::ADMIN, pki::ADMIN],
        ["spiffe://test/other", "spiffe://test/admin-evil"],
        ["spiffe://test/admin/", "https://test/admin"],
    ] {
        for names in [&[][..], &["admin.test"]] {
            assert_eq!(
                of(&several, names).await,
                CallResult::Unauthenticated,
                "{several:?} {names:?}"
            );
        }
    }
    assert_eq!(of(&[], &[]).await, CallResult::Unauthenticated);
    for names in [
        &["admin.test", "other.test"][..],
        &["other.test", "*.test", "admin.test"],
    ] {
        assert_eq!(of(&[], names).await, CallResult::Served, "{names:?}");
    }
    for names in [
        &["admin.test", "viewer.test"][..],
        &["other.test", "another.test"],
        &["*.test"],
        &["Admin.test"],
        &["admin.test."],
    ] {
        assert_eq!(of(&[], names).await, CallResult::Unauthenticated, "{names:?}");
    }
    for name in ["xadmin.test", "admin.test.evil", "admin"] {
        assert_eq!(of(&[], &[name]).await, CallResult::Denied, "{name}");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_certificate_is_of_no_use_learns_why_without_a_name_in_it() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.viewer.push("spiffe://test/viewer=*".to_owned());
    })
    .await;
    let refusal = async |channel: Channel| {
        let call = wire::open(
            &channel,
            "/vault.v1.WorkspaceService/ListWorkspaces",
            Bytes::new(),
        );
        call.await.map(drop).unwrap_err()
    };
    for (uris, why) in [
        (&[][..], "has no URI and no DNS name"),
        (&["https://test/admin"], "is neither a SPIFFE ID nor"),
        (
            &["spiffe://test/one", "spiffe://test/two"],
            "several names, and none of them has a role",
        ),
        (
            &[pki::ADMIN, "spiffe://test/viewer"],
            "several names that have a role here",
        ),
    ] {
        let leaf = Leaf {
            uris: uris.iter().map(|&uri| uri.to_owned()).collect(),
            ..admin_leaf()
        };
        let status = refusal(with(&vault, &vault.pki.leaf(&leaf))).await;
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains(why), "{status:?}");
        assert!(!status.message().contains("test/"), "{status:?}");
    }
    let status = refusal(wire::anonymous(&vault.pki, vault.address)).await;
    assert!(
        status.message().contains("the client sent no certificate"),
        "{status:?}"
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_similar_to_the_injector_decrypts_nothing() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    for suffix in ["-evil", "/x", "s", "."] {
        let mut client = DecryptServiceClient::new(vault.channel(&format!("{}{suffix}", pki::INJECTOR)));
        let request = DecryptRequest {
            workspace: "w".into(),
            names: vec!["NAME".into()],
            ..Default::default()
        };
        assert_eq!(
            client.decrypt(request).await.unwrap_err().code(),
            Code::PermissionDenied,
            "{suffix}"
        );
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_connects_only_to_the_service_with_the_expected_identity() {
    let vault = Vault::start().await;
    let admin = vault.pki.principal(pki::ADMIN);
    for (name, expected) in [
        (pki::VAULT, CallResult::Served),
        ("spiffe://test/vault-evil", CallResult::NoConnection),
        ("spiffe://other/vault", CallResult::NoConnection),
        (pki::INJECTOR, CallResult::NoConnection),
        // The certificate also has this DNS name, and the URI in it takes precedence.
        ("dns:localhost", CallResult::NoConnection),
    ] {
        assert_eq!(
            call_result(&vault.pki.channel(&admin, vault.address, name)).await,
            expected,
            "{name}"
        );
    }
    assert_eq!(
        call_result(&Pki::new().channel(&admin, vault.address, pki::VAULT)).await,
        CallResult::NoConnection,
        "another CA"
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_during_a_connection_is_refused_from_the_next_call_on() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let short = |id: &str| Leaf {
        uris: vec![id.to_owned()],
        not_after: SystemTime::now() + Duration::from_secs(4),
        ..admin_leaf()
    };
    let admin = with(&vault, &vault.pki.leaf(&short(pki::ADMIN)));
    let mut injector = DecryptServiceClient::new(with(&vault, &vault.pki.leaf(&short(pki::INJECTOR))));
    let (calls, queue) = mpsc::channel(1);
    let mut answers = injector
        .decrypt_stream(ReceiverStream::new(queue))
        .await
        .unwrap()
        .into_inner();
    let mut streamed = async || {
        let request = DecryptRequest {
            workspace: "w".into(),
            names: vec!["NAME".into()],
            ..Default::default()
        };
        let calls_of_one = vec![DecryptCall {
            id: 1,
            request: Some(request),
        }];
        calls
            .send(DecryptStreamRequest {
                calls: calls_of_one,
                recipient: None,
            })
            .await
            .unwrap();
        let mut message = timeout(e2e::PATIENCE, answers.message())
            .await
            .expect("no answer")
            .unwrap()
            .expect("the stream ended");
        match message.answers.pop().unwrap().outcome.unwrap() {
            Outcome::Response(_) => Code::Ok,
            Outcome::Error(error) => Code::from(error.code),
        }
    };
    assert_eq!(call_result(&admin).await, CallResult::Served);
    assert_eq!(streamed().await, Code::Ok);
    // A new connection would fail with `NoConnection`, so this refusal comes over the existing connection.
    eventually("the certificate counts no more", async || {
        call_result(&admin).await != CallResult::Served
    })
    .await;
    assert_eq!(call_result(&admin).await, CallResult::Unauthenticated);
    eventually("nor on a stream that was open before", async || {
        streamed().await == Code::Unauthenticated
    })
    .await;
    assert_eq!(
        call_result(&with(
            &vault,
            &vault.pki.leaf(&Leaf {
                not_after: SystemTime::now() - Duration::from_secs(2),
                ..admin_leaf()
            })
        ))
        .await,
        CallResult::NoConnection
    );
    vault.stop().await;
}
