#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod keeping;
mod vault;

use proto::{
    Principal,
    seal::{SealContext, SealedCall, Sealer},
    vault::v1::DecryptResponse,
};

use super::{
    sealed::{Due, Keys},
    *,
};

/// A secret as a vault answers for it, and the value that it seals with it.
type Said = (DecryptedSecret, Option<Vec<u8>>);

fn ok(name: &str, value: &[u8]) -> Said {
    let secret = DecryptedSecret {
        version: 1,
        ..status(name, DecryptStatus::Ok).0
    };
    (secret, Some(value.to_vec()))
}

fn status(name: &str, status: DecryptStatus) -> Said {
    let secret = DecryptedSecret {
        name: name.into(),
        status: status.into(),
        ..Default::default()
    };
    (secret, None)
}

fn ends() -> Identities {
    Identities {
        vault: Principal::parse("dns:vault").unwrap(),
        injector: Principal::parse("dns:injector").unwrap(),
    }
}

/// A vault's end of a stream, and the injector's.
struct Ours {
    keys: Keys,
    sealer: Sealer,
    epoch: u64,
}

impl Ours {
    fn new() -> Self {
        let mut keys = Keys::new(ends()).unwrap();
        let (sealer, epoch) = next_epoch(&mut keys);
        keys.turn_to(epoch, sealer.encapsulated_key()).unwrap();
        Self { keys, sealer, epoch }
    }

    /// What the vault answers to call 1 for the server `s`.
    fn sealed(&mut self, said: Vec<Said>) -> DecryptResponse {
        let (secrets, values): (Vec<_>, Vec<_>) = said.into_iter().unzip();
        let response = DecryptResponse {
            workspace_uid: Uid::generate().to_string(),
            secrets,
            ..Default::default()
        };
        let answering = SealedCall {
            epoch: self.epoch,
            id: 1,
            server: "s",
        };
        let values = values.iter().flatten().map(Vec::as_slice);
        let sealed = self.sealer.seal(answering, &response, values).unwrap();
        DecryptResponse { sealed, ..response }
    }

    fn opened(&mut self, said: Vec<Said>) -> Opened {
        let response = self.sealed(said);
        self.keys.open(1, "s", response).unwrap()
    }
}

fn next_epoch(keys: &mut Keys) -> (Sealer, u64) {
    let recipient = keys.renew().unwrap();
    let Identities { vault, injector } = ends();
    let between = SealContext {
        vault: &vault,
        injector: &injector,
        nonce: &recipient.stream_nonce,
        epoch: recipient.epoch,
    };
    let sealer = Sealer::new(&recipient.public_key, between).unwrap();
    (sealer, recipient.epoch)
}

fn check(said: Vec<Said>, asked: &[&str]) -> Result<usize, Reason> {
    let names: Vec<_> = asked
        .iter()
        .map(|name| SecretName::parse(name).unwrap())
        .collect();
    let read = read(Ours::new().opened(said), names.iter(), false);
    read.map(|(_, answered)| answered.len())
        .map_err(|refusal| refusal.reason)
}

#[test]
fn an_answer_is_used_when_it_is_what_was_asked() {
    let answer = vec![ok("A", b"1"), status("B", DecryptStatus::NotFound)];
    assert_eq!(check(answer, &["A", "B"]), Ok(2));
}

#[test]
fn any_other_answer_is_not_used() {
    let with = |said: Said, value: Option<&[u8]>| (said.0, value.map(<[u8]>::to_vec));
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
            check(answer, &["A", "B"]),
            Err(Reason::VaultAnswerInvalid),
            "{what}"
        );
    }
}

#[test]
fn an_answer_without_a_workspace_is_not_used() {
    let mut opened = Ours::new().opened(Vec::new());
    opened.response.workspace_uid.clear();
    assert!(read(opened, std::iter::empty(), false).is_err());
}

#[test]
fn an_answer_that_is_not_sealed_is_not_used() {
    let mut ours = Ours::new();
    let (mut secret, value) = ok("A", b"1");
    secret.value = value.unwrap();
    let in_clear = DecryptResponse {
        workspace_uid: Uid::generate().to_string(),
        secrets: vec![secret.clone()],
        ..Default::default()
    };
    assert!(ours.keys.open(1, "s", in_clear).is_err());
    // Nor one that holds another value in clear beside the sealed one.
    let sealed = ours.sealed(vec![(secret, Some(b"1".to_vec()))]);
    assert!(ours.keys.open(1, "s", sealed).is_err());
}

#[test]
fn an_answer_to_another_call_or_server_does_not_open() {
    let mut ours = Ours::new();
    let sealed = ours.sealed(vec![ok("A", b"1")]);
    assert!(ours.keys.open(2, "s", sealed.clone()).is_err());
    assert!(ours.keys.open(1, "t", sealed.clone()).is_err());
    assert!(ours.keys.open(1, "s", sealed).is_ok());
}

#[test]
fn a_new_epoch_opens_what_is_sealed_to_it_and_nothing_else() {
    let mut ours = Ours::new();
    let old = ours.sealed(vec![ok("A", b"1")]);
    let (sealer, epoch) = next_epoch(&mut ours.keys);
    // The vault has not taken it up yet: what it sealed before still opens.
    assert!(ours.keys.turn_to(ours.epoch, &[]).is_ok());
    assert!(ours.keys.open(1, "s", old).is_ok());
    let late = ours.sealed(vec![ok("A", b"1")]);

    // Nor does it turn to an epoch that was not announced, or without its key.
    assert!(ours.keys.turn_to(epoch + 1, sealer.encapsulated_key()).is_err());
    assert!(ours.keys.turn_to(epoch, &[]).is_err());
    ours.keys.turn_to(epoch, sealer.encapsulated_key()).unwrap();
    (ours.sealer, ours.epoch) = (sealer, epoch);
    assert!(ours.keys.open(1, "s", late).is_err());
    let new = ours.sealed(vec![ok("A", b"1")]);
    assert!(ours.keys.open(1, "s", new).is_ok());
    // Once is enough: nobody sets the context up again from its beginning.
    let again = ours.sealer.encapsulated_key().to_vec();
    assert!(ours.keys.turn_to(epoch, &again).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_key_lasts_less_than_a_minute() {
    let mut keys = Keys::new(ends()).unwrap();
    assert!(matches!(keys.due(), Due::Renewal { .. }));
    let (sealer, epoch) = next_epoch(&mut keys);
    keys.turn_to(epoch, sealer.encapsulated_key()).unwrap();
    let Due::Later(over) = keys.due() else {
        panic!("{:?}", keys.due())
    };
    assert!(over < Instant::now() + Duration::from_secs(60));
    tokio::time::sleep_until(over).await;
    assert!(matches!(keys.due(), Due::Renewal { .. }));
    let recipient = keys.renew().unwrap();
    assert_eq!(recipient.epoch, epoch + 1);
}

#[tokio::test(start_paused = true)]
async fn a_vault_has_a_while_to_take_up_a_key_and_no_longer() {
    let mut keys = Keys::new(ends()).unwrap();
    let (sealer, epoch) = next_epoch(&mut keys);
    let Due::Later(end) = keys.due() else {
        panic!("{:?}", keys.due())
    };
    tokio::time::sleep_until(end).await;
    assert_eq!(keys.due(), Due::End);
    // In use since it was made, not since it was taken up.
    keys.turn_to(epoch, sealer.encapsulated_key()).unwrap();
    assert!(matches!(keys.due(), Due::Renewal { .. }));
}
