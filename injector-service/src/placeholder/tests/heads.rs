//! Tests that write live placeholders to every part of an upstream connection. Only a placeholder in its own field is
//! replaced.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::{
    super::*,
    exchange::{Exchange, Sender, body, request},
    frames::*,
    written, written_in,
};

const VALUE: &[u8] = b"ghp_0123456789abcdefghijABCDEFGHIJ";
/// A field that hyper also sends as a trailer.
const NAME: HeaderName = HeaderName::from_static("x-mcp-secret-a");
const WIDTHS: [usize; 4] = [1, 7, 64, 100_000];

fn insert(
    table: &PlaceholderTable,
    name: &HeaderName,
    versions: PossibleVersions,
) -> (HeaderValue, PlaceholderGuard) {
    table.insert(name, VALUE, versions).unwrap()
}

/// Returns messages that contain a live placeholder everywhere but in its own field, and then two heads with that
/// field. The second result is the same text with `value` in the first of these two heads.
fn http1(placeholder: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    let body = format!("{placeholder}\r\n\r\nGET / HTTP/1.1\r\nauthorization: {placeholder}\r\n\r\n");
    let field = format!("authorization: {placeholder}\r\n");
    let before = [
        format!(
            "POST /{placeholder} HTTP/1.1\r\nx-other: {placeholder}\r\nauthorizations: {placeholder}\r\ncookie: {placeholder}\r\n\
             x: a {field}x-long: authorization: {placeholder} \r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
             {:x};{placeholder}=\"{placeholder}\"\r\n{body}\r\n0;{field}{field}x: {placeholder}\r\n\r\n",
            body.len()
        ),
        format!("GET / HTTP/1.1\r\nauthorization: Bearer {placeholder}\r\nx-{placeholder}: authorization\r\n\r\n"),
        format!("GET {placeholder} HTTP/1.1\r\n\r\nauthorization: {placeholder} HTTP/1.1\r\n\r\n"),
    ]
    .concat();
    let head = |value: &str| {
        format!(
            "POST / HTTP/1.1\r\nauthorization: {value}\r\nx: {placeholder}\r\ncontent-length: 3\r\n\r\n{{}}\n"
        )
    };
    let all = |value: &str| {
        [before.as_str(), &head(value), &head(placeholder)]
            .concat()
            .into_bytes()
    };
    (all(placeholder), all(value))
}

#[tokio::test]
async fn in_http1_a_placeholder_is_replaced_once_in_its_own_field_and_nowhere_else() {
    for versions in [PossibleVersions::Http1Only, PossibleVersions::Any] {
        for width in WIDTHS {
            let table = PlaceholderTable::default();
            let (placeholder, guard) = insert(&table, &header::AUTHORIZATION, versions);
            let (sent, expected) = http1(placeholder.to_str().unwrap(), str::from_utf8(VALUE).unwrap());
            let arrived = written(&table, HttpVersion::Http1, width, &sent).await;
            assert_eq!(
                String::from_utf8_lossy(&arrived),
                String::from_utf8_lossy(&expected),
                "{versions:?} {width}"
            );
            assert!(guard.is_substituted());
            let (placeholder, _guard) = insert(&table, &header::AUTHORIZATION, versions);
            let (sent, expected) = http1(placeholder.to_str().unwrap(), str::from_utf8(VALUE).unwrap());
            let arrived = written_in(&table, HttpVersion::Http1, 100, width, &sent).await;
            assert!(arrived == expected, "{versions:?}, pieces of {width}");
        }
    }
}

/// Encodes the never-indexed field `authorization` (RFC 7541, section 6.2.3), with the name from the static table.
fn authorization(value: &[u8]) -> Vec<u8> {
    [&[0x1f, 0x08][..], &text(value)].concat()
}

fn sensitive(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x10][..], &text(name.as_bytes()), &text(value)].concat()
}

