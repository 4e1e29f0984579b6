//! The values of secrets that go into a target, percent-encoded.

use percent_encoding::percent_encode;
use proto::Refusal;

use super::{RESERVED, TargetValues};
use crate::{
    inject::{
        ResolvedSecrets,
        render::{FilledTemplate, TextEncoding},
    },
    placement::{Injection, Placement},
    template::Template,
};

const IN_QUERY: &str = "be in the query of a URL, which takes UTF-8 without control characters";
const IN_PATH: &str =
    "be in the path of a URL, which takes UTF-8 without control characters, and not only dots";

/// Percent-encoding of everything but the unreserved characters (RFC 3986, section 2.3).
enum PercentEncoding {}

impl TextEncoding for PercentEncoding {
    fn encoded_len(text: &[u8]) -> usize {
        percent_encode(text, RESERVED).map(str::len).sum()
    }

    fn append(text: &[u8], encoded: &mut Vec<u8>) {
        percent_encode(text, RESERVED).for_each(|piece| encoded.extend_from_slice(piece.as_bytes()));
    }
}

impl<'i> TargetValues<'i> {
    /// Encodes the values of the injections into the path and the query. Leaves out a parameter with a secret that does
    /// not exist. Fails when one value does not fit its place.
    pub(crate) fn new(injections: &'i [Injection], secrets: &ResolvedSecrets<'_>) -> Result<Self, Refusal> {
        let mut values = Self::default();
        for injection in injections {
            match &injection.placement {
                Placement::Query { name, value } => {
                    if let Some(value) = FilledTemplate::new(value, secrets) {
                        value.check(IN_QUERY, |value| value.facts().query_fault())?;
                        values.query.push((name, value.render::<PercentEncoding>()));
                    }
                }
                Placement::Path { secret } => {
                    let template = Template::of(secret.clone());
                    if let Some(value) = FilledTemplate::new(&template, secrets) {
                        value.check(IN_PATH, |value| value.facts().path_fault())?;
                        values.path.push((secret, value.render::<PercentEncoding>()));
                    }
                }
                Placement::Header { .. }
                | Placement::Basic { .. }
                | Placement::Cookie { .. }
                | Placement::Json { .. }
                | Placement::Form { .. }
                | Placement::Protobuf { .. } => {}
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proto::{Reason, SecretName, SecretValue};
    use zeroize::Zeroizing;

    use super::*;
    use crate::inject::ResolvedSecret;

    fn name(name: &str) -> SecretName {
        SecretName::parse(name).unwrap()
    }

    fn query(name: &str, value: &str) -> Placement {
        Placement::Query {
            name: name.to_owned(),
            value: Template::parse(value).unwrap(),
        }
    }

    /// Encodes the injection of the secrets A and B, of which B is missing when `b` is `None`.
    fn encode(placement: Placement, a: &str, b: Option<&str>) -> Result<Vec<String>, Refusal> {
        let (name_a, name_b) = (name("A"), name("B"));
        let value = |text: &str| SecretValue::parse(text.as_bytes().to_vec().into()).unwrap();
        let secrets = ResolvedSecrets::from_iter([
            ResolvedSecret {
                name: &name_a,
                value: Some(value(a)),
            },
            ResolvedSecret {
                name: &name_b,
                value: b.map(value),
            },
        ]);
        let injections = [Injection {
            required: false,
            placement,
        }];
        let TargetValues { path, query } = TargetValues::new(&injections, &secrets)?;
        let path = path.into_iter().map(|(name, value)| (name.to_string(), value));
        let query = query.into_iter().map(|(name, value)| (name.to_owned(), value));
        let text = |(name, value): (String, Zeroizing<Vec<u8>>)| {
            assert_eq!(value.len(), value.capacity(), "the buffer has grown");
            format!("{name}={}", str::from_utf8(&value).unwrap())
        };
        Ok(path.chain(query).map(text).collect())
    }

    #[test]
    fn all_but_unreserved_characters_are_percent_encoded() {
        let value = "aZ09-._~ +/?#[]@:%&=;\"<>`{}|^'!$()*,\u{e4}";
        let expected = "aZ09-._~%20%2B%2F%3F%23%5B%5D%40%3A%25%26%3D%3B%22%3C%3E%60%7B%7D%7C%5E%27%21%24%28%29%2A%2C%C3%A4";
        assert_eq!(
            encode(query("k", "${A}"), value, None).unwrap(),
            [format!("k={expected}")]
        );
        assert_eq!(
            encode(Placement::Path { secret: name("A") }, value, None).unwrap(),
            [format!("A={expected}")]
        );
    }

    #[test]
    fn the_constants_of_a_parameter_are_encoded_like_its_values() {
        let parameter = query("k[]", "Bearer ${A}&$$${B}");
        assert_eq!(
            encode(parameter, "a b", Some("=")).unwrap(),
            ["k[]=Bearer%20a%20b%26%24%3D"]
        );
    }

    #[test]
    fn a_parameter_with_a_missing_secret_is_left_out() {
        assert!(encode(query("k", "${A}${B}"), "a", None).unwrap().is_empty());
        assert!(encode(query("k", "${B}"), "a", None).unwrap().is_empty());
        assert_eq!(encode(query("k", "x"), "a", None).unwrap(), ["k=x"]);
    }

    #[test]
    fn an_illegal_value_is_refused_with_its_fault_and_without_the_value() {
        for (placement, value) in [
            (query("k", "x${A}"), "se\ncret"),
            (query("k", "x${A}"), "secret\r\n"),
            (query("k", "x${A}"), "sec\u{1}ret"),
            (Placement::Path { secret: name("A") }, "sec\tret"),
            (Placement::Path { secret: name("A") }, ".."),
        ] {
            let refusal = encode(placement, value, None).unwrap_err();
            assert_eq!(refusal.reason, Reason::SecretValueNotPlaceable);
            assert!(refusal.message.starts_with("secret A: its value "), "{refusal:?}");
            assert!(
                !refusal.message.contains("sec\u{1}") && !refusal.message.contains("ret\n"),
                "{refusal:?}"
            );
        }
        let long = "x".repeat(8193);
        assert!(encode(query("k", "${A}"), &long, None).is_err());
    }
}
