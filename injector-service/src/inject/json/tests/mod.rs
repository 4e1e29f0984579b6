//! Tests with handwritten bodies. [`props`] has the tests with generated bodies.

mod insert;
mod insert_props;
mod names;
mod props;

use super::nesting::MAX_DEPTH;
use super::whitespace::MAX_TRAILING_WHITESPACE;
use super::{JsonCause, JsonError, Rewriter, SecretsObject, name};

const VALUE: &str = "ghp_0123456789_plaintext";
const OURS: &str = r#""secrets":{"GITHUB_TOKEN":"ghp_0123456789_plaintext"}"#;

fn secrets() -> SecretsObject {
    SecretsObject::new([("GITHUB_TOKEN", VALUE.as_bytes())]).expect("VALUE is UTF-8")
}

/// Rewrites `body` in pieces of these sizes, which repeat. Returns the output after errors, too.
fn rewrite_in_pieces(body: &[u8], sizes: &[usize]) -> (Result<(), JsonError>, Vec<u8>) {
    let (mut rewriter, mut out, mut rest) = (Rewriter::new(secrets()), Vec::new(), body);
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        let before = out.len().saturating_sub(VALUE.len());
        if let Err(error) = rewriter.push(chunk, &mut out) {
            return (Err(error), out);
        }
        assert!(
            !contains(&out[before..], VALUE.as_bytes()),
            "a secret went out before the body had ended"
        );
    }
    (rewriter.finish(&mut out), out)
}

/// Rewrites `body` in pieces of several sizes, which all give the same result.
fn rewrite(body: impl AsRef<[u8]>) -> Result<Vec<u8>, JsonError> {
    let body = body.as_ref();
    let (result, out) = rewrite_in_pieces(body, &[usize::MAX]);
    for sizes in [&[1][..], &[2], &[3], &[7, 1, 16]] {
        let (cut_result, cut_out) = rewrite_in_pieces(body, sizes);
        assert_eq!(cut_result, result, "cut into {sizes:?}");
        assert!(result.is_err() || cut_out == out, "cut into {sizes:?}");
    }
    result.map(|()| out)
}

#[track_caller]
fn assert_rewritten(body: impl AsRef<[u8]>, expected: &str) {
    let out = rewrite(body).map(|out| String::from_utf8(out).expect("an accepted body is UTF-8"));
    assert_eq!(out.as_deref(), Ok(expected.replace("OURS", OURS).as_str()));
}