fn http2(placeholder: &[u8], value: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
    let field = authorization(placeholder);
    let path = [b"/", placeholder].concat();
    let other = [
        pseudo(&path),
        pseudo(placeholder),
        sensitive("x-other", placeholder),
        sensitive("authorizations", placeholder),
        // An indexed field, and a field that is not indexed but not sensitive either.
        [&[0x40][..], &text(b"cookie"), &text(placeholder)].concat(),
        [&[0x0f, 0x08][..], &text(placeholder)].concat(),
        // The placeholder without Huffman coding, and the placeholder within a longer value.
        [
            &[0x1f, 0x08][..],
            &[u8::try_from(placeholder.len()).unwrap()],
            placeholder,
        ]
        .concat(),
        authorization(&[b"Bearer ", placeholder].concat()),
        // A value whose bytes read like the field.
        [
            &[0x10][..],
            &text(b"x-raw"),
            &[u8::try_from(field.len()).unwrap()],
            &field,
        ]
        .concat(),
    ]
    .concat();
    let before = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &other),
        frame(DATA, 0, 1, &field),
        frame(DATA, 0, 1, &frame(HEADERS, END_HEADERS, 3, &field)),
        frame(
            PUSH_PROMISE,
            END_HEADERS,
            1,
            &[&[0, 0, 0, 2][..], &field].concat(),
        ),
        frame(250, END_HEADERS, 3, &field),
        // Trailers, which have the field as well.
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &field),
        frame(HEADERS, END_STREAM, 1, &field[..1]),
        frame(CONTINUATION, END_HEADERS, 1, &field[1..]),
    ]
    .concat();
    let head = |stream: u32, value: &[u8]| {
        let block = [
            // A dynamic table size update.
            &[0x3f, 0x09][..],
            &pseudo(b"/x"),
            &sensitive("x-other", placeholder),
            &authorization(value),
            &[0xbe],
        ]
        .concat();
        let cut = cut.min(block.len());
        [
            frame(HEADERS, END_STREAM, stream, &block[..cut]),
            frame(CONTINUATION, 0, stream, &[]),
            frame(CONTINUATION, END_HEADERS, stream, &block[cut..]),
        ]
        .concat()
    };
    let all = |value: &[u8]| [before.as_slice(), &head(3, value), &head(5, placeholder)].concat();
    (all(placeholder), all(value))
}

#[tokio::test]
async fn in_http2_a_placeholder_is_replaced_once_in_its_own_field_and_nowhere_else() {
    for (width, cuts) in [(100_000, 0..140), (7, 60..64), (1, 60..64)] {
        for cut in cuts {
            let table = PlaceholderTable::default();
            let (placeholder, guard) = insert(&table, &header::AUTHORIZATION, PossibleVersions::Any);
            let (sent, expected) = http2(placeholder.as_bytes(), VALUE, cut);
            let arrived = written(&table, HttpVersion::Http2, width, &sent).await;
            assert!(arrived == expected, "{cut} {width}");
            assert!(guard.is_substituted());
            let (placeholder, _guard) = insert(&table, &header::AUTHORIZATION, PossibleVersions::Any);
            let (sent, expected) = http2(placeholder.as_bytes(), VALUE, cut);
            let arrived = written_in(&table, HttpVersion::Http2, 100, width, &sent).await;
            assert!(arrived == expected, "{cut}, pieces of {width}");
        }
    }
}

#[tokio::test]
async fn real_servers_receive_values_and_no_placeholders() {
    let table = PlaceholderTable::default();
    let bearer = "Bearer {\"weird\": \"~^<>|`\"} and quite long";
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let mut exchange = Exchange::start(version, &table).await;
        for _ in 0..50 {
            let (one, one_guard) = insert(&table, &NAME, PossibleVersions::Any);
            let (other, other_guard) = table
                .insert(&header::AUTHORIZATION, bearer.as_bytes(), PossibleVersions::Any)
                .unwrap();
            let request = request("/")
                .header(NAME, one)
                .header(header::AUTHORIZATION, other);
            let seen = exchange.send(request.body(body(&[], None)).unwrap()).await;
            assert_eq!(seen.head.headers[NAME].as_bytes(), VALUE);
            assert_eq!(seen.head.headers[header::AUTHORIZATION], bearer);
            assert!(one_guard.is_substituted() && other_guard.is_substituted());
        }
    }
}

