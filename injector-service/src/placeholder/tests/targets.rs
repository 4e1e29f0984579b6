//! Tests that write the live placeholder of a target to every part of an upstream connection. Only a placeholder that is
//! the whole target of a request is replaced.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, Method, Version, header, uri::PathAndQuery};

use super::{
    super::*,
    exchange::{Exchange, Sender, body, request},
    frames::*,
    written, written_in,
};

const TARGET: &[u8] = b"/bot123456789%3AAAtoken-token/send?key=ghp_0123456789abcdefghijABC&a=b";
const NAME: HeaderName = HeaderName::from_static("x-mcp-secret-a");
const WIDTHS: [usize; 4] = [1, 7, 64, 100_000];

fn insert(table: &PlaceholderTable, versions: PossibleVersions) -> (String, PlaceholderGuard) {
    let (placeholder, guard) = table.insert_target(TARGET, versions).unwrap();
    (placeholder.as_str().to_owned(), guard)
}

/// Returns messages that contain a live placeholder everywhere but as their whole target, and then two heads with that
/// target. The second result is the same text with `target` in the first of these two heads.
fn http1(placeholder: &str, target: &str) -> (Vec<u8>, Vec<u8>) {
    let line = format!("GET {placeholder} HTTP/1.1\r\n");
    let body = format!("{placeholder}\r\n\r\n{line}{line}\r\n");
    let before = [
        format!(
            "POST {placeholder}/ HTTP/1.1\r\nx-other: {placeholder}\r\ncookie: {placeholder}\r\nGET: {placeholder}\r\n\
             x: {line}:path: {placeholder}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!(
            "POST {placeholder}?x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
             {:x};{placeholder}=\"{placeholder}\"\r\n{body}\r\n0;{line}{line}x: {placeholder}\r\n\r\n",
            body.len()
        ),
        format!("GET http://upstream.example{placeholder} HTTP/1.1\r\n{line}\r\n"),
        format!("GET /{placeholder} HTTP/1.1\r\n\r\nGET {placeholder}  HTTP/1.1\r\n\r\n"),
        format!("{placeholder} / HTTP/1.1\r\n\r\nGET {placeholder} HTTP/1.0\r\n\r\n"),
    ]
    .concat();
    let head = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nauthorization: {placeholder}\r\n{line}content-length: 3\r\n\r\n{{}}\n"
        )
    };
    let all = |target: &str| {
        [before.as_str(), &head(target), &head(placeholder)]
            .concat()
            .into_bytes()
    };
    (all(placeholder), all(target))
}

#[tokio::test]
async fn in_http1_the_placeholder_of_a_target_is_replaced_once_in_a_request_line_and_nowhere_else() {
    for versions in [PossibleVersions::Http1Only, PossibleVersions::Any] {
        for width in WIDTHS {
            let table = PlaceholderTable::default();
            let (placeholder, guard) = insert(&table, versions);
            let (sent, expected) = http1(&placeholder, str::from_utf8(TARGET).unwrap());
            let arrived = written(&table, HttpVersion::Http1, width, &sent).await;
            assert_eq!(
                String::from_utf8_lossy(&arrived),
                String::from_utf8_lossy(&expected),
                "{versions:?} {width}"
            );
            assert!(guard.is_substituted());
            let (placeholder, _guard) = insert(&table, versions);
            let (sent, expected) = http1(&placeholder, str::from_utf8(TARGET).unwrap());
            let arrived = written_in(&table, HttpVersion::Http1, 100, width, &sent).await;
            assert!(arrived == expected, "{versions:?}, pieces of {width}");
        }
    }
}

/// Encodes `:path` as a field without indexing, as h2 does, or as a field that is never indexed.
fn path(first: u8, path: &[u8]) -> Vec<u8> {
    [&[first][..], &text(path)].concat()
}

