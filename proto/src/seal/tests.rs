#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use super::*;
use crate::stack::tests::Unused;
use crate::vault::v1::ValueFacts;

fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

/// The owned form of [`SealContext`], so that a test can change it at one end.
#[derive(Clone)]
struct OwnedContext {
    vault: Principal,
    injector: Principal,
    nonce: Vec<u8>,
    epoch: u64,
}

impl OwnedContext {
    fn new() -> Self {
        Self {
            vault: principal("spiffe://example.org/vault"),
            injector: principal("spiffe://example.org/injector"),
            nonce: vec![7; NONCE_SIZE],
            epoch: 3,
        }
    }

    fn borrow(&self) -> SealContext<'_> {
        let Self {
            vault,
            injector,
            nonce,
            epoch,
        } = self;
        SealContext {
            vault,
            injector,
            nonce,
            epoch: *epoch,
        }
    }
}

const CALL: SealedCall<'static> = SealedCall {
    epoch: 3,
    id: 41,
    server: "github",
};
type Change<T> = (&'static str, fn(&mut T));

const VALUES: [&[u8]; 2] = [b"first value", b""];

fn response() -> DecryptResponse {
    let secret = |name: &str, version| DecryptedSecret {
        name: name.to_owned(),
        status: 1,
        version,
        upstream_origins: vec!["https://a.example".to_owned()],
        ..Default::default()
    };
    DecryptResponse {
        workspace_uid: "0b9b6b4e-5d6b-4a55-8d8b-0c6c7a3f8f60".to_owned(),
        secrets: vec![secret("A", 1), secret("B", 2)],
        ..Default::default()
    }
}

/// Sets up both ends of a context, the vault's from `at_vault` and the injector's from `at_injector`.
fn ends(at_vault: &OwnedContext, at_injector: &OwnedContext) -> (Sealer, Opener) {
    let key = RecipientKey::generate().unwrap();
    let sealer = Sealer::new(&key.public(), at_vault.borrow()).unwrap();
    let opener = key.open(sealer.encapsulated_key(), at_injector.borrow()).unwrap();
    (sealer, opener)
}

fn sealed(sealer: &mut Sealer) -> DecryptResponse {
    let response = response();
    let sealed = sealer.seal(CALL, &response, VALUES.into_iter()).unwrap();
    DecryptResponse { sealed, ..response }
}

fn opened(opener: &mut Opener, response: &DecryptResponse) -> Result<Vec<Vec<u8>>, SealError> {
    let values = opener.open(CALL, response)?.split(2)?;
    Ok(values.iter().map(|value| value.to_vec()).collect())
}

#[test]
fn sealed_answers_open_in_their_order() {
    let (mut sealer, mut opener) = ends(&OwnedContext::new(), &OwnedContext::new());
    for _ in 0..3 {
        let response = sealed(&mut sealer);
        assert!(!response.sealed.windows(5).any(|window| window == b"first"));
        assert_eq!(opened(&mut opener, &response).unwrap(), VALUES);
    }
}

/// Together with its length this value has one AES block and 15 bytes.
const CANARY: &[u8; 27] = b"a value of some other bytes";

#[test]
fn neither_sealing_nor_opening_leaves_plaintext_on_the_stack() {
    let (mut sealer, mut opener) = ends(&OwnedContext::new(), &OwnedContext::new());
    let response = response();
    let mut unused = Unused::new();
    // `aes-gcm` copies the last block, which is not complete, to the stack.
    let last_block = |at: usize| CANARY[12 + at];
    let sealed = sealer.seal(CALL, &response, std::iter::once(&CANARY[..]));
    assert!(!unused.has(15, last_block), "sealing");
    let response = DecryptResponse {
        sealed: sealed.unwrap(),
        ..response
    };
    let opened = opener.open(CALL, &response);
    assert!(!unused.has(15, last_block), "opening");
    assert!(opened.is_ok());
}

#[test]
fn an_answer_out_of_its_order_does_not_open() {
    let (mut sealer, mut opener) = ends(&OwnedContext::new(), &OwnedContext::new());
    let (first, second) = (sealed(&mut sealer), sealed(&mut sealer));
    assert_eq!(opened(&mut opener, &second), Err(SealError::DoesNotOpen));
    assert!(opened(&mut opener, &first).is_ok());
    assert_eq!(opened(&mut opener, &first), Err(SealError::DoesNotOpen));
}

#[test]
fn a_context_is_bound_to_both_principals_the_stream_and_the_epoch() {
    let at_vault = OwnedContext::new();
    let changes: [Change<OwnedContext>; 4] = [
        ("vault", |end| end.vault = principal("dns:vault")),
        ("injector", |end| end.injector = principal("dns:injector")),
        ("nonce", |end| end.nonce = vec![8; NONCE_SIZE]),
        ("epoch", |end| end.epoch += 1),
    ];
    for (what, change) in changes {
        let mut at_injector = at_vault.clone();
        change(&mut at_injector);
        let (mut sealer, mut opener) = ends(&at_vault, &at_injector);
        let response = sealed(&mut sealer);
        assert_eq!(
            opened(&mut opener, &response),
            Err(SealError::DoesNotOpen),
            "{what}"
        );
    }
}

#[test]
fn a_part_of_one_name_does_not_become_a_part_of_the_next() {
    let at_vault = OwnedContext {
        vault: principal("dns:ab"),
        injector: principal("dns:c"),
        ..OwnedContext::new()
    };
    let at_injector = OwnedContext {
        vault: principal("dns:a"),
        injector: principal("dns:bc"),
        ..OwnedContext::new()
    };
    let (mut sealer, mut opener) = ends(&at_vault, &at_injector);
    assert!(opened(&mut opener, &sealed(&mut sealer)).is_err());
}

#[test]
fn every_field_of_an_answer_is_authenticated() {
    let changes: [Change<DecryptResponse>; 14] = [
        ("workspace", |it| it.workspace_uid.replace_range(..1, "1")),
        ("name", |it| it.secrets[0].name = "C".to_owned()),
        ("status", |it| it.secrets[0].status = 2),
        ("version", |it| it.secrets[1].version = 1),
        ("origin", |it| it.secrets[0].upstream_origins[0].push('x')),
        ("origin less", |it| it.secrets[0].upstream_origins.clear()),
        ("origin moved", |it| {
            let origin = it.secrets[1].upstream_origins.remove(0);
            it.secrets[0].upstream_origins.push(origin);
        }),
        ("facts", |it| it.secrets[1].facts = Some(ValueFacts::of(b"a"))),
        ("order", |it| it.secrets.swap(0, 1)),
        ("secret less", |it| drop(it.secrets.pop())),
        ("ciphertext", |it| it.sealed[0] ^= 1),
        ("tag", |it| *it.sealed.last_mut().unwrap() ^= 1),
        ("cut", |it| it.sealed.truncate(it.sealed.len() - 1)),
        ("nothing sealed", |it| it.sealed.clear()),
    ];
    for (what, change) in changes {
        let (mut sealer, mut opener) = ends(&OwnedContext::new(), &OwnedContext::new());
        let mut response = sealed(&mut sealer);
        change(&mut response);
        assert_eq!(
            opened(&mut opener, &response),
            Err(SealError::DoesNotOpen),
            "{what}"
        );
    }
}

#[test]
fn the_facts_about_values_are_authenticated() {
    let changes: [Change<DecryptResponse>; 3] = [
        ("other facts", |it| {
            it.secrets[0].facts = Some(ValueFacts::of(b"ab\n"))
        }),
        ("no facts", |it| it.secrets[0].facts = None),
        ("moved", |it| it.secrets[1].facts = it.secrets[0].facts.take()),
    ];
    for (what, change) in changes {
        let (mut sealer, mut opener) = ends(&OwnedContext::new(), &OwnedContext::new());
        let mut response = response();
        response.secrets[0].facts = Some(ValueFacts::of(b"a\n"));
        response.sealed = sealer.seal(CALL, &response, std::iter::empty()).unwrap();
        change(&mut response);
        assert!(opener.open(CALL, &response).is_err(), "{what}");
    }
}

#[test]
fn an_answer_is_bound_to_one_call_and_one_server() {
    for other in [
        SealedCall { id: 42, ..CALL },
        SealedCall { epoch: 4, ..CALL },
        SealedCall {
            server: "gitlab",
            ..CALL
        },
    ] {
        let (mut sealer, mut opener) = ends(&OwnedContext::new(), &OwnedContext::new());
        let response = sealed(&mut sealer);
        assert!(opener.open(other, &response).is_err(), "{other:?}");
    }
}

#[test]
fn the_number_of_values_must_be_the_expected_one() {
    for (values, count, fits) in [
        (vec![], 0, true),
        (vec![], 1, false),
        (vec![b"a".as_slice()], 1, true),
        (vec![b"a"], 0, false),
        (vec![b"a"], 2, false),
        (vec![b"", b"a"], 2, true),
    ] {
        let (mut sealer, mut opener) = ends(&OwnedContext::new(), &OwnedContext::new());
        let response = response();
        let sealed = sealer.seal(CALL, &response, values.into_iter()).unwrap();
        let response = DecryptResponse { sealed, ..response };
        let opened = opener.open(CALL, &response).unwrap();
        assert_eq!(opened.split(count).is_ok(), fits);
    }
    for bytes in [b"\0\0\0\x02a".as_slice(), b"\0\0\0", b"\xff\xff\xff\xff"] {
        assert!(OpenedValues(Zeroizing::new(bytes.to_vec())).split(1).is_err());
    }
}

#[test]
fn an_invalid_key_is_refused() {
    let context = OwnedContext::new();
    let key = RecipientKey::generate().unwrap();
    for bad in [
        vec![],
        vec![9; KEY_SIZE - 1],
        vec![9; KEY_SIZE + 1],
        vec![0; KEY_SIZE],
    ] {
        assert!(Sealer::new(&bad, context.borrow()).is_err(), "{bad:?}");
        assert!(key.open(&bad, context.borrow()).is_err(), "{bad:?}");
    }
}

#[test]
fn no_two_epochs_share_a_key() {
    let (one, other) = (
        RecipientKey::generate().unwrap(),
        RecipientKey::generate().unwrap(),
    );
    assert_ne!(one.public(), other.public());
    let context = OwnedContext::new();
    let seal = || Sealer::new(&one.public(), context.borrow()).unwrap();
    assert_ne!(seal().encapsulated_key(), seal().encapsulated_key());
}

/// Returns a field of `testdata/sealed`. Another program made this file from the documentation and RFC 9180 alone.
fn vector(field: &str) -> Vec<u8> {
    let lines = include_str!("../../testdata/sealed").lines();
    let digits = lines
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, text)| (name == field).then_some(text))
        .unwrap();
    let bytes = digits.as_bytes().chunks(2);
    bytes
        .map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn the_authenticated_data_is_encoded_as_documented() {
    let context = OwnedContext::new();
    assert_eq!(context.borrow().info(), vector("info"));
    assert_eq!(CALL.aad(&response()), vector("aad"));
}

#[test]
fn an_answer_sealed_by_another_implementation_opens() {
    let (private, public) = Kem::derive_keypair(&vector("recipient-ikm"));
    let key = RecipientKey { private, public };
    assert_eq!(key.public(), vector("public-key"));
    let context = OwnedContext::new();
    let mut opener = key.open(&vector("encapsulated-key"), context.borrow()).unwrap();
    for field in ["sealed", "sealed-again"] {
        let response = DecryptResponse {
            sealed: vector(field),
            ..response()
        };
        assert_eq!(opened(&mut opener, &response).unwrap(), VALUES, "{field}");
    }
}
