//! Members at JSON Pointers, in generated bodies.

use proptest::{collection::vec, prelude::*, sample::select};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Value, value::RawValue};

use super::{
    super::InsertError,
    insert::insert,
    props::{edited, edits, is_strict_json_object},
};

const VALUE: &str = "ghp_0123456789_plaintext";

/// A value of a body, with the whitespace between its tokens.
#[derive(Debug, Clone)]
enum Node {
    Leaf(&'static str),
    Object {
        blank: &'static str,
        members: Vec<Member>,
    },
}

#[derive(Debug, Clone)]
struct Member {
    /// The name as it is spelled, and as a parser without regard to case reads it.
    name: (&'static str, &'static str),
    value: Node,
    blanks: [&'static str; 4],
}

impl Node {
    fn text(&self) -> String {
        match self {
            Self::Leaf(text) => (*text).to_owned(),
            Self::Object { blank, members } => {
                let members: Vec<_> = members
                    .iter()
                    .map(|member| member.with(&member.value.text()))
                    .collect();
                format!("{{{blank}{}}}", members.join(","))
            }
        }
    }

    /// Returns the expected text, made without a lexer, after `places` (the rest of each pointer, and its value). Ours go
    /// into this object if `is_target`. Returns `None` when a pointer leads through something else than an object.
    fn expected(&self, places: &[Place], is_target: bool) -> Option<String> {
        let Self::Object { blank, members } = self else {
            return None;
        };
        let mut out = format!("{{{blank}");
        let mut comma_at = None;
        let mut has_comma = true;
        for (index, member) in members.iter().enumerate() {
            let is_last = index + 1 == members.len();
            let inner = under(places, member.name.1);
            if inner.iter().any(|place| place.names.is_empty()) {
                out.push_str(member.blanks[0]);
                continue;
            }
            let value = match inner.is_empty() {
                true => member.value.text(),
                false => member
                    .value
                    .expected(&inner, is_target && index == target(members, member.name.1)?)?,
            };
            out.push_str(&member.with(&value));
            has_comma = !is_last;
            if has_comma {
                comma_at = Some(out.len());
                out.push(',');
            }
        }
        let new = match is_target {
            true => new_members(places, members),
            false => String::new(),
        };
        let is_last_removed = members.last().is_some_and(|last| {
            under(places, last.name.1)
                .iter()
                .any(|place| place.names.is_empty())
        });
        match comma_at {
            Some(at) if new.is_empty() && is_last_removed => drop(out.remove(at)),
            _ if !new.is_empty() && !has_comma => out.push(','),
            _ => {}
        }
        Some(out + &new + "}")
    }
}

impl Member {
    fn with(&self, value: &str) -> String {
        let [before, after, ahead, behind] = self.blanks;
        format!("{before}\"{}\"{after}:{ahead}{value}{behind}", self.name.0)
    }
}

/// The rest of a pointer, and its value.
#[derive(Debug, Clone)]
struct Place {
    names: Vec<&'static str>,
    value: Option<&'static str>,
}

/// Returns the places that begin with `name`, without it.
fn under(places: &[Place], name: &str) -> Vec<Place> {
    let begins = places.iter().filter(|place| place.names.first() == Some(&name));
    begins
        .map(|place| Place {
            names: place.names[1..].to_vec(),
            value: place.value,
        })
        .collect()
}

/// Returns the index of the member `name` that gets ours.
fn target(members: &[Member], name: &str) -> Option<usize> {
    // A name with a lone surrogate is no `String`, and none of the pointers' names.
    let decoded = |member: &Member| serde_json::from_str::<String>(&format!("\"{}\"", member.name.0));
    let exact = members
        .iter()
        .rposition(|member| decoded(member).is_ok_and(|decoded| decoded == name));
    exact.or_else(|| members.iter().rposition(|member| member.name.1 == name))
}

/// Returns the text of the members that are new in an object.
fn new_members(places: &[Place], members: &[Member]) -> String {
    let mut new: Vec<&str> = Vec::new();
    for place in places {
        let is_there = place.names.len() > 1 && target(members, place.names[0]).is_some();
        let has_value = under(places, place.names[0])
            .iter()
            .any(|place| place.value.is_some());
        if has_value && !is_there && !new.contains(&place.names[0]) {
            new.push(place.names[0]);
        }
    }
    let text = |name: &&str| {
        let inner = under(places, name);
        let value = match inner.iter().find(|place| place.names.is_empty()) {
            Some(place) => format!("\"{}\"", place.value.unwrap()),
            None => format!("{{{}}}", new_members(&inner, &[])),
        };
        format!("\"{name}\":{value}")
    };
    new.iter().map(text).collect::<Vec<_>>().join(",")
}

fn blank() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "", " ", "\n\t", "\r\n  "])
}