/// Asserts that the rewrite only adds `,OURS` before the last brace.
#[track_caller]
fn assert_unchanged(body: &str) {
    let (before, after) = body.rsplit_once('}').expect("an object");
    assert_rewritten(body, &format!("{before},OURS}}{after}"));
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_member_is_injected_last() {
    assert_rewritten("{}", "{OURS}");
    assert_rewritten(r#"{"a":1}"#, r#"{"a":1,OURS}"#);
    assert_rewritten("{ }", "{ OURS}");
    assert_rewritten("{\n  \"a\": 1\n}\n", "{\n  \"a\": 1\n,OURS}\n");
    assert_rewritten(" \t\r\n{\"a\":{}}\r\n ", " \t\r\n{\"a\":{},OURS}\r\n ");
}

#[test]
fn without_secrets_an_empty_object_is_injected() {
    let none = SecretsObject::new([]).expect("no value, no bad value");
    let (mut rewriter, mut out) = (Rewriter::new(none), Vec::new());
    rewriter
        .push(br#"{"secrets":{"A":"spoofed"}}"#, &mut out)
        .expect("valid");
    rewriter.finish(&mut out).expect("whole");
    assert_eq!(out, br#"{"secrets":{}}"#);
}

#[test]
fn a_member_with_the_injected_name_is_removed_with_its_comma() {
    for (body, expected) in [
        (r#"{"secrets":1}"#, r#"{OURS}"#),
        (r#"{"secrets":1,"a":2}"#, r#"{"a":2,OURS}"#),
        (r#"{"a":1,"secrets":2}"#, r#"{"a":1,OURS}"#),
        (r#"{"a":1,"secrets":2,"b":3}"#, r#"{"a":1,"b":3,OURS}"#),
        (r#"{"secrets":1,"secrets":2}"#, r#"{OURS}"#),
        (r#"{"secrets":1,"a":2,"secrets":3}"#, r#"{"a":2,OURS}"#),
        (r#"{"a":1,"secrets":2,"SECRETS":3}"#, r#"{"a":1,OURS}"#),
        (
            r#"{"a":1,"secrets":2,"SECRETS":3,"b":4}"#,
            r#"{"a":1,"b":4,OURS}"#,
        ),
        (r#"{ "secrets" : 1 , "a" : 2 }"#, r#"{  "a" : 2 ,OURS}"#),
        (r#"{ "a" : 1 , "secrets" : 2 }"#, r#"{ "a" : 1 , OURS}"#),
        ("{\n\t\"secrets\":\r1\n}\n", "{\n\tOURS}\n"),
    ] {
        assert_rewritten(body, expected);
    }
}

#[test]
fn the_value_of_a_removed_member_does_not_matter() {
    for value in [
        r#"{"x":"spoofed","y":[{"z":1},2]}"#,
        r#"["secrets",{"secrets":[1,2]}]"#,
        r#""a,b}\"secrets\":1""#,
        "null",
        "true",
        "-0.5e+7",
        "{}",
        "[]",
        r#""""#,
    ] {
        assert_rewritten(
            format!(r#"{{"a":1,"secrets":{value},"b":2}}"#),
            r#"{"a":1,"b":2,OURS}"#,
        );
        assert_rewritten(format!(r#"{{"secrets":{value}}}"#), "{OURS}");
    }
}

#[test]
fn a_removed_member_has_to_be_valid() {
    assert_eq!(fault(r#"{"secrets":01}"#), (12, JsonCause::BadNumber));
    assert_eq!(fault(r#"{"secrets":1,}"#), (13, JsonCause::Unexpected));
    assert_eq!(fault(b"{\"secrets\":\"\xFF\"}"), (12, JsonCause::InvalidUtf8));
}

#[test]
fn nested_members_and_values_are_unchanged() {
    for body in [
        r#"{"a":{"secrets":1}}"#,
        r#"{"a":[{"secrets":1,"Secrets":2}]}"#,
        r#"{"a":{"b":{"ſecrets":{}}},"c":"secrets"}"#,
        r#"{"a":["secrets","secrets"]}"#,
        r#"{"a":{"secrets":1},"b":"\"secrets\":1"}"#,
    ] {
        assert_unchanged(body);
    }
}

#[test]
fn every_valid_value_passes_byte_for_byte() {
    for value in [
        "1e400",
        "-1E-400",
        "12345678901234567890",
        "-0",
        "0",
        "0.10",
        "1E+07",
        "0e0",
        "0.0e-00",
        "9.999",
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\uD83D\uDE00""#,
        r#""\u0000""#,
        r#""\"\\\/\b\f\n\r\t\u00e9""#,
        "\"\u{7f}\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{feff}\u{ffff}\u{10000}\u{10ffff}\"",
        "\"\u{2028}\"",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[[],{},[{}]]",
        " \t\r\n[ 1 ,\t2\r,\n3 ]\n ",
        r#"{"":{"":""}}"#,
        r#"[{"a":1,"a":2},null]"#,
    ] {
        assert_unchanged(&format!(r#"{{"a":{value}}}"#));
        assert_unchanged(&format!(
            r#"{{"a":[{value},{value}],"a":{{"b":{value}}},"":{value}}}"#
        ));
    }
}

#[test]
fn a_million_members_pass() {
    let body = (0..1_000_000)
        .map(|i| format!("\"k{i}\":{i}"))
        .collect::<Vec<_>>()
        .join(",");
    let (result, out) = rewrite_in_pieces(format!("{{{body}}}").as_bytes(), &[16 * 1024]);
    assert_eq!(result, Ok(()));
    assert!(out == format!("{{{body},{OURS}}}").into_bytes());
}

fn fault(body: impl AsRef<[u8]>) -> (u64, JsonCause) {
    let error = rewrite(body).expect_err("no good body");
    (error.offset, error.cause)
}

#[test]
fn only_one_object_is_a_body() {
    use JsonCause::{NotAnObject, TrailingData, Truncated, Unexpected};
    for (body, offset, cause) in [
        ("", 0, Truncated),
        (" \n", 2, Truncated),
        ("[]", 0, NotAnObject),
        (r#"[{"jsonrpc":"2.0"}]"#, 0, NotAnObject),
        (" \"secrets\"", 1, NotAnObject),
        ("1", 0, NotAnObject),
        ("null", 0, NotAnObject),
        ("\u{feff}{}", 0, NotAnObject),
        ("// a\n{}", 0, NotAnObject),
        ("\u{0}{}", 0, NotAnObject),
        ("\u{c}{}", 0, NotAnObject),
        ("\u{a0}{}", 0, NotAnObject),
        ("{}{}", 2, TrailingData),
        ("{}\n{}", 3, TrailingData),
        ("{},", 2, TrailingData),
        ("{}]", 2, TrailingData),
        ("{}}", 2, TrailingData),
        ("{} x", 3, TrailingData),
        ("{}\u{0}", 2, TrailingData),
        ("{}\u{c}", 2, TrailingData),
        ("{\"a\":1\u{a0}}", 6, Unexpected),
    ] {
        assert_eq!(fault(body), (offset, cause), "{body:?}");
    }
}

#[test]
fn every_proper_prefix_of_a_body_is_truncated() {
    let body = r#"{"a":[1,-2.5e+3,true,"x\u00e9é\n"],"secrets":{"b":null}, "c":{}}"#;
    for end in 0..body.len() {
        let (result, out) = rewrite_in_pieces(&body.as_bytes()[..end], &[usize::MAX]);
        assert_eq!(
            result,
            Err(JsonError {
                offset: end as u64,
                cause: JsonCause::Truncated
            })
        );
        assert!(!contains(&out, b"GITHUB_TOKEN"));
    }
}

#[test]
fn invalid_json_is_refused_at_its_first_wrong_byte() {
    use JsonCause::{BadEscape, BadNumber, ControlCharacter, Unexpected};
    for (value, at, cause) in [
        ("01", 1, BadNumber),
        ("-01", 2, BadNumber),
        ("00", 1, BadNumber),
        ("1.", 2, BadNumber),
        ("1.e5", 2, BadNumber),
        (".5", 0, BadNumber),
        ("+1", 0, BadNumber),
        ("-", 1, BadNumber),
        ("-a", 1, BadNumber),
        ("--1", 1, BadNumber),
        ("1e", 2, BadNumber),
        ("1e+", 3, BadNumber),
        ("1e+-1", 3, BadNumber),
        ("1.2.3", 3, Unexpected),
        ("1e5.5", 3, Unexpected),
        ("1 2", 2, Unexpected),
        ("0x10", 1, Unexpected),
        ("NaN", 0, Unexpected),
        ("Infinity", 0, Unexpected),
        ("nul", 3, Unexpected),
        ("nulL", 3, Unexpected),
        ("True", 0, Unexpected),
        ("truefalse", 4, Unexpected),
        ("", 0, Unexpected),
        ("'a'", 0, Unexpected),
        ("[1,]", 3, Unexpected),
        ("[,1]", 1, Unexpected),
        ("[1 1]", 3, Unexpected),
        ("[1}", 2, Unexpected),
        ("[}", 1, Unexpected),
        ("[1:2]", 2, Unexpected),
        ("{]", 1, Unexpected),
        ("{\"a\":1]", 6, Unexpected),
        ("{\"a\"}", 4, Unexpected),
        ("{\"a\",1}", 4, Unexpected),
        ("{\"a\"::1}", 5, Unexpected),
        ("{\"a\":1,}", 7, Unexpected),
        ("{,}", 1, Unexpected),
        ("{a:1}", 1, Unexpected),
        ("{1:1}", 1, Unexpected),
        ("{null:1}", 1, Unexpected),
        ("1/**/", 1, Unexpected),
        ("\"\u{0}\"", 1, ControlCharacter),
        ("\"a\u{1f}\"", 2, ControlCharacter),
        ("\"a\nb\"", 2, ControlCharacter),
        ("\"sixteen bytes...\tb\"", 17, ControlCharacter),
        (r#""\x41""#, 2, BadEscape),
        (r#""\'""#, 2, BadEscape),
        (r#""\U0041""#, 2, BadEscape),
        (r#""\u""#, 3, BadEscape),
        (r#""\u00g0""#, 5, BadEscape),
        (r#""\u123""#, 6, BadEscape),
        (r#""\u+123""#, 3, BadEscape),
    ] {
        assert_eq!(fault(format!("{{\"a\":{value}}}")), (5 + at, cause), "{value:?}");
    }
}

#[test]
fn invalid_utf8_is_refused() {
    for (text, at) in [
        (&b"\x80"[..], 0),
        (b"\xBF", 0),
        (b"\xC0\x80", 0),
        (b"\xC1\xBF", 0),
        (b"\xC3", 1),
        (b"\xC3\xC3", 1),
        (b"\xE0\x9F\xBF", 1),
        (b"\xE1\x80", 2),
        (b"\xED\xA0\x80", 1),
        (b"\xED\xBF\xBF", 1),
        (b"\xEF\xBF\xC0", 2),
        (b"\xF0\x8F\xBF\xBF", 1),
        (b"\xF0\x90\x80", 3),
        (b"\xF4\x90\x80\x80", 1),
        (b"\xF5\x80\x80\x80", 0),
        (b"\xFF", 0),
        (b"\xFE", 0),
        (b"abcdefghijklmnop\xC3\xA9\xE9", 19),
    ] {
        let value = [b"{\"a\":\"", text, b"\"}"].concat();
        assert_eq!(fault(value), (6 + at, JsonCause::InvalidUtf8), "{text:02X?}");
        let name = [b"{\"", text, b"\":1}"].concat();
        assert_eq!(fault(name), (2 + at, JsonCause::InvalidUtf8), "{text:02X?}");
        let bare = [b"{\"a\":", text, b"}"].concat();
        assert_eq!(fault(bare), (5, JsonCause::Unexpected), "{text:02X?}");
    }
}

#[test]
fn nesting_is_limited_and_the_kind_of_container_is_kept_at_any_depth() {
    for depth in [1, 62, 63, 64, 65, 127, 128, 129, 10_000, MAX_DEPTH - 1] {
        let opened: String = (0..depth)
            .map(|level| if level % 3 == 0 { "[" } else { "{\"secrets\":" })
            .collect();
        let closed: String = (0..depth)
            .rev()
            .map(|level| if level % 3 == 0 { "]" } else { "}" })
            .collect();
        let body = format!("{{\"a\":{opened}null{closed}}}");
        let (result, out) = rewrite_in_pieces(body.as_bytes(), &[4096]);
        assert_eq!(result, Ok(()), "depth {depth}");
        assert!(
            out == format!("{{\"a\":{opened}null{closed},{OURS}}}").into_bytes(),
            "depth {depth}"
        );

        let wrong = closed.replacen(']', "}", 1);
        let (result, _) = rewrite_in_pieces(format!("{{\"a\":{opened}null{wrong}}}").as_bytes(), &[4096]);
        assert_eq!(
            result.map_err(|error| error.cause),
            Err(JsonCause::Unexpected),
            "depth {depth}"
        );
    }
    let body = format!("{{\"a\":{}", "[".repeat(MAX_DEPTH));
    assert_eq!(fault(body), (5 + MAX_DEPTH as u64 - 1, JsonCause::TooDeep));
}

#[test]
fn whitespace_after_the_object_is_kept_up_to_its_limit() {
    let whitespace = " ".repeat(MAX_TRAILING_WHITESPACE);
    assert_rewritten(format!("{{}}{whitespace}"), &format!("{{OURS}}{whitespace}"));
    assert_eq!(
        fault(format!("{{}}{whitespace}\n")),
        (2 + MAX_TRAILING_WHITESPACE as u64, JsonCause::TooMuchWhitespace)
    );
    assert_eq!(
        fault(format!("{{}}{whitespace}x")),
        (2 + MAX_TRAILING_WHITESPACE as u64, JsonCause::TrailingData)
    );
    assert_eq!(
        fault(format!("{{}}{whitespace}\nx")),
        (2 + MAX_TRAILING_WHITESPACE as u64, JsonCause::TooMuchWhitespace)
    );
    let leading = " ".repeat(3 * MAX_TRAILING_WHITESPACE);
    assert_rewritten(
        format!("{leading}{{{leading}}}"),
        &format!("{leading}{{{leading}OURS}}"),
    );
}

#[test]
fn the_closing_brace_is_written_at_the_end_of_the_body() {
    let (mut rewriter, mut out) = (Rewriter::new(secrets()), Vec::new());
    rewriter.push(b"{\"a\":{}} ", &mut out).expect("valid");
    assert_eq!(out, b"{\"a\":{}");
    rewriter.push(b"\n", &mut out).expect("valid");
    assert_eq!(out, b"{\"a\":{}");
    rewriter.push(b"", &mut out).expect("valid");
    rewriter.finish(&mut out).expect("whole");
    assert_eq!(out, format!("{{\"a\":{{}},{OURS}}} \n").as_bytes());
}

#[test]
fn only_a_name_that_may_be_removed_is_kept_back() {
    let body = format!(
        r#"{{"{}":[1,"x"],"s{}":{{"secrets":1}}"#,
        "x".repeat(5_000),
        "\\u0073".repeat(500)
    );
    let (mut rewriter, mut out) = (Rewriter::new(secrets()), Vec::new());
    for (pushed, byte) in body.bytes().enumerate() {
        rewriter.push(&[byte], &mut out).expect("valid");
        assert!(
            out.len() + name::LONGEST_SPELLING + 2 > pushed,
            "{} of {pushed}",
            out.len()
        );
    }
    assert_eq!(out, body.as_bytes());
}

#[test]
fn after_an_error_no_secret_is_written() {
    let (mut rewriter, mut out) = (Rewriter::new(secrets()), Vec::new());
    let error = JsonError {
        offset: 3,
        cause: JsonCause::TrailingData,
    };
    assert_eq!(rewriter.push(b"{} x", &mut out), Err(error));
    assert_eq!(rewriter.push(b"{}", &mut out), Err(error));
    assert_eq!(rewriter.finish(&mut out), Err(error));
    assert_eq!(out, b"{");
}

#[test]
fn an_error_names_the_offset_and_cause_and_does_not_quote_the_body() {
    let error = rewrite("{\"password\":hunter2}").expect_err("no JSON");
    assert_eq!(
        error.to_string(),
        "the JSON grammar allows no such byte at byte 12"
    );
}

#[test]
fn the_output_grows_only_before_plaintext_is_written() {
    let value = vec![b'x'; 10_000];
    let secrets = SecretsObject::new([("A", value.as_slice())]).expect("ASCII");
    let (mut rewriter, mut out) = (Rewriter::new(secrets), Vec::new());
    rewriter.push(b"{}  ", &mut out).expect("valid");
    rewriter.finish(&mut out).expect("whole");
    assert_eq!(out.capacity(), out.len());
}