fn http2(placeholder: &[u8], target: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
    let own = path(0x04, placeholder);
    let other = [
        pseudo(&[placeholder, b"/"].concat()),
        pseudo(&[b"/", placeholder].concat()),
        // Sensitive fields, also one called `:path`, and fields that the table of the connection indexes.
        path(0x14, placeholder),
        [&[0x1f, 0x08][..], &text(placeholder)].concat(),
        [&[0x10][..], &text(b"x-other"), &text(placeholder)].concat(),
        [&[0x44][..], &text(placeholder)].concat(),
        // `:method`, `authorization`, and a field with the name `:path` as text, all without indexing.
        path(0x02, placeholder),
        [&[0x0f, 0x08][..], &text(placeholder)].concat(),
        [&[0x00][..], &text(b":path"), &text(placeholder)].concat(),
        // The placeholder without Huffman coding.
        [&[0x04, u8::try_from(placeholder.len()).unwrap()][..], placeholder].concat(),
        // A value whose bytes read like the field.
        [
            &[0x10][..],
            &text(b"x-raw"),
            &[u8::try_from(own.len()).unwrap()],
            &own,
        ]
        .concat(),
    ]
    .concat();
    let before = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &other),
        frame(DATA, 0, 1, &own),
        frame(DATA, 0, 1, &frame(HEADERS, END_HEADERS, 3, &own)),
        frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &own].concat()),
        frame(250, END_HEADERS, 3, &own),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &own),
        frame(HEADERS, END_STREAM, 1, &own[..1]),
        frame(CONTINUATION, END_HEADERS, 1, &own[1..]),
    ]
    .concat();
    let head = |stream: u32, own: &[u8]| {
        let block = [
            // A dynamic table size update, `:method: GET` and `:scheme: http`.
            &[0x3f, 0x09, 0x82, 0x86][..],
            own,
            &[0x10],
            &text(b"x-other"),
            &text(placeholder),
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
    let all = |first: &[u8]| [before.as_slice(), &head(3, first), &head(5, &own)].concat();
    (all(&own), all(&path(0x14, target)))
}

#[tokio::test]
async fn in_http2_the_placeholder_of_a_target_is_replaced_once_in_path_and_nowhere_else() {
    for (width, cuts) in [(100_000, 0..140), (7, 2..8), (1, 2..8), (1, 50..54)] {
        for cut in cuts {
            let table = PlaceholderTable::default();
            let (placeholder, guard) = insert(&table, PossibleVersions::Any);
            let (sent, expected) = http2(placeholder.as_bytes(), TARGET, cut);
            let arrived = written(&table, HttpVersion::Http2, width, &sent).await;
            assert!(arrived == expected, "{cut} {width}");
            assert!(guard.is_substituted());
            let (placeholder, _guard) = insert(&table, PossibleVersions::Any);
            let (sent, expected) = http2(placeholder.as_bytes(), TARGET, cut);
            let arrived = written_in(&table, HttpVersion::Http2, 100, width, &sent).await;
            assert!(arrived == expected, "{cut}, pieces of {width}");
        }
    }
}

#[tokio::test]
async fn real_servers_receive_targets_and_no_placeholders() {
    let table = PlaceholderTable::default();
    let target = str::from_utf8(TARGET).unwrap();
    let value = "a value in a field of the same head";
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let mut exchange = Exchange::start(version, &table).await;
        for method in [
            Method::GET,
            Method::POST,
            Method::OPTIONS,
            Method::DELETE,
            Method::GET,
        ] {
            let (placeholder, guard) = insert(&table, PossibleVersions::Any);
            let (field, field_guard) = table
                .insert(&NAME, value.as_bytes(), PossibleVersions::Any)
                .unwrap();
            let request = request(&placeholder).method(method.clone()).header(NAME, field);
            let seen = exchange.send(request.body(body(&[], None)).unwrap()).await;
            assert_eq!(seen.head.uri.path_and_query().unwrap(), target, "{version:?}");
            assert_eq!(seen.head.method, method);
            assert_eq!(seen.head.headers[NAME], value);
            assert!(guard.is_substituted() && field_guard.is_substituted());
        }
    }
    assert!(table.lock().is_empty());
}

#[tokio::test]
async fn a_live_placeholder_of_a_target_that_another_call_sends_elsewhere_is_not_replaced() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let table = PlaceholderTable::default();
        let (text, guard) = insert(&table, PossibleVersions::Any);
        let mut exchange = Exchange::start(version, &table).await;
        let mut trailers = HeaderMap::new();
        trailers.insert(NAME, text.parse().unwrap());
        let line = format!("\r\n\r\nGET {text} HTTP/1.1\r\n\r\n");
        let pieces: [&[u8]; 3] = [
            text.as_bytes(),
            line.as_bytes(),
            &frame(HEADERS, END_HEADERS, 99, &path(0x04, text.as_bytes())),
        ];
        let mut sensitive = header::HeaderValue::from_str(&text).unwrap();
        sensitive.set_sensitive(true);
        let other = request(&format!("{text}?{text}"))
            .header(NAME, sensitive.clone())
            .header("authorization", sensitive)
            .header("referer", &text)
            .header("trailer", NAME.as_str());
        let seen = exchange
            .send(other.body(body(&pieces, Some(trailers))).unwrap())
            .await;
        assert_eq!(
            seen.head.uri.path_and_query().unwrap().as_str(),
            format!("{text}?{text}")
        );
        for name in [NAME, header::AUTHORIZATION, header::REFERER] {
            assert_eq!(seen.head.headers[&name], text, "{version:?} {name}");
        }
        assert_eq!(seen.body, pieces.concat());
        assert_eq!(seen.trailers[NAME], text);
        assert!(!guard.is_substituted());
        for expected in [TARGET, text.as_bytes()] {
            let own = request(&text).body(body(&[b"{}"], None)).unwrap();
            let seen = exchange.send(own).await;
            let arrived = seen.head.uri.path_and_query().unwrap();
            assert_eq!(arrived.as_str().as_bytes(), expected, "{version:?}");
            assert!(guard.is_substituted());
        }
    }
}