fn name() -> impl Strategy<Value = (&'static str, &'static str)> {
    select(vec![
        ("params", "params"),
        ("params", "params"),
        ("PARAMS", "params"),
        (r"param\u0073", "params"),
        ("paramſ", "params"),
        ("_meta", "_meta"),
        ("_meta", "_meta"),
        ("_META", "_meta"),
        ("token", "token"),
        (r"\u0054o\u212aen", "token"),
        ("toKen", "token"),
        ("key", "key"),
        ("other", "other"),
        (r#"other\\\"\ud800"#, "-"),
        ("", "-"),
    ])
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = select(vec![
        "1e400",
        "-0",
        r#""\ud800}""#,
        "[ ]",
        r#"[{"params":{"token":1}}]"#,
        "null",
        "true",
        r#""token""#,
        "{ }",
    ]);
    leaf.prop_map(Node::Leaf).prop_recursive(4, 40, 6, |inner| {
        let blanks = [blank(), blank(), blank(), blank()];
        let member = (name(), inner, blanks).prop_map(|(name, value, blanks)| Member { name, value, blanks });
        (blank(), vec(member, 0..6)).prop_map(|(blank, members)| Node::Object { blank, members })
    })
}

/// Objects in which pointers mostly lead to objects.
fn body() -> impl Strategy<Value = Node> {
    let fitting = (
        vec((name(), node(), [blank(), blank(), blank(), blank()]), 0..5),
        blank(),
    );
    fitting.prop_map(|(members, blank)| Node::Object {
        blank,
        members: members
            .into_iter()
            .map(|(name, value, blanks)| Member { name, value, blanks })
            .collect(),
    })
}

/// Makes the values of members that pointers lead through objects, so that most bodies fit.
fn fitted(node: Node, depth: usize) -> Node {
    match node {
        Node::Leaf("{ }") => Node::Object {
            blank: " ",
            members: Vec::new(),
        },
        Node::Object { blank, members } => Node::Object {
            blank,
            members: members
                .into_iter()
                .map(|member| {
                    let leads = matches!((depth, member.name.1), (0, "params") | (1, "_meta"));
                    let value = match member.value {
                        Node::Leaf(_) if leads => Node::Object {
                            blank: "",
                            members: Vec::new(),
                        },
                        other => fitted(other, depth + 1),
                    };
                    Member { value, ..member }
                })
                .collect(),
        },
        leaf => leaf,
    }
}

fn places() -> impl Strategy<Value = Vec<Place>> {
    let sets = select(vec![
        vec!["/token"],
        vec!["/params/token"],
        vec!["/params/_meta/token"],
        vec!["/params/_meta/token", "/params/_meta/key"],
        vec![
            "/params/_meta/token",
            "/key",
            "/params/_meta/key",
            "/params/token",
        ],
    ]);
    (sets, any::<[bool; 4]>()).prop_map(|(pointers, present)| {
        let place = |(pointer, present): (&'static str, bool)| Place {
            names: pointer.split('/').skip(1).collect(),
            value: present.then_some(VALUE),
        };
        pointers.into_iter().zip(present).map(place).collect()
    })
}

fn pairs(places: &[Place]) -> String {
    let pair = |place: &Place| {
        let value = place.value.map_or(String::new(), |value| format!("={value}"));
        format!("/{}{value} ", place.names.join("/"))
    };
    places.iter().map(pair).collect()
}

/// An object as `serde_json` parses it, with repeated names.
#[derive(Debug, Clone, PartialEq)]
enum Parsed {
    Object(Vec<(String, Parsed)>),
    Other(String),
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, Parsed)>;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.starts_with('{') {
            false => Ok(Self::Other(raw.to_owned())),
            true => {
                let mut inner = serde_json::Deserializer::from_str(raw);
                let members = serde::Deserializer::deserialize_map(&mut inner, Members);
                members.map(Self::Object).map_err(D::Error::custom)
            }
        }
    }
}

