//! Members at JSON Pointers, in handwritten bodies.

use super::super::{
    ConflictingPointers, InsertError, JsonCause, JsonMembers, JsonPointer, JsonString, error::MAX_FOUND,
    insert_members, nesting::MAX_DEPTH,
};
use crate::work_growth::{assert_linear, repeated};

/// Returns the members of `pointer=value` pairs, separated by spaces. A pointer alone has no value.
pub(super) fn members(pairs: &str) -> Result<JsonMembers, ConflictingPointers> {
    let pairs: Vec<_> = pairs
        .split_whitespace()
        .map(|pair| match pair.split_once('=') {
            Some((pointer, value)) => (JsonPointer::parse(pointer).unwrap(), Some(value)),
            None => (JsonPointer::parse(pair).unwrap(), None),
        })
        .collect();
    JsonMembers::new(pairs.iter().map(|(pointer, value)| {
        let value = value.as_ref().map(|value| JsonString::concat(&[value]));
        (pointer, value)
    }))
}

pub(super) fn insert(pairs: &str, body: impl AsRef<[u8]>) -> Result<String, InsertError> {
    let out = insert_members(body.as_ref(), &members(pairs).unwrap())?;
    assert_eq!(
        out.capacity(),
        out.len(),
        "the buffer has grown, or is larger than needed"
    );
    Ok(String::from_utf8(out.to_vec()).expect("an accepted body is UTF-8"))
}

#[track_caller]
fn assert_inserted(pairs: &str, cases: &[(&str, &str)]) {
    for (body, expected) in cases {
        assert_eq!(insert(pairs, body).as_deref(), Ok(*expected), "{body}");
    }
}

