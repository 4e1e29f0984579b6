use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;

/// A member with the whitespace around its tokens.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    value: String,
    blanks: [&'static str; 4],
}

#[derive(Debug, Clone)]
struct Body {
    members: Vec<Member>,
    blanks: [&'static str; 3],
}

impl Body {
    fn text(&self) -> String {
        let [lead, inside, whitespace] = self.blanks;
        let members = self
            .members
            .iter()
            .map(Member::text)
            .collect::<Vec<_>>()
            .join(",");
        format!("{lead}{{{inside}{members}}}{whitespace}")
    }

    /// Returns the expected result of the rewrite, made without a lexer.
    fn expected(&self) -> String {
        let [lead, inside, whitespace] = self.blanks;
        let mut out = format!("{lead}{{{inside}");
        let mut comma = "";
        for (index, member) in self.members.iter().enumerate() {
            if is_removed(&member.name) {
                out.push_str(member.blanks[0]);
            } else {
                out.push_str(&member.text());
                let last = index + 1 == self.members.len();
                comma = if last { "," } else { "" };
                out.push_str(if last { "" } else { "," });
            }
        }
        format!("{out}{comma}{OURS}}}{whitespace}")
    }
}

impl Member {
    fn text(&self) -> String {
        let (Self { name, value, .. }, [before, after, ahead, behind]) = (self, self.blanks);
        format!("{before}\"{name}\"{after}:{ahead}{value}{behind}")
    }
}

/// Returns true when the name equals `secrets` by the decoding of `serde_json` and the case mapping of `std`.
fn is_removed(name: &str) -> bool {
    serde_json::from_str::<String>(&format!("\"{name}\"")).is_ok_and(|name| folds_to_secrets(&name))
}

fn folds_to_secrets(name: &str) -> bool {
    name.to_uppercase().to_lowercase() == "secrets"
}

fn blank() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "", " ", "\n\t", "\r\n  "])
}

fn letter(letter: char) -> impl Strategy<Value = String> {
    let upper = letter.to_ascii_uppercase();
    let mut spellings = vec![letter.to_string(), upper.to_string()];
    spellings.extend([letter, upper].map(|c| format!("\\u{:04x}", c as u32)));
    if letter == 's' {
        spellings.extend(["ſ", "\\u017f", "\\u017F"].map(String::from));
    }
    select(spellings)
}

fn similar_name() -> impl Strategy<Value = String> {
    "secrets"
        .chars()
        .map(letter)
        .collect::<Vec<_>>()
        .prop_map(|letters| letters.concat())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z]{0,60}", "secrets?s?"].prop_map(|text| {
        let quoted = Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => text(),
        2 => similar_name(),
        1 => (similar_name(), text()).prop_map(|(name, more)| name + &more),
        1 => (similar_name(), any::<proptest::sample::Index>()).prop_map(|(name, at)| {
            let mut name: Vec<_> = name.split_inclusive(['s', 'e', 'c', 'r', 't']).map(String::from).collect();
            name.remove(at.index(name.len()));
            if is_string(&name.concat()) { name.concat() } else { "ecrets".into() }
        }),
    ]
}

fn is_string(inside: &str) -> bool {
    serde_json::from_str::<String>(&format!("\"{inside}\"")).is_ok()
}

fn value() -> impl Strategy<Value = String> {
    let odd = select(vec![
        "1e400",
        "-0",
        "12345678901234567890123",
        "\"\\ud800\"",
        "[ ]",
        "{ }",
        "0.10E-07",
    ]);
    let leaf = prop_oneof![
        2 => text().prop_map(|text| format!("\"{text}\"")),
        1 => any::<f64>().prop_map(|number| Value::from(number).to_string()),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => select(vec!["null", "true", "false"]).prop_map(String::from),
        1 => odd.prop_map(String::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let pair = (name(), inner.clone()).prop_map(|(name, value)| format!("\"{name}\": {value}"));
        prop_oneof![
            vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            vec(pair, 0..4).prop_map(|pairs| format!("{{{}}}", pairs.join(" ,"))),
        ]
    })
}

fn member() -> impl Strategy<Value = Member> {
    let blanks = [blank(), blank(), blank(), blank()];
    (name(), value(), blanks).prop_map(|(name, value, blanks)| Member { name, value, blanks })
}

fn body() -> impl Strategy<Value = Body> {
    (vec(member(), 0..6), [blank(), blank(), blank()]).prop_map(|(members, blanks)| Body { members, blanks })
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(1_usize..40, 1..6)
}

