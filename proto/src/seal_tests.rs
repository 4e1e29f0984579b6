#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use super::*;
use crate::stack::tests::Unused;
use crate::vault::v1::ValueFacts;

fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

/// What both ends know, to be changed at one end.
#[derive(Clone)]
struct Context {
    vault: Principal,
    injector: Principal,
    nonce: Vec<u8>,
    epoch: u64,
}

impl Context {
    fn new() -> Self {
        Self {
            vault: principal("spiffe://example.org/vault"),
            injector: principal("spiffe://example.org/injector"),
            nonce: vec![7; NONCE],
            epoch: 3,
        }
    }

    fn between(&self) -> Between<'_> {
        let Self {
            vault,
            injector,
            nonce,
            epoch,
        } = self;
        Between {
            vault,
            injector,
            nonce,
            epoch: *epoch,
        }
    }
}

const ANSWERING: Answering<'static> = Answering {
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

/// Both ends of a context that was set up for `at_vault` and `at_injector`.
fn ends(at_vault: &Context, at_injector: &Context) -> (Sealer, Opener) {
    let key = RecipientKey::generate().unwrap();
    let sealer = Sealer::new(&key.public(), at_vault.between()).unwrap();
    let opener = key
        .open(sealer.encapsulated_key(), at_injector.between())
        .unwrap();
    (sealer, opener)
}

fn sealed(sealer: &mut Sealer) -> DecryptResponse {
    let response = response();
    let sealed = sealer.seal(ANSWERING, &response, VALUES.into_iter()).unwrap();
    DecryptResponse { sealed, ..response }
}

fn opened(opener: &mut Opener, response: &DecryptResponse) -> Result<Vec<Vec<u8>>, SealError> {
    let values = opener.open(ANSWERING, response)?.split(2)?;
    Ok(values.iter().map(|value| value.to_vec()).collect())
}

#[test]
fn what_was_sealed_opens_in_its_order() {
    let (mut sealer, mut opener) = ends(&Context::new(), &Context::new());
    for _ in 0..3 {
        let response = sealed(&mut sealer);
        assert!(!response.sealed.windows(5).any(|window| window == b"first"));
        assert_eq!(opened(&mut opener, &response).unwrap(), VALUES);
    }
}

/// With its length, it is a block and 15 bytes.
const CANARY: &[u8; 27] = b"a value of some other bytes";

#[test]
fn what_was_opened_is_not_left_on_the_stack() {
    let (mut sealer, mut opener) = ends(&Context::new(), &Context::new());
    let response = response();
    let sealed = sealer.seal(ANSWERING, &response, std::iter::once(&CANARY[..]));
    let response = DecryptResponse {
        sealed: sealed.unwrap(),
        ..response
    };
    let mut unused = Unused::new();
    let opened = opener.open(ANSWERING, &response);
    // Of its last block, which is not a whole one, AES-GCM makes a copy.
    assert!(!unused.has(15, |at| CANARY[12 + at]));
    assert!(opened.is_ok());
}

#[test]
fn an_answer_out_of_its_order_does_not_open() {
    let (mut sealer, mut opener) = ends(&Context::new(), &Context::new());
    let (first, second) = (sealed(&mut sealer), sealed(&mut sealer));
    assert_eq!(opened(&mut opener, &second), Err(SealError::DoesNotOpen));
    assert!(opened(&mut opener, &first).is_ok());
    assert_eq!(opened(&mut opener, &first), Err(SealError::DoesNotOpen));
}