fn folded(name: &str) -> String {
    name.to_uppercase().to_lowercase().replace('\u{212a}', "k")
}

/// Applies one place to what `serde_json` parsed. Returns `None` when the pointer leads through another value.
fn remove(object: &mut Parsed, names: &[&str]) -> Option<()> {
    let Parsed::Object(members) = object else {
        return None;
    };
    if names.len() == 1 {
        members.retain(|(name, _)| folded(name) != names[0]);
        return Some(());
    }
    let leading = members.iter_mut().filter(|(name, _)| folded(name) == names[0]);
    leading.map(|(_, value)| remove(value, &names[1..])).collect()
}

fn put(object: &mut Parsed, places: &[Place]) {
    let Parsed::Object(members) = object else {
        panic!("removing has checked the way")
    };
    let mut done = Vec::new();
    for name in places.iter().map(|place| place.names[0]) {
        let inner = under(places, name);
        if done.contains(&name) || inner.iter().all(|place| place.value.is_none()) {
            continue;
        }
        done.push(name);
        if let [
            Place {
                names,
                value: Some(value),
            },
        ] = &*inner
            && names.is_empty()
        {
            members.push((name.to_owned(), Parsed::Other(Value::from(*value).to_string())));
            continue;
        }
        let exact = members.iter().rposition(|(found, _)| found == name);
        let at = exact.or_else(|| members.iter().rposition(|(found, _)| folded(found) == name));
        let at = at.unwrap_or_else(|| {
            members.push((name.to_owned(), Parsed::Object(Vec::new())));
            members.len() - 1
        });
        put(&mut members[at].1, &inner);
    }
}

fn reference(body: &str, places: &[Place]) -> Option<Parsed> {
    let mut parsed: Parsed = serde_json::from_str(body).unwrap();
    places
        .iter()
        .try_for_each(|place| remove(&mut parsed, &place.names))?;
    put(&mut parsed, places);
    Some(parsed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_body_is_changed_as_expected_byte_for_byte(body in body(), places in places(), blanks in [blank(), blank()]) {
        let body = fitted(body, 0);
        let around = |text: String| format!("{}{text}{}", blanks[0], blanks[1]);
        let out = insert(&pairs(&places), around(body.text()));
        match body.expected(&places, true) {
            Some(expected) => prop_assert_eq!(out, Ok(around(expected))),
            None => {
                let is_refused = matches!(out, Err(InsertError::NotAnObject { .. }));
                prop_assert!(is_refused);
            }
        }
    }

    #[test]
    fn a_parser_finds_ours_and_everything_else(body in body(), places in places(), is_fitted in any::<bool>()) {
        let body = if is_fitted { fitted(body, 0) } else { body }.text().replace("\\ud800", "?");
        match (insert(&pairs(&places), &body), reference(&body, &places)) {
            (Ok(out), Some(expected)) => prop_assert_eq!(serde_json::from_str::<Parsed>(&out).unwrap(), expected),
            (Err(InsertError::NotAnObject { .. }), None) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_body_is_accepted_exactly_when_it_is_strict_json_with_objects_on_the_way(body in body(), edits in edits(), places in places()) {
        let body = edited(fitted(body, 0).text(), edits);
        match insert(&pairs(&places), &body) {
            Ok(_) | Err(InsertError::NotAnObject { .. }) => prop_assert!(is_strict_json_object(&body)),
            Err(error) => {
                prop_assert!(!is_strict_json_object(&body));
                prop_assert!(!error.to_string().contains(VALUE));
            }
        }
    }

    #[test]
    fn inserting_again_changes_nothing(body in body(), places in places()) {
        let pairs = pairs(&places);
        if let Ok(once) = insert(&pairs, fitted(body, 0).text()) {
            let again = insert(&pairs, &once);
            let (once, again): (Value, Value) = match (serde_json::from_str(&once), serde_json::from_str(&again.unwrap())) {
                (Ok(once), Ok(again)) => (once, again),
                _ => return Ok(()),
            };
            prop_assert_eq!(once, again);
        }
    }
}