/// A field keeps its value when its value is the text of a target's placeholder, and a target that is the text of a
/// field's placeholder stays as it is.
#[tokio::test]
async fn the_placeholders_of_targets_and_fields_do_not_work_for_one_another() {
    let value = "a value in a field, which is long enough";
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let table = PlaceholderTable::default();
        let mut exchange = Exchange::start(version, &table).await;
        let (of_target, target_guard) = insert(&table, PossibleVersions::Any);
        let (of_field, field_guard) = table
            .insert(&NAME, value.as_bytes(), PossibleVersions::Any)
            .unwrap();
        let mut swapped = header::HeaderValue::from_str(&of_target).unwrap();
        swapped.set_sensitive(true);
        let target = format!("/{}", of_field.to_str().unwrap());
        let request = request(&target).header(NAME, swapped);
        let seen = exchange.send(request.body(body(&[], None)).unwrap()).await;
        assert_eq!(seen.head.uri.path(), target, "{version:?}");
        assert_eq!(seen.head.headers[NAME], of_target, "{version:?}");
        assert!(!target_guard.is_substituted() && !field_guard.is_substituted());
    }
}

#[tokio::test]
async fn a_target_with_other_characters_than_ascii_is_written_whole() {
    let table = PlaceholderTable::default();
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let mut exchange = Exchange::start(version, &table).await;
        let characters: String = ('\u{80}'..='\u{7ff}').collect();
        let target = format!("/search?key=ghp_0123456789&q={characters}\u{20ac}\u{1f511}");
        let inserted = table.insert_target(target.as_bytes(), PossibleVersions::Any);
        let (placeholder, guard) = inserted.unwrap();
        assert!(placeholder.as_str().is_ascii());
        let seen = exchange
            .send(request(placeholder.as_str()).body(body(&[], None)).unwrap())
            .await;
        assert_eq!(
            seen.head.uri.path_and_query().unwrap(),
            target.as_str(),
            "{version:?}"
        );
        assert!(guard.is_substituted());
    }
}

/// h2's decoder reads the code of each byte that a value may have, so a wrong code would show here.
#[tokio::test]
async fn every_byte_of_a_field_arrives_as_it_is() {
    let table = PlaceholderTable::default();
    let mut exchange = Exchange::start(HttpVersion::Http2, &table).await;
    let legal = |byte: &u8| header::HeaderValue::from_bytes(&[b'a', *byte, b'a']).is_ok();
    for byte in (0..=u8::MAX).filter(legal) {
        for value in [
            vec![byte; 32],
            [b"session=ghp_0123456789; a=", &[byte][..], b"~z"].concat(),
        ] {
            let inserted = table.insert(&NAME, &value, PossibleVersions::Any);
            let (placeholder, guard) = inserted.unwrap();
            let own = request("/").header(NAME, placeholder);
            let seen = exchange.send(own.body(body(&[], None)).unwrap()).await;
            assert_eq!(seen.head.headers[NAME].as_bytes(), value, "{byte:x}");
            assert!(guard.is_substituted());
        }
    }
}

/// h2 splits a large head into frames of 16 KiB.
#[tokio::test]
async fn a_large_target_is_written_across_frames() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let table = PlaceholderTable::default();
        let mut exchange = Exchange::start(version, &table).await;
        // The Huffman code of `{` has 15 bits, so the code of 8,700 of them nearly fills a frame.
        for before in (8690..8750).chain([0, 20_000]) {
            let target = format!("/{}?key=ghp_0123456789abcdefghijABCDEFGHIJ", "{".repeat(before));
            let inserted = table.insert_target(target.as_bytes(), PossibleVersions::Any);
            let (placeholder, guard) = inserted.unwrap();
            let own = request(placeholder.as_str()).header("x-after", "y".repeat(500));
            let seen = exchange.send(own.body(body(&[], None)).unwrap()).await;
            assert!(
                seen.head.uri.path_and_query().unwrap() == target.as_str(),
                "{version:?} {before}"
            );
            assert_eq!(seen.head.headers["x-after"].len(), 500);
            assert!(guard.is_substituted());
        }
    }
}