#[test]
fn a_context_is_between_these_two_on_this_stream_in_this_epoch() {
    let at_vault = Context::new();
    let changes: [Change<Context>; 4] = [
        ("vault", |end| end.vault = principal("dns:vault")),
        ("injector", |end| end.injector = principal("dns:injector")),
        ("nonce", |end| end.nonce = vec![8; NONCE]),
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
    let at_vault = Context {
        vault: principal("dns:ab"),
        injector: principal("dns:c"),
        ..Context::new()
    };
    let at_injector = Context {
        vault: principal("dns:a"),
        injector: principal("dns:bc"),
        ..Context::new()
    };
    let (mut sealer, mut opener) = ends(&at_vault, &at_injector);
    assert!(opened(&mut opener, &sealed(&mut sealer)).is_err());
}

#[test]
fn whatever_an_answer_says_is_sealed_with_it() {
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
        let (mut sealer, mut opener) = ends(&Context::new(), &Context::new());
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
fn the_facts_about_values_are_sealed_with_their_answer() {
    let changes: [Change<DecryptResponse>; 3] = [
        ("other facts", |it| {
            it.secrets[0].facts = Some(ValueFacts::of(b"ab\n"))
        }),
        ("no facts", |it| it.secrets[0].facts = None),
        ("moved", |it| it.secrets[1].facts = it.secrets[0].facts.take()),
    ];
    for (what, change) in changes {
        let (mut sealer, mut opener) = ends(&Context::new(), &Context::new());
        let mut response = response();
        response.secrets[0].facts = Some(ValueFacts::of(b"a\n"));
        response.sealed = sealer.seal(ANSWERING, &response, std::iter::empty()).unwrap();
        change(&mut response);
        assert!(opener.open(ANSWERING, &response).is_err(), "{what}");
    }
}

#[test]
fn an_answer_is_to_one_call_for_one_server() {
    for other in [
        Answering { id: 42, ..ANSWERING },
        Answering {
            epoch: 4,
            ..ANSWERING
        },
        Answering {
            server: "gitlab",
            ..ANSWERING
        },
    ] {
        let (mut sealer, mut opener) = ends(&Context::new(), &Context::new());
        let response = sealed(&mut sealer);
        assert!(opener.open(other, &response).is_err(), "{other:?}");
    }
}

#[test]
fn what_is_sealed_is_as_many_values_as_asked_for() {
    for (values, count, fits) in [
        (vec![], 0, true),
        (vec![], 1, false),
        (vec![b"a".as_slice()], 1, true),
        (vec![b"a"], 0, false),
        (vec![b"a"], 2, false),
        (vec![b"", b"a"], 2, true),
    ] {
        let (mut sealer, mut opener) = ends(&Context::new(), &Context::new());
        let response = response();
        let sealed = sealer.seal(ANSWERING, &response, values.into_iter()).unwrap();
        let response = DecryptResponse { sealed, ..response };
        let opened = opener.open(ANSWERING, &response).unwrap();
        assert_eq!(opened.split(count).is_ok(), fits);
    }
    for bytes in [b"\0\0\0\x02a".as_slice(), b"\0\0\0", b"\xff\xff\xff\xff"] {
        assert!(Values(Zeroizing::new(bytes.to_vec())).split(1).is_err());
    }
}

#[test]
fn a_key_that_is_none_is_refused() {
    let context = Context::new();
    let key = RecipientKey::generate().unwrap();
    for bad in [vec![], vec![9; KEY - 1], vec![9; KEY + 1], vec![0; KEY]] {
        assert!(Sealer::new(&bad, context.between()).is_err(), "{bad:?}");
        assert!(key.open(&bad, context.between()).is_err(), "{bad:?}");
    }
}

#[test]
fn no_two_epochs_share_a_key() {
    let (one, other) = (
        RecipientKey::generate().unwrap(),
        RecipientKey::generate().unwrap(),
    );
    assert_ne!(one.public(), other.public());
    let context = Context::new();
    let seal = || Sealer::new(&one.public(), context.between()).unwrap();
    assert_ne!(seal().encapsulated_key(), seal().encapsulated_key());
}

/// A field of `testdata/sealed`, which another program made of the document and RFC 9180 alone.
fn vector(field: &str) -> Vec<u8> {
    let lines = include_str!("../testdata/sealed").lines();
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
fn what_is_authenticated_is_written_as_the_document_says() {
    let context = Context::new();
    assert_eq!(context.between().info(), vector("info"));
    assert_eq!(ANSWERING.aad(&response()), vector("aad"));
}

#[test]
fn what_another_program_sealed_opens() {
    let (private, public) = Kem::derive_keypair(&vector("recipient-ikm"));
    let key = RecipientKey { private, public };
    assert_eq!(key.public(), vector("public-key"));
    let context = Context::new();
    let mut opener = key.open(&vector("encapsulated-key"), context.between()).unwrap();
    for field in ["sealed", "sealed-again"] {
        let response = DecryptResponse {
            sealed: vector(field),
            ..response()
        };
        assert_eq!(opened(&mut opener, &response).unwrap(), VALUES, "{field}");
    }
}
