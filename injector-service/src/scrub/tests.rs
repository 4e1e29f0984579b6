mod props;

use std::{fmt::Write as _, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;

use super::{Fingerprints, MIN_VALUE, Scanner, SearchScope, SecretSet, mask_text};

const TOKEN: &str = "ghp_0123456789abcdefghijABCDEFGHIJ+/xyzw";

fn fingerprints(values: &[&[u8]]) -> Arc<Fingerprints> {
    Fingerprints::of(values.iter().copied(), SearchScope::Bodies).unwrap()
}

/// Scans the pieces of one stream, and returns the outputs in one.
fn scan(values: &[&[u8]], pieces: &[&[u8]]) -> (Vec<u8>, SecretSet) {
    let mut scanner = Scanner::new(fingerprints(values));
    let (mut output, mut found) = (Vec::new(), SecretSet::default());
    for piece in pieces {
        let scanned = scanner.scan(Bytes::copy_from_slice(piece));
        output.extend_from_slice(&scanned.output);
        found.add(scanned.found);
    }
    output.extend_from_slice(&scanner.finish());
    (output, found)
}

fn masked(value: &str, text: &str) -> String {
    let (output, _) = scan(&[value.as_bytes()], &[text.as_bytes()]);
    String::from_utf8(output).unwrap()
}

/// Asserts that `text` contains a form of `value` that is masked, and that the text around it is left alone.
fn assert_masked(value: &[u8], text: &[u8]) {
    let text = [b"<before> ", text, b" <after>"].concat();
    let (output, found) = scan(&[value], &[&text]);
    let shown = String::from_utf8_lossy(&text);
    assert!(!found.is_empty(), "{shown}");
    assert_eq!(output.len(), text.len(), "{shown}");
    let output = String::from_utf8_lossy(&output).into_owned();
    let inner = output.strip_prefix("<before> ").unwrap();
    let inner = inner.strip_suffix(" <after>").unwrap();
    let left = inner.bytes().filter(|byte| *byte != b'*').count();
    // Characters of base64 that the neighbours of a value share.
    assert!(left <= 4, "{inner}");
}

#[test]
fn a_value_is_masked_as_it_is() {
    assert_eq!(
        masked(TOKEN, &format!("a{TOKEN}b")),
        format!("a{}b", "*".repeat(TOKEN.len()))
    );
}

#[test]
fn a_value_is_masked_in_hexadecimal_digits() {
    for value in [TOKEN.as_bytes(), b"\xff\x00\xab\xcd\xef\x01\x02\x03"] {
        let lower = value.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        assert_masked(value, lower.as_bytes());
        assert_masked(value, lower.to_uppercase().as_bytes());
    }
}

#[test]
fn a_value_is_masked_in_base64_at_every_position_and_in_both_alphabets() {
    for value in [
        TOKEN.as_bytes(),
        b"\xfb\xff\xfe\xfb\xff\xfe\xfb\xff\xfe\xfb\xff\xfe",
    ] {
        for before in 0..6 {
            for after in 0..3 {
                let bytes = [&b"user:p"[..before], value, &b"xyz"[..after]].concat();
                for text in [STANDARD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                    let (output, found) = scan(&[value], &[text.as_bytes()]);
                    assert!(!found.is_empty(), "{before} {after}");
                    let stars = output.iter().filter(|byte| **byte == b'*').count();
                    assert!(stars >= value.len() * 8 / 6 - 1, "{before} {after}");
                }
            }
        }
    }
}

#[test]
fn a_value_is_masked_as_part_of_a_url_or_form() {
    let value = "pass word/with+all&of=it: ~é*'()!\u{1}";
    let form: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    assert_masked(value.as_bytes(), form.as_bytes());
    let component = form.replace('+', "%20").replace("%7E", "~");
    for (escaped, unescaped) in [("%21", "!"), ("%27", "'"), ("%28", "("), ("%29", ")")] {
        assert!(component.contains(escaped), "{unescaped}");
    }
    let component = ["%21", "%27", "%28", "%29"]
        .iter()
        .zip(["!", "'", "(", ")"])
        .fold(component, |text, (escaped, character)| {
            text.replace(escaped, character)
        });
    assert_masked(value.as_bytes(), component.as_bytes());
    let every = value.bytes().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02x}").unwrap();
        text
    });
    assert_masked(value.as_bytes(), every.as_bytes());
    assert_masked(value.as_bytes(), every.to_uppercase().as_bytes());
}

