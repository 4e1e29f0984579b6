#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

pub(crate) mod fake_vault;
mod renewal;
mod stream;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::SystemTime,
};

use chassis::{
    pki::{Ca, CaSpec, Leaf, Usage, issue},
    tls::{Identity, Reloading},
};
use proto::{
    Principal,
    seal::{SealContext, SealedCall, Sealer},
    vault::v1::{DecryptResponse, DecryptStatus, DecryptedSecret},
};
use tempfile::TempDir;

use super::{
    seal_keys::{Identities, Rotation, SealKeys},
    *,
};

/// The principal of the injector.
const INJECTOR: &str = "spiffe://test/injector";

/// A secret in an answer, and the value that the vault seals with it.
type SecretAndValue = (DecryptedSecret, Option<Vec<u8>>);

fn ok(name: &str, value: &[u8]) -> SecretAndValue {
    let secret = DecryptedSecret {
        version: 1,
        ..status(name, DecryptStatus::Ok).0
    };
    (secret, Some(value.to_vec()))
}

fn status(name: &str, status: DecryptStatus) -> SecretAndValue {
    let secret = DecryptedSecret {
        name: name.into(),
        status: status.into(),
        ..Default::default()
    };
    (secret, None)
}

fn credentials() -> VaultCredentials {
    VaultCredentials {
        vault: identities().vault,
        injector: InjectorIdentity::Certificate(Reloading::fixed(certificate())),
    }
}

/// Issues the certificate of the injector.
fn certificate() -> Identity {
    let (dir, now) = (TempDir::new().unwrap(), SystemTime::now());
    let leaf = Leaf::new("injector", INJECTOR, &[Usage::Client], now);
    let issued = issue(&Ca::generate(&CaSpec::for_any_name(now)).unwrap(), &leaf).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert, &issued.cert_pem).unwrap();
    fs::write(&key, issued.key_pem.as_bytes()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    Identity::load(&cert, &key).unwrap()
}

fn identities() -> Identities {
    Identities {
        vault: Principal::parse("dns:vault").unwrap(),
        injector: Principal::parse(INJECTOR).unwrap(),
    }
}

/// Both ends of the sealing on one stream.
struct SealedStream {
    keys: SealKeys,
    sealer: Sealer,
    epoch: u64,
}

impl SealedStream {
    fn new() -> Self {
        let mut keys = SealKeys::new(identities()).unwrap();
        let (sealer, epoch) = next_epoch(&mut keys);
        keys.switch_to(epoch, sealer.encapsulated_key()).unwrap();
        Self { keys, sealer, epoch }
    }

    /// Returns the vault's answer to request 1, which is for the server `s`.
    fn sealed(&mut self, secrets: Vec<SecretAndValue>) -> DecryptResponse {
        let (secrets, values): (Vec<_>, Vec<_>) = secrets.into_iter().unzip();
        let response = DecryptResponse {
            workspace_uid: Uid::generate().to_string(),
            secrets,
            ..Default::default()
        };
        let call = SealedCall {
            epoch: self.epoch,
            id: 1,
            server: "s",
        };
        let values = values.iter().flatten().map(Vec::as_slice);
        let sealed = self.sealer.seal(call, &response, values).unwrap();
        DecryptResponse { sealed, ..response }
    }

    fn opened(&mut self, secrets: Vec<SecretAndValue>) -> OpenedAnswer {
        let response = self.sealed(secrets);
        self.keys.open(1, "s", response).unwrap()
    }
}

fn next_epoch(keys: &mut SealKeys) -> (Sealer, u64) {
    let recipient = keys.announce().unwrap();
    let Identities { vault, injector } = identities();
    let context = SealContext {
        vault: &vault,
        injector: &injector,
        nonce: &recipient.stream_nonce,
        epoch: recipient.epoch,
    };
    let sealer = Sealer::new(&recipient.public_key, context).unwrap();
    (sealer, recipient.epoch)
}

fn parse(secrets: Vec<SecretAndValue>, names: &[&str]) -> Result<usize, Reason> {
    let names: Vec<_> = names
        .iter()
        .map(|name| SecretName::parse(name).unwrap())
        .collect();
    let parsed = answer::parse(SealedStream::new().opened(secrets), names.iter(), false);
    parsed
        .map(|(_, answered)| answered.len())
        .map_err(|refusal| refusal.reason)
}

#[test]
fn an_answer_to_the_request_is_used() {
    let answer = vec![ok("A", b"1"), status("B", DecryptStatus::NotFound)];
    assert_eq!(parse(answer, &["A", "B"]), Ok(2));
}

