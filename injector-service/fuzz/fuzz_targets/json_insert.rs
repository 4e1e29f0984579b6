//! For every body: members are put into exactly the strict JSON objects with objects on the way of each pointer; a parser
//! then finds the injected members, each once; doing it again changes nothing that a parser finds; no error has the value.
#![no_main]

use injector_service::inject::json::{InsertError, JsonMembers, JsonPointer, JsonString, insert_members};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, value::RawValue};

const VALUE: &str = "ghp_0123456789_plaintext";

fuzz_target!(|body: &[u8]| {
    if body.windows(VALUE.len()).any(|window| window == VALUE.as_bytes()) {
        return;
    }
    let is_json_object = std::str::from_utf8(body)
        .is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get().starts_with('{')));
    match insert(body) {
        Ok(out) => {
            assert!(is_json_object);
            check(&out);
        }
        Err(InsertError::NotAnObject { .. } | InsertError::TooManyFound) => assert!(is_json_object),
        Err(error @ InsertError::Json(_)) => {
            assert!(!is_json_object && !error.to_string().contains(VALUE));
        }
    }
});

fn check(out: &[u8]) {
    let text = std::str::from_utf8(out).expect("an accepted body is UTF-8");
    assert_eq!(text.matches(VALUE).count(), 2);
    let again = insert(out).expect("what was accepted is accepted again");
    let (Ok(once), Ok(twice)) = (serde_json::from_slice::<Value>(out), serde_json::from_slice::<Value>(&again)) else {
        return;
    };
    assert_eq!(once, twice);
    assert_eq!(once["a"], VALUE);
}

fn insert(body: &[u8]) -> Result<Vec<u8>, InsertError> {
    let pointer = |text| JsonPointer::parse(text).expect("a pointer");
    let value = || Some(JsonString::concat(&[VALUE]));
    let (a, t, u) = (pointer("/a"), pointer("/p/m/t"), pointer("/p/m/u"));
    let members = JsonMembers::new([(&a, value()), (&t, value()), (&u, None)]).expect("three places");
    insert_members(body, &members).map(|out| out.to_vec())
}