#[tokio::test]
async fn calls_that_share_a_connection_get_their_own_targets() {
    let table = PlaceholderTable::default();
    let Exchange { sender, mut seen } = Exchange::start(HttpVersion::Http2, &table).await;
    let Sender::Http2(mut sender) = sender else {
        unreachable!()
    };
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let target = format!("/the/target/of/call?{number:03}=which-is-long-enough");
            let inserted = table.insert_target(target.as_bytes(), PossibleVersions::Any);
            let (placeholder, guard) = inserted.unwrap();
            let own = request(placeholder.as_str()).header("x-number", format!("{number:03}"));
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
        let number = seen.head.headers["x-number"].to_str().unwrap();
        let expected = format!("/the/target/of/call?{number}=which-is-long-enough");
        assert_eq!(
            seen.head.uri.path_and_query().unwrap().as_str(),
            expected.as_str()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_written_soon_after_its_call_was_cancelled_is_complete() {
    let table = PlaceholderTable::default();
    let head = |target: &[u8]| [b"GET ", target, b" HTTP/1.1\r\n\r\n"].concat();
    let (placeholder, guard) = insert(&table, PossibleVersions::Any);
    drop(guard);
    sleep(Duration::from_millis(499)).await;
    let arrived = written(&table, HttpVersion::Http1, 50, &head(placeholder.as_bytes())).await;
    assert_eq!(arrived, head(TARGET));
    let (placeholder, guard) = insert(&table, PossibleVersions::Any);
    drop(guard);
    sleep(Duration::from_millis(501)).await;
    assert!(table.lock().is_empty());
    let sent = head(placeholder.as_bytes());
    assert_eq!(written(&table, HttpVersion::Http1, 50, &sent).await, sent);
}

#[test]
fn a_target_and_its_placeholder_have_hpack_codes_of_one_length() {
    let table = PlaceholderTable::default();
    for length in 27..200 {
        let target = format!("/{}", &"~tok3n-ABCxyz_%20".repeat(20)[..length]);
        let inserted = table.insert_target(target.as_bytes(), PossibleVersions::Any);
        let (placeholder, _guard) = inserted.unwrap();
        let code = |text: &[u8]| huffman::encode(text).unwrap().len();
        assert_eq!(
            code(placeholder.as_str().as_bytes()),
            code(target.as_bytes()),
            "{length}"
        );
    }
}

#[test]
fn a_target_that_no_placeholder_can_stand_for_has_none() {
    let table = PlaceholderTable::default();
    for (target, http1, http2) in [
        (&b"/short?key=value"[..], true, false),
        (TARGET, true, true),
        (b"/caf\xc3\xa9-with-enough-characters-for-a-code", true, true),
        (b"/caf\xe9-with-enough-characters-for-a-code", true, true),
        (b"/a\x7fdelete-with-enough-characters-for-a-code", false, false),
        (b"/a\0nul-with-enough-characters-for-a-code", false, false),
        (b"/a space-with-enough-characters-for-a-code", false, false),
        (b"/a\r\nbreak-with-enough-characters-for-a-code", false, false),
        // A placeholder of as many bits would have more symbols than a target may have.
        (format!("/{}", "{".repeat(30_000)).as_bytes(), true, false),
    ] {
        let is_some = |versions| table.insert_target(target, versions).is_some();
        assert_eq!(is_some(PossibleVersions::Http1Only), http1);
        assert_eq!(is_some(PossibleVersions::Any), http2);
    }
}

#[test]
fn the_placeholder_of_a_target_is_a_path_with_at_least_128_random_bits() {
    for versions in [PossibleVersions::Http1Only, PossibleVersions::Any] {
        let table = PlaceholderTable::default();
        let mut symbols = vec![HashSet::new(); 200];
        for _ in 0..2000 {
            let (placeholder, _guard) = insert(&table, versions);
            assert!(
                PathAndQuery::try_from(placeholder.as_str())
                    .unwrap()
                    .query()
                    .is_none()
            );
            assert!(!crate::path::has_dot_segment(&placeholder));
            for (seen, symbol) in symbols.iter_mut().zip(placeholder.as_bytes()) {
                seen.insert(*symbol);
            }
        }
        let choices = symbols.iter().map(|seen| seen.len().max(1));
        let bits: f64 = choices.map(|choices| (choices as f64).log2()).sum();
        assert!(bits >= 128.0, "{versions:?}: {bits}");
    }
}