/// An upstream that echoes a placeholder gains nothing, and neither does a program that guesses one.
#[tokio::test]
async fn a_live_placeholder_that_another_call_sends_is_not_replaced() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let table = PlaceholderTable::default();
        let (placeholder, guard) = insert(&table, &NAME, PossibleVersions::Any);
        let text = placeholder.to_str().unwrap();
        let mut exchange = Exchange::start(version, &table).await;
        let mut trailers = HeaderMap::new();
        trailers.insert(NAME, placeholder.clone());
        let line = format!("\r\n{NAME}: {text}\r\n\r\n");
        let pieces: [&[u8]; 3] = [
            text.as_bytes(),
            line.as_bytes(),
            &frame(HEADERS, 4, 99, text.as_bytes()),
        ];
        let other = request(&format!("/{text}?{text}"))
            .header("x-other", placeholder.clone())
            .header("cookie", format!("a={text}"))
            .header("trailer", NAME.as_str());
        let seen = exchange
            .send(other.body(body(&pieces, Some(trailers))).unwrap())
            .await;
        assert_eq!(seen.head.uri.path(), format!("/{text}"), "{version:?}");
        assert_eq!(seen.head.headers["x-other"], text);
        assert_eq!(seen.head.headers["cookie"], format!("a={text}"));
        assert_eq!(seen.body, pieces.concat());
        assert_eq!(seen.trailers[NAME], text);
        assert!(!guard.is_substituted());
        for expected in [VALUE, text.as_bytes()] {
            let own = request("/").header(NAME, placeholder.clone());
            let seen = exchange.send(own.body(body(&[b"{}"], None)).unwrap()).await;
            assert_eq!(seen.head.headers[NAME].as_bytes(), expected, "{version:?}");
            assert!(guard.is_substituted());
        }
    }
}

/// h2 splits a large head into frames of 16 KiB.
#[tokio::test]
async fn a_value_is_written_at_any_position_of_a_large_head() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let table = PlaceholderTable::default();
        let mut exchange = Exchange::start(version, &table).await;
        // The Huffman codes have 19 bits, so the encoded head is larger than its text.
        for before in (6860..6900).chain([0, 10_000]) {
            let (placeholder, guard) = insert(&table, &header::AUTHORIZATION, PossibleVersions::Any);
            let own = request("/")
                .header("x-before", "\\".repeat(before))
                .header("authorization", placeholder)
                .header("x-after", "y".repeat(500));
            let seen = exchange.send(own.body(body(&[], None)).unwrap()).await;
            assert_eq!(
                seen.head.headers[header::AUTHORIZATION].as_bytes(),
                VALUE,
                "{version:?} {before}"
            );
            assert_eq!(seen.head.headers["x-before"].len(), before);
            assert!(guard.is_substituted());
        }
    }
}

#[tokio::test]
async fn calls_that_share_a_connection_get_their_own_values() {
    let table = PlaceholderTable::default();
    let Exchange { sender, mut seen } = Exchange::start(HttpVersion::Http2, &table).await;
    let Sender::Http2(mut sender) = sender else {
        unreachable!()
    };
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let value = format!("the value of call {number:03}, which is long enough");
            let (placeholder, guard) = table
                .insert(&NAME, value.as_bytes(), PossibleVersions::Any)
                .unwrap();
            let own = request(&format!("/{number:03}")).header(NAME, placeholder);
            (
                sender.send_request(own.body(body(&[b"{}"], None)).unwrap()),
                guard,
            )
        })
        .collect();
    for (call, guard) in calls {
        call.await.unwrap();
        assert!(guard.is_substituted());
        let seen = seen.recv().await.unwrap();
        assert_eq!(seen.head.version, Version::HTTP_2);
        let number = &seen.head.uri.path()[1..];
        let expected = format!("the value of call {number}, which is long enough");
        assert_eq!(seen.head.headers[NAME], expected);
    }
}

#[test]
fn a_placeholder_has_at_least_128_random_bits() {
    for versions in [PossibleVersions::Http1Only, PossibleVersions::Any] {
        let table = PlaceholderTable::default();
        let mut symbols = vec![HashSet::new(); 200];
        for _ in 0..2000 {
            let (placeholder, _guard) = insert(&table, &header::AUTHORIZATION, versions);
            for (seen, symbol) in symbols.iter_mut().zip(placeholder.as_bytes()) {
                seen.insert(*symbol);
            }
        }
        let choices = symbols.iter().map(|seen| seen.len().max(1));
        let bits: f64 = choices.map(|choices| (choices as f64).log2()).sum();
        assert!(bits >= 128.0, "{versions:?}: {bits}");
    }
}