#[test]
fn a_value_is_masked_in_json() {
    let value = "line\nquote\"slash/back\\bell\u{7}tab\té\u{1f511}<&>+'";
    let text = serde_json::to_string(value).unwrap();
    let inner = text.trim_matches('"');
    assert_masked(value.as_bytes(), inner.as_bytes());
    assert_masked(value.as_bytes(), inner.replace('/', "\\/").as_bytes());
    let ascii = inner
        .replace('é', "\\u00e9")
        .replace('\u{1f511}', "\\ud83d\\udd11");
    assert_masked(value.as_bytes(), ascii.as_bytes());
    assert_masked(value.as_bytes(), ascii.replace('/', "\\/").as_bytes());
    let twice = serde_json::to_string(inner).unwrap();
    assert_masked(value.as_bytes(), twice.trim_matches('"').as_bytes());
    let go = inner
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    assert_masked(value.as_bytes(), go.as_bytes());
}

/// Every printable character of ASCII, a line break and two other characters.
const ALL_CHARACTERS: &str = " !\"#$%&'()*+,-./0189:;<=>?@AZ[\\]^_`az{|}~\n\u{e9}\u{1f511}";

/// The text of a string of JSON in which the characters of `escaped`, and those for which `others` is true, are `\u00xx`.
fn json_text(text: &str, escaped: &str, others: fn(char) -> bool) -> String {
    let mut json = String::new();
    for character in text.chars() {
        match character {
            '/' if escaped.contains('/') => json.push_str("\\/"),
            '"' if !escaped.contains('"') => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            _ if escaped.contains(character) || others(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(json, "\\u{unit:04x}").unwrap();
                }
            }
            _ => json.push(character),
        }
    }
    json
}

type Encoder = fn(&str) -> String;

/// The encoders of JSON that escape characters which need no escape: their names, and their texts.
fn json_encoders() -> Vec<(&'static str, Encoder)> {
    fn in_upper_case(json: String) -> String {
        let digits_of = |part: &str| format!("{}{}", part[..4].to_ascii_uppercase(), &part[4..]);
        let mut parts = json.split("\\u");
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| format!("{text}\\u{}", digits_of(part)))
    }
    vec![
        ("JavaScript", |text| json_text(text, "", |_| false)),
        ("Python", |text| json_text(text, "", |each| !each.is_ascii())),
        ("PHP", |text| json_text(text, "/", |each| !each.is_ascii())),
        ("Go", |text| json_text(text, "<>&", |_| false)),
        ("Gson, JsonFormat", |text| json_text(text, "<>&='", |_| false)),
        ("System.Text.Json", |text| {
            in_upper_case(json_text(text, "<>&'\"+`", |each| !each.is_ascii()))
        }),
    ]
}

#[test]
fn a_value_is_masked_in_the_json_of_every_usual_encoder_and_in_json_in_it() {
    for (name, encode) in json_encoders() {
        let once = encode(ALL_CHARACTERS);
        assert_whole_is_masked(ALL_CHARACTERS.as_bytes(), &once, name);
        assert_whole_is_masked(ALL_CHARACTERS.as_bytes(), &encode(&once), name);
        let by_others = json_text(&once, "", |_| false);
        assert_whole_is_masked(ALL_CHARACTERS.as_bytes(), &by_others, name);
        let of_others = encode(&json_text(ALL_CHARACTERS, "", |_| false));
        assert_whole_is_masked(ALL_CHARACTERS.as_bytes(), &of_others, name);
    }
}

fn assert_whole_is_masked(value: &[u8], text: &str, name: &str) {
    for scope in [SearchScope::Heads, SearchScope::Bodies] {
        let fingerprints = Fingerprints::of([value].into_iter(), scope).unwrap();
        let masked = mask_text(&fingerprints, text.as_bytes()).map(|masked| masked.output);
        let stars = "*".repeat(text.len());
        assert_eq!(
            masked.as_deref(),
            Some(stars.as_bytes()),
            "{name} {scope:?}: {text}"
        );
    }
    let (output, _) = scan(&[value], &[text.as_bytes()]);
    assert_eq!(output, "*".repeat(text.len()).as_bytes(), "{name}: {text}");
}