#[derive(Debug, Clone)]
pub(super) enum Edit {
    Replace(u8),
    Insert(u8),
    Delete,
    Double,
}

pub(super) fn edits() -> impl Strategy<Value = Vec<(proptest::sample::Index, Edit)>> {
    let byte = || prop_oneof![3 => select(b"{}[]:,\"\\u0019-+.eE tfn\x00\x1f\n\x80\xbf\xc2\xed\xf0s".to_vec()), 1 => any::<u8>()];
    let edit = prop_oneof![
        byte().prop_map(Edit::Replace),
        byte().prop_map(Edit::Insert),
        Just(Edit::Delete),
        Just(Edit::Double),
    ];
    vec((any::<proptest::sample::Index>(), edit), 0..4)
}

pub(super) fn edited(text: String, edits: Vec<(proptest::sample::Index, Edit)>) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    for (index, edit) in edits {
        let at = index.index(bytes.len() + 1);
        match edit {
            Edit::Insert(byte) => bytes.insert(at, byte),
            Edit::Replace(byte) => bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            Edit::Delete => drop(bytes.splice(at..bytes.len().min(at + 1), [])),
            Edit::Double => bytes.extend_from_within(at..),
        }
    }
    bytes
}

/// Parses the body by `serde_json` without decoding. `RawValue` computes no numbers, checks no surrogate pairs and has
/// no recursion limit, but requires UTF-8.
pub(super) fn is_strict_json_object(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get().starts_with('{'))
}

/// Asserts that `out` differs from `body` only by the injected member. Skips bodies that `serde_json` cannot decode,
/// such as numbers out of range and lone surrogates.
fn assert_same_but_for_secrets(body: &[u8], out: &[u8]) -> Result<(), TestCaseError> {
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
        return Ok(());
    };
    members.retain(|name, _| !folds_to_secrets(name));
    members.insert("secrets".into(), serde_json::json!({"GITHUB_TOKEN": VALUE}));
    let out = serde_json::from_slice::<Value>(out);
    prop_assert_eq!(
        out.expect("what could be parsed still can"),
        Value::Object(members)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_body_is_rewritten_as_expected_byte_for_byte(body in body(), sizes in sizes()) {
        let (result, out) = rewrite_in_pieces(body.text().as_bytes(), &sizes);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(String::from_utf8(out).expect("UTF-8"), body.expected());
    }

    #[test]
    fn a_parser_finds_no_change_but_the_injected_member(body in body(), sizes in sizes()) {
        let (result, out) = rewrite_in_pieces(body.text().as_bytes(), &sizes);
        prop_assert_eq!(result, Ok(()));
        assert_same_but_for_secrets(body.text().as_bytes(), &out)?;
    }

    #[test]
    fn a_body_is_accepted_exactly_when_it_is_strict_json(body in body(), edits in edits(), sizes in sizes()) {
        let body = edited(body.text(), edits);
        let (result, out) = rewrite_in_pieces(&body, &sizes);
        prop_assert_eq!(result.is_ok(), is_strict_json_object(&body), "{:?}", result);
        match result {
            Ok(()) => assert_same_but_for_secrets(&body, &out)?,
            Err(_) => prop_assert!(!contains(&out, VALUE.as_bytes()) && !contains(&out, b"GITHUB_TOKEN")),
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_result(body in body(), edits in edits(), sizes in sizes()) {
        let body = edited(body.text(), edits);
        let (whole, whole_out) = rewrite_in_pieces(&body, &[usize::MAX]);
        let (result, out) = rewrite_in_pieces(&body, &sizes);
        prop_assert_eq!(result, whole);
        prop_assert!(whole.is_err() || out == whole_out);
    }

    #[test]
    fn arbitrary_bytes_are_accepted_exactly_when_they_are_strict_json(inside in vec(any::<u8>(), 0..24), sizes in sizes()) {
        for body in [inside.clone(), [b"{\"a\":\"", &*inside, b"\"}"].concat(), [b"{\"a\":", &*inside, b"}"].concat()] {
            let (result, _) = rewrite_in_pieces(&body, &sizes);
            prop_assert_eq!(result.is_ok(), is_strict_json_object(&body), "{:?}", result);
        }
    }

    #[test]
    fn a_parser_decodes_the_injected_values(entries in vec((any::<String>(), any::<String>()), 0..4)) {
        let secrets = SecretsObject::new(entries.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        let object = secrets.expect("strings are UTF-8");
        let parsed = serde_json::from_slice::<std::collections::BTreeMap<String, String>>(object.expose());
        prop_assert_eq!(parsed.expect("JSON"), entries.into_iter().collect());
    }
}
