//! For every body in pieces of any size: the rewriter accepts exactly strict JSON; the injected member is the last one and
//! the only one of its name; rewriting the body again changes nothing; the output of a refused body has no secret.
#![no_main]

use injector_service::inject::json::{JsonError, Rewriter, SecretsObject};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const VALUE: &str = "ghp_0123456789_plaintext";
const OURS: &str = r#""secrets":{"GITHUB_TOKEN":"ghp_0123456789_plaintext"}"#;

fuzz_target!(|data: &[u8]| {
    let [cut, body @ ..] = data else { return };
    if body.windows(VALUE.len()).any(|window| window == VALUE.as_bytes()) {
        return;
    }
    let (result, out) = rewrite(body, usize::from(*cut).max(1));
    let (whole, whole_out) = rewrite(body, usize::MAX);
    assert_eq!(result, whole);
    assert_eq!(result.is_ok(), is_strict_json_object(body));
    match result {
        Ok(()) => check(body, &out, &whole_out),
        Err(_) => assert!(!out.windows(VALUE.len()).any(|window| window == VALUE.as_bytes())),
    }
});

fn check(body: &[u8], out: &[u8], whole_out: &[u8]) {
    assert_eq!(out, whole_out);
    let text = std::str::from_utf8(out).expect("an accepted body is UTF-8");
    assert_eq!(text.matches(OURS).count(), 1);
    assert!(text.trim_ascii_end().ends_with(&format!("{OURS}}}")));
    let (again, twice) = rewrite(out, usize::MAX);
    assert_eq!((again, twice.as_slice()), (Ok(()), out));
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else { return };
    members.retain(|name, _| name.to_uppercase().to_lowercase() != "secrets");
    members.insert("secrets".into(), serde_json::json!({"GITHUB_TOKEN": VALUE}));
    assert_eq!(serde_json::from_str::<Value>(text).expect("what could be parsed still can"), Value::Object(members));
}

fn rewrite(body: &[u8], cut: usize) -> (Result<(), JsonError>, Vec<u8>) {
    let secrets = SecretsObject::new([("GITHUB_TOKEN", VALUE.as_bytes())]).expect("VALUE is UTF-8");
    let (mut rewriter, mut out) = (Rewriter::new(secrets), Vec::new());
    for chunk in body.chunks(cut) {
        if let Err(error) = rewriter.push(chunk, &mut out) {
            return (Err(error), out);
        }
    }
    (rewriter.finish(&mut out), out)
}

/// serde_json, reading without decoding, has no recursion limit and leaves UTF-8 to us.
fn is_strict_json_object(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else { return false };
    serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get().starts_with('{'))
}