#[test]
fn a_value_is_masked_in_the_percent_encoding_of_every_usual_encoder() {
    let value: String = (' '..='~').collect();
    for (name, kept) in [
        ("RFC 3986", "-._~"),
        ("encodeURIComponent", "-._~!*'()"),
        ("encodeURI", "-._~!*'();/?:@&=+$,#"),
        ("escape of JavaScript", "@*_+-./"),
        ("url.PathEscape of Go", "-._~$&+=:@"),
        ("the path of a URL of Go", "-._~/$&+,:;=@"),
        ("quote of Python", "-._~/"),
        ("the characters of a path", "-._~/!$&'()*+,;=:@"),
        ("urlencode of PHP", "-._ "),
        ("QueryEscape of Go, quote_plus of Python", "-._~ "),
        ("URLEncoder of Java, forms of HTML", "-._* "),
        ("UrlEncode of .NET", "-._!*() "),
    ] {
        let text = value.chars().fold(String::new(), |mut text, each| {
            match each.is_ascii_alphanumeric() || kept.contains(each) {
                true if each == ' ' => text.push('+'),
                true => text.push(each),
                false => write!(text, "%{:02X}", u32::from(each)).unwrap(),
            }
            text
        });
        assert_whole_is_masked(value.as_bytes(), &text, name);
        assert_whole_is_masked(value.as_bytes(), &in_lower_case_digits(&text), name);
    }
}

/// Changes the digits after each `%` to small letters.
fn in_lower_case_digits(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| {
        format!("{text}%{}{}", part[..2].to_ascii_lowercase(), &part[2..])
    })
}

#[test]
fn a_value_is_masked_in_base64_whose_characters_are_escaped() {
    // At each of the three positions in a group of base64, one part has `+` and `/`.
    let value = "~?>~?>~?>~?>-~?>~?>~?>~?>-~?>~?>~?>~?>";
    let (php, net): (Encoder, Encoder) = (
        |base64| base64.replace('/', "\\/"),
        |base64| base64.replace('+', "\\u002B"),
    );
    let url = |base64: &str| base64.replace('/', "%2F").replace('+', "%2B");
    for before in 0..3 {
        let base64 = STANDARD.encode(format!("{}{value}", &"user:p"[..before]));
        assert!(base64.contains('/') && base64.contains('+'), "{base64}");
        // The characters with bits of other bytes, and padding. None of them is escaped.
        let characters_before = (before * 8).div_ceil(6);
        let others = characters_before + base64.len() - (before + value.len()) * 8 / 6;
        for text in [
            php(&base64),
            net(&base64),
            url(&base64),
            url(&base64).replace("%2F", "%2f").replace("%2B", "%2b"),
        ] {
            for scope in [SearchScope::Heads, SearchScope::Bodies] {
                let fingerprints = Fingerprints::of([value.as_bytes()].into_iter(), scope).unwrap();
                let masked =
                    mask_text(&fingerprints, text.as_bytes()).unwrap_or_else(|| panic!("{scope:?}: {text}"));
                let left = masked.output.iter().filter(|byte| **byte != b'*').count();
                assert_eq!(left, others, "{scope:?}: {text}");
            }
        }
    }
}

#[test]
fn a_value_of_plain_characters_has_eight_forms_to_look_for() {
    let of = |value: &str| Fingerprints::of([value.as_bytes()].into_iter(), SearchScope::Bodies).unwrap();
    let token = "ghp_0123456789abcdefghijABCDEFGHIJxyzw-.";
    assert_eq!(of(token).form_count(), 8);
}

#[test]
fn a_value_of_fewer_than_eight_bytes_is_not_looked_for() {
    for scope in [SearchScope::Heads, SearchScope::Bodies] {
        assert!(Fingerprints::of([&b"1234567"[..]].into_iter(), scope).is_none());
        assert!(Fingerprints::of(std::iter::empty(), scope).is_none());
    }
    let (output, found) = scan(&[b"1234567", TOKEN.as_bytes()], &[b"1234567 MTIzNDU2Nw"]);
    assert_eq!((&*output, found.is_empty()), (&b"1234567 MTIzNDU2Nw"[..], true));
}