#[test]
fn an_answer_that_differs_from_the_request_is_not_used() {
    let with = |secret: SecretAndValue, value: Option<&[u8]>| (secret.0, value.map(<[u8]>::to_vec));
    let of_status = |number: i32| {
        let (secret, _) = ok("B", b"2");
        DecryptedSecret {
            status: number,
            ..secret
        }
    };
    let of_origin = DecryptedSecret {
        upstream_origins: vec!["nowhere".into()],
        ..ok("B", b"2").0
    };
    for (what, answer) in [
        ("another name", vec![ok("A", b"1"), ok("C", b"2")]),
        ("a name twice", vec![ok("A", b"1"), ok("A", b"1")]),
        ("another order", vec![ok("B", b"2"), ok("A", b"1")]),
        ("one too few", vec![ok("A", b"1")]),
        ("one too many", vec![ok("A", b"1"), ok("B", b"2"), ok("C", b"3")]),
        ("another spelling", vec![ok("a", b"1"), ok("B", b"2")]),
        ("no value", vec![ok("A", b"1"), with(ok("B", b"2"), None)]),
        (
            "no status",
            vec![ok("A", b"1"), status("B", DecryptStatus::Unspecified)],
        ),
        ("an unknown status", vec![ok("A", b"1"), (of_status(99), None)]),
        (
            "a miss with a value",
            vec![
                ok("A", b"1"),
                with(status("B", DecryptStatus::NotFound), Some(b"2")),
            ],
        ),
        (
            "a bad origin",
            vec![ok("A", b"1"), (of_origin, Some(b"2".to_vec()))],
        ),
    ] {
        assert_eq!(
            parse(answer, &["A", "B"]),
            Err(Reason::VaultAnswerInvalid),
            "{what}"
        );
    }
}

#[test]
fn an_answer_without_a_workspace_is_not_used() {
    let mut opened = SealedStream::new().opened(Vec::new());
    opened.response.workspace_uid.clear();
    assert!(answer::parse(opened, std::iter::empty(), false).is_err());
}

#[test]
fn an_answer_that_is_not_sealed_is_not_used() {
    let mut stream = SealedStream::new();
    let (mut secret, value) = ok("A", b"1");
    secret.value = value.unwrap();
    let in_clear = DecryptResponse {
        workspace_uid: Uid::generate().to_string(),
        secrets: vec![secret.clone()],
        ..Default::default()
    };
    assert!(stream.keys.open(1, "s", in_clear).is_err());
    // An answer with a value in clear beside the sealed one is not used either.
    let sealed = stream.sealed(vec![(secret, Some(b"1".to_vec()))]);
    assert!(stream.keys.open(1, "s", sealed).is_err());
}

#[test]
fn an_answer_to_another_call_or_server_does_not_open() {
    let mut stream = SealedStream::new();
    let sealed = stream.sealed(vec![ok("A", b"1")]);
    assert!(stream.keys.open(2, "s", sealed.clone()).is_err());
    assert!(stream.keys.open(1, "t", sealed.clone()).is_err());
    assert!(stream.keys.open(1, "s", sealed).is_ok());
}

#[test]
fn a_key_opens_only_the_answers_of_its_epoch() {
    let mut stream = SealedStream::new();
    let old = stream.sealed(vec![ok("A", b"1")]);
    let (sealer, epoch) = next_epoch(&mut stream.keys);
    // Answers that the vault sealed to the old key open until the vault uses the new key.
    assert!(stream.keys.switch_to(stream.epoch, &[]).is_ok());
    assert!(stream.keys.open(1, "s", old).is_ok());
    let late = stream.sealed(vec![ok("A", b"1")]);

    // The injector does not switch to an epoch that was not announced, or without the encapsulated key.
    assert!(
        stream
            .keys
            .switch_to(epoch + 1, sealer.encapsulated_key())
            .is_err()
    );
    assert!(stream.keys.switch_to(epoch, &[]).is_err());
    stream.keys.switch_to(epoch, sealer.encapsulated_key()).unwrap();
    (stream.sealer, stream.epoch) = (sealer, epoch);
    assert!(stream.keys.open(1, "s", late).is_err());
    let new = stream.sealed(vec![ok("A", b"1")]);
    assert!(stream.keys.open(1, "s", new).is_ok());
    // An epoch begins once, so that no context is set up again from its beginning.
    let again = stream.sealer.encapsulated_key().to_vec();
    assert!(stream.keys.switch_to(epoch, &again).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_key_is_used_for_less_than_a_minute() {
    let mut keys = SealKeys::new(identities()).unwrap();
    assert!(matches!(keys.rotation(), Rotation::Announce { .. }));
    let (sealer, epoch) = next_epoch(&mut keys);
    keys.switch_to(epoch, sealer.encapsulated_key()).unwrap();
    let Rotation::NotBefore(over) = keys.rotation() else {
        panic!("{:?}", keys.rotation())
    };
    assert!(over < Instant::now() + Duration::from_secs(60));
    tokio::time::sleep_until(over).await;
    assert!(matches!(keys.rotation(), Rotation::Announce { .. }));
    let recipient = keys.announce().unwrap();
    assert_eq!(recipient.epoch, epoch + 1);
}

#[tokio::test(start_paused = true)]
async fn a_vault_has_a_limited_time_to_use_a_new_key() {
    let mut keys = SealKeys::new(identities()).unwrap();
    let (sealer, epoch) = next_epoch(&mut keys);
    let Rotation::NotBefore(end) = keys.rotation() else {
        panic!("{:?}", keys.rotation())
    };
    tokio::time::sleep_until(end).await;
    assert_eq!(keys.rotation(), Rotation::Overdue);
    // A key ages from its creation on, not from its first use.
    keys.switch_to(epoch, sealer.encapsulated_key()).unwrap();
    assert!(matches!(keys.rotation(), Rotation::Announce { .. }));
}