#[test]
fn a_member_replaces_every_spelling_of_its_name() {
    assert_inserted(
        "/token=v",
        &[
            ("{}", r#"{"token":"v"}"#),
            ("{ }", r#"{ "token":"v"}"#),
            (r#"{"a":1}"#, r#"{"a":1,"token":"v"}"#),
            (r#"{"token":"x"}"#, r#"{"token":"v"}"#),
            (r#"{"TOKEN":"x","a":1}"#, r#"{"a":1,"token":"v"}"#),
            (
                r#"{"a":1,"to\u212Aen":[{"b":2}],"b":3}"#,
                r#"{"a":1,"b":3,"token":"v"}"#,
            ),
            (r#"{"a":1,"token":"x","toKen":"y"}"#, r#"{"a":1,"token":"v"}"#),
            (
                r#"{"Token":1, "token":2 , "a" : 3 }"#,
                r#"{  "a" : 3 ,"token":"v"}"#,
            ),
            (
                r#"{"a":{"token":"x"},"b":["token"]}"#,
                r#"{"a":{"token":"x"},"b":["token"],"token":"v"}"#,
            ),
        ],
    );
}

#[test]
fn a_member_goes_into_the_object_that_its_pointer_leads_to() {
    assert_inserted(
        "/params/_meta/token=v",
        &[
            ("{}", r#"{"params":{"_meta":{"token":"v"}}}"#),
            (r#"{"id":1}"#, r#"{"id":1,"params":{"_meta":{"token":"v"}}}"#),
            (r#"{"params":{}}"#, r#"{"params":{"_meta":{"token":"v"}}}"#),
            (
                r#"{"params" : {"_meta":{ } , "x":1}, "id":1}"#,
                r#"{"params" : {"_meta":{ "token":"v"} , "x":1}, "id":1}"#,
            ),
            (
                r#"{"params":{"_meta":{"progressToken":1,"TOKEN":"x"}},"token":2}"#,
                r#"{"params":{"_meta":{"progressToken":1,"token":"v"}},"token":2}"#,
            ),
            (
                r#"{"a":{"params":{"_meta":{"token":1}}},"_meta":{"token":2}}"#,
                r#"{"a":{"params":{"_meta":{"token":1}}},"_meta":{"token":2},"params":{"_meta":{"token":"v"}}}"#,
            ),
        ],
    );
}

#[test]
fn several_members_share_the_objects_that_lead_to_them() {
    assert_inserted(
        "/params/_meta/a=1 /key=2 /params/_meta/b=3 /params/c=4",
        &[
            (
                "{}",
                r#"{"params":{"_meta":{"a":"1","b":"3"},"c":"4"},"key":"2"}"#,
            ),
            (
                r#"{"params":{"_meta":{"B":0,"x":0}, "C":0},"KEY":0}"#,
                r#"{"params":{"_meta":{"x":0,"a":"1","b":"3"}, "c":"4"},"key":"2"}"#,
            ),
            (
                r#"{"params":{"c":0,"a":0}}"#,
                r#"{"params":{"a":0,"_meta":{"a":"1","b":"3"},"c":"4"},"key":"2"}"#,
            ),
        ],
    );
}

#[test]
fn a_member_without_a_value_is_removed_and_no_object_is_made_for_it() {
    assert_inserted(
        "/params/token",
        &[
            ("{}", "{}"),
            (r#" { "a" : 1.0 } "#, r#" { "a" : 1.0 } "#),
            (r#"{"params":{"token":1}}"#, r#"{"params":{}}"#),
            (r#"{"params":{"a":1,"TOKEN":1}}"#, r#"{"params":{"a":1}}"#),
            (r#"{"params":{"a":1 , "token":1 }}"#, r#"{"params":{"a":1  }}"#),
            (
                r#"{"params":{"token":1,"a":1,"token":2,"token":3},"b":2}"#,
                r#"{"params":{"a":1},"b":2}"#,
            ),
            (
                r#"{"params":{"a":1,"token":2,"b":3}}"#,
                r#"{"params":{"a":1,"b":3}}"#,
            ),
        ],
    );
    assert_inserted(
        "/p/_meta/a /p/_meta/b=v /p/c/d",
        &[
            ("{}", r#"{"p":{"_meta":{"b":"v"}}}"#),
            (
                r#"{"p":{"_meta":{"a":0},"c":{"d":0}}}"#,
                r#"{"p":{"_meta":{"b":"v"},"c":{}}}"#,
            ),
        ],
    );
}

#[test]
fn objects_with_equal_names_all_lose_the_member_and_one_gets_it() {
    assert_inserted(
        "/params/token=v",
        &[
            // The last one with exactly the pointer's name.
            (
                r#"{"params":{"token":1},"params":{"a":1,"token":2},"PARAMS":{"token":3}}"#,
                r#"{"params":{},"params":{"a":1,"token":"v"},"PARAMS":{}}"#,
            ),
            // Without such a one, the last one with an equal name.
            (
                r#"{"PARAMS":{"token":1},"Params":{"Token":2}}"#,
                r#"{"PARAMS":{},"Params":{"token":"v"}}"#,
            ),
            (
                r#"{"p\u0061rams":{},"Params":{"a":1}}"#,
                r#"{"p\u0061rams":{"token":"v"},"Params":{"a":1}}"#,
            ),
            (
                r#"{"Params":{"a":1,"token":1},"params":{}}"#,
                r#"{"Params":{"a":1},"params":{"token":"v"}}"#,
            ),
        ],
    );
    // Objects inside an object that does not get the member are no candidates.
    assert_inserted(
        "/a/b/t=v",
        &[(
            r#"{"a":{"b":{"t":1}},"A":{"b":{"t":2}},"a":{"B":{"x":0,"t":3}}}"#,
            r#"{"a":{"b":{}},"A":{"b":{}},"a":{"B":{"x":0,"t":"v"}}}"#,
        )],
    );
}

#[test]
fn a_body_without_an_object_on_the_way_is_refused_by_pointer_only() {
    for value in ["[]", r#"[{"token":"hush"}]"#, r#""hush""#, "null", "1", "true"] {
        for (pairs, body, pointer) in [
            ("/params/token=v", format!(r#"{{"params":{value}}}"#), "/params"),
            ("/params/token", format!(r#"{{"params":{value}}}"#), "/params"),
            (
                "/params/token=v",
                format!(r#"{{"params":{{}},"PARAMS" : {value},"a":1}}"#),
                "/params",
            ),
            ("/a/b~1/c=v", format!(r#"{{"a":{{"b\/": {value}}}}}"#), "/a/b~1"),
        ] {
            let error = insert(pairs, &body).unwrap_err();
            assert_eq!(
                error,
                InsertError::NotAnObject {
                    pointer: pointer.into()
                },
                "{body}"
            );
            assert!(!error.to_string().contains("hush") && error.to_string().contains(pointer));
        }
    }
}

#[test]
fn invalid_bodies_are_refused_as_by_the_rewriter() {
    for (body, cause, offset) in [
        ("", JsonCause::Truncated, 0),
        ("[]", JsonCause::NotAnObject, 0),
        ("\u{feff}{}", JsonCause::NotAnObject, 0),
        (r#"{"params":{"a":1}"#, JsonCause::Truncated, 17),
        (r#"{"params":[]"#, JsonCause::Truncated, 12),
        (r#"{"params""#, JsonCause::Truncated, 9),
        (r#"{"params":{"a":1,}}"#, JsonCause::Unexpected, 17),
        (r#"{"params" {}}"#, JsonCause::Unexpected, 10),
        (r#"{"params":{]}"#, JsonCause::Unexpected, 11),
        (r#"{"params":{"token":01}}"#, JsonCause::BadNumber, 20),
        ("{} {", JsonCause::TrailingData, 3),
        ("{\"params\":{\"a\":\"\n\"}}", JsonCause::ControlCharacter, 16),
    ] {
        let Err(InsertError::Json(error)) = insert("/params/token=v", body) else {
            panic!("{body}");
        };
        assert_eq!((error.cause, error.offset), (cause, offset), "{body}");
    }
    let deep = format!("{{\"params\":{}", "[".repeat(MAX_DEPTH));
    let Err(InsertError::Json(error)) = insert("/params/token=v", deep) else {
        panic!()
    };
    assert_eq!(error.cause, JsonCause::TooDeep);
}

#[test]
fn everything_that_the_grammar_allows_passes_byte_for_byte() {
    for body in [
        r#"{"a":1e400,"b":-0.0E-00,"c":12345678901234567890}"#,
        r#"{"a":"\ud800","b":"\udfff\ud800","c":"\u0000"}"#,
        "\t{ \"\u{1f511}\" :\r\n[ ] , \"a\":true\n}\n ",
        r#"{"params":{"a":1,"a":1},"a":0,"a":{}}"#,
    ] {
        assert_eq!(insert("/params/token /x", body).as_deref(), Ok(body));
    }
}

#[test]
fn the_work_for_a_body_grows_with_its_length_only() {
    let members = members("/token=v /p/token=v /p/q/token=v /p/q/r/token=v").unwrap();
    for again in [
        "\"p\":{},",
        "\"p\":0,",
        "\"p\":{\"q\":{}},",
        "\"p\":{\"q\":",
        "\"token\":0,",
        "\"a\":0,",
        " ",
        "\"\\u0307",
        "\"a\":[",
        "\"p\" : {",
    ] {
        assert_linear(
            again,
            |length| repeated("{", again, length),
            |body| insert_members(body, &members).is_ok(),
        );
    }
}

#[test]
fn repeated_names_are_limited() {
    let body = |count| format!("{{{}\"a\":0}}", "\"token\":0,".repeat(count));
    assert_eq!(
        insert("/token=v", body(MAX_FOUND)).as_deref(),
        Ok(r#"{"a":0,"token":"v"}"#)
    );
    assert_eq!(
        insert("/token=v", body(MAX_FOUND + 1)),
        Err(InsertError::TooManyFound)
    );
    let body = |count| format!("{{{}\"a\":0}}", "\"p\":{},".repeat(count));
    // The whole body is one of the objects.
    assert!(insert("/p/t=v", body(MAX_FOUND - 1)).is_ok());
    assert_eq!(insert("/p/t=v", body(MAX_FOUND)), Err(InsertError::TooManyFound));
}

#[test]
fn names_are_written_as_json_strings() {
    assert_eq!(
        insert("/a~1\"\\/~0\u{e9}=v", "{}").as_deref(),
        Ok(r#"{"a/\"\\":{"~é":"v"}}"#)
    );
}

#[test]
fn conflicting_pointers_are_refused() {
    for pairs in ["/a=1 /A=2", "/a /a/b=1", "/a/b=1 /a", "/a/b=1 /A/c=2"] {
        assert_eq!(members(pairs).err(), Some(ConflictingPointers), "{pairs}");
    }
}