#[test]
fn a_value_of_eight_bytes_is_found_at_every_position_and_split() {
    let value = "12345678";
    assert_eq!(value.len(), MIN_VALUE);
    for before in 0..20 {
        let text = format!("{}{value}rest", "-".repeat(before));
        for split in 0..text.len() {
            let (first, second) = text.as_bytes().split_at(split);
            let (output, _) = scan(&[value.as_bytes()], &[first, second]);
            assert_eq!(output, format!("{}********rest", "-".repeat(before)).as_bytes());
        }
    }
}

#[test]
fn values_that_begin_with_or_overlap_one_another_are_all_masked() {
    let values: [&[u8]; 3] = [b"abcdefgh", b"abcdefghijklmnop", b"mnopqrstuvwx"];
    let (output, found) = scan(&values, &[b"-abcdefghijk-abcdefghijklmnopqrstuvwx-mnopqrstuv-"]);
    assert_eq!(
        String::from_utf8(output).unwrap(),
        "-********ijk-************************-mnopqrstuv-"
    );
    assert_eq!(found.positions().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn repeated_characters_are_masked_wherever_they_are_enough() {
    let value = "aaaaaaaaaa";
    for length in 8..40 {
        let output = masked(value, &format!("b{}b", "a".repeat(length)));
        let mask = if length < value.len() { "a" } else { "*" };
        assert_eq!(output, format!("b{}b", mask.repeat(length)));
    }
}

#[test]
fn two_values_in_a_row_are_masked() {
    let other = "another secret of the server";
    let (output, found) = scan(
        &[TOKEN.as_bytes(), other.as_bytes()],
        &[format!("{TOKEN}{other}{TOKEN}.").as_bytes()],
    );
    assert_eq!(output.iter().filter(|byte| **byte != b'*').count(), 1);
    assert_eq!(found.positions().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn sixty_four_values_are_found() {
    let values: Vec<String> = (0..64)
        .map(|index| format!("{index:02}-{TOKEN}-{index:02}"))
        .collect();
    let slices: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
    let (output, found) = scan(&slices, &[values.join(" ").as_bytes()]);
    assert_eq!(found.positions().count(), 64);
    assert_eq!(output.iter().filter(|byte| **byte != b'*').count(), 63);
}

#[test]
fn a_piece_in_which_nothing_is_found_is_not_copied() {
    let mut scanner = Scanner::new(fingerprints(&[TOKEN.as_bytes()]));
    for _ in 0..3 {
        let piece = Bytes::from(format!("data: {}\n\n", "x".repeat(5000)));
        let scanned = scanner.scan(piece.clone());
        assert_eq!(
            (scanned.output.as_ptr(), scanned.output.len()),
            (piece.as_ptr(), piece.len())
        );
        assert!(!scanner.holds_bytes());
    }
}

#[test]
fn the_end_of_an_event_is_not_held_unless_a_value_has_control_characters() {
    for (value, held) in [("a-secret-of-one-line", false), ("a-secret\nof-two-lines", true)] {
        let mut scanner = Scanner::new(fingerprints(&[value.as_bytes()]));
        scanner.scan(Bytes::from_static(b"data: a-secret\n"));
        assert_eq!(scanner.holds_bytes(), held, "{value}");
    }
}

#[test]
fn the_rest_of_a_value_is_masked_when_its_beginning_was_released() {
    for released in 1..TOKEN.len() {
        let mut scanner = Scanner::new(fingerprints(&[TOKEN.as_bytes()]));
        let (first, second) = TOKEN.as_bytes().split_at(released);
        let mut output = scanner.scan(Bytes::copy_from_slice(first)).output.to_vec();
        output.extend_from_slice(&scanner.release_all());
        assert_eq!(output, first);
        output.extend_from_slice(&scanner.scan(Bytes::copy_from_slice(second)).output);
        output.extend_from_slice(&scanner.finish());
        let rest = "*".repeat(TOKEN.len() - released);
        assert_eq!(output, [first, rest.as_bytes()].concat());
    }
}

#[test]
fn the_tail_is_released_only_where_no_value_has_begun() {
    let mut scanner = Scanner::new(fingerprints(&[TOKEN.as_bytes()]));
    let (first, second) = TOKEN.split_at(20);
    let output = scanner.scan(Bytes::from(format!("some text {first}"))).output;
    assert_eq!(output, "some text ");
    assert_eq!(scanner.release_tail(), "");
    let output = scanner.scan(Bytes::from(format!("{second}..."))).output;
    let output = [output, scanner.release_tail()].concat();
    assert_eq!(output, format!("{}...", "*".repeat(TOKEN.len())).as_bytes());
}

#[test]
fn a_text_is_masked_as_a_whole_or_left_alone() {
    let in_hex = TOKEN.bytes().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02X}").unwrap();
        text
    });
    for (text, expected) in [
        (String::new(), None),
        ("1234567".to_owned(), None),
        ("a text in which nothing is to be found".to_owned(), None),
        ("xhunter22".to_owned(), Some("x********".to_owned())),
        (
            format!("Bearer {TOKEN}"),
            Some(format!("Bearer {}", "*".repeat(TOKEN.len()))),
        ),
        (
            format!("-{in_hex}-{in_hex}"),
            Some(format!("-{0}-{0}", "*".repeat(in_hex.len()))),
        ),
        (format!("beginning {}", &TOKEN[..39]), None),
    ] {
        for values in [&[TOKEN.as_bytes(), b"hunter22"][..], &[TOKEN.as_bytes()]] {
            let expected = expected
                .as_deref()
                .filter(|_| values.len() > 1 || !text.contains("hunter22"));
            for scope in [SearchScope::Heads, SearchScope::Bodies] {
                let fingerprints = Fingerprints::of(values.iter().copied(), scope).unwrap();
                let masked = mask_text(&fingerprints, text.as_bytes()).map(|masked| masked.output);
                assert_eq!(masked.as_deref(), expected.map(str::as_bytes), "{text}");
            }
        }
    }
}

/// The last character of the value and the first two of the form behind it are `%0a`.
#[test]
fn a_form_behind_a_value_that_ends_with_a_percent_sign_is_masked() {
    let value = b"0a aA0a%";
    for scope in [SearchScope::Heads, SearchScope::Bodies] {
        let fingerprints = Fingerprints::of([&value[..]].into_iter(), scope).unwrap();
        for text in ["0a aA0a%0a+aA0a%25", "0a aA0a%0a%20aA0a%25", "0a aA0a%0a aA0a%25"] {
            let masked = mask_text(&fingerprints, text.as_bytes()).unwrap().output;
            assert_eq!(masked, "*".repeat(text.len()));
        }
    }
}

/// The end of the first occurrence is the beginning of the second one, which is not released with it.
#[test]
fn a_released_tail_has_no_value_that_begins_in_another_one() {
    let value = b"abbababbaba";
    let form: String = value.iter().map(|byte| format!("%{byte:02x}")).collect();
    let stream = format!("{}{form}", &form[..15]);
    for split in 0..stream.len() {
        let mut scanner = Scanner::new(fingerprints(&[&value[..]]));
        let (first, second) = stream.split_at(split);
        let mut output = scanner.scan(Bytes::from(first.to_owned())).output.to_vec();
        output.extend(scanner.release_tail());
        output.extend(scanner.scan(Bytes::from(second.to_owned())).output);
        output.extend(scanner.finish());
        assert!(output[30..].iter().all(|byte| *byte == b'*'), "{split}");
    }
}

/// Every position in such a stream begins a comparison of up to 9,000 bytes, and each of these bytes was hashed again.
#[test]
fn a_value_that_repeats_itself_is_masked_in_a_time_that_grows_with_the_stream_only() {
    for unit in ["a", "ab", "abcdefgh-", "ab-ab-ab-ab-ab-ab-ab-c"] {
        let value = unit.repeat(40_000 / unit.len());
        let longer = unit.repeat(50_000 / unit.len());
        let mut scanner = Scanner::new(fingerprints(&[value.as_bytes(), longer.as_bytes()]));
        let stream = value.repeat(10);
        let mut shown = 0;
        let began = std::time::Instant::now();
        for piece in stream.as_bytes().chunks(1000) {
            let output = scanner.scan(Bytes::copy_from_slice(piece)).output;
            shown += output.iter().filter(|byte| **byte != b'*').count();
        }
        let last = scanner.finish();
        shown += last.iter().filter(|byte| **byte != b'*').count();
        assert_eq!(shown, 0, "{unit}");
        assert!(began.elapsed().as_secs() < 60, "{unit}: {:?}", began.elapsed());
    }
}
