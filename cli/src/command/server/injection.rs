//! `--inject PLACE=TEMPLATE`: a place in the requests of a server, and the secrets that go there.

use proto::{
    SecretName,
    injector::v1::{
        BasicPlacement, CookiePlacement, FormPlacement, HeaderPlacement, Injection, JsonPlacement,
        ProtobufPlacement, QueryPlacement, injection::Placement,
    },
};

use crate::template::secrets_of;

/// The forms of `--inject`, for errors.
const FORMS: &str = "write header:NAME=TEMPLATE, basic:USER:PASSWORD, query:NAME=TEMPLATE, cookie:NAME=TEMPLATE, \
                     json:POINTER=TEMPLATE, form:FIELD=TEMPLATE or protobuf:NUMBER[:KEY]=TEMPLATE, with ${NAME} for the value \
                     of a secret (in single quotes, so that the shell leaves it)";

/// Parses the argument of `--inject`. The injector checks the templates and the names.
pub(super) fn parse(text: &str) -> Result<Injection, String> {
    let placement = parse_placement(text).ok_or(FORMS)?;
    if !text.contains("${") {
        return Err(format!("it names no secret; {FORMS}"));
    }
    Ok(Injection {
        required: false,
        placement: Some(placement),
    })
}

fn parse_placement(text: &str) -> Option<Placement> {
    let (place, rest) = text.split_once(':')?;
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let assigned = || rest.split_once('=').map(owned);
    Some(match place {
        "header" => {
            let (name, value) = assigned()?;
            Placement::Header(HeaderPlacement { name, value })
        }
        "basic" => {
            let (username, password) = rest.split_once(':').map(owned)?;
            Placement::Basic(BasicPlacement { username, password })
        }
        "query" => {
            let (name, value) = assigned()?;
            Placement::Query(QueryPlacement { name, value })
        }
        "cookie" => {
            let (name, value) = assigned()?;
            Placement::Cookie(CookiePlacement { name, value })
        }
        "json" => {
            let (pointer, value) = assigned()?;
            Placement::Json(JsonPlacement { pointer, value })
        }
        "form" => {
            let (field, value) = assigned()?;
            Placement::Form(FormPlacement { field, value })
        }
        "protobuf" => {
            let (entry, value) = assigned()?;
            // The injector gives an entry without a key the name of its secret.
            let (field, key) = entry.split_once(':').unwrap_or((entry.as_str(), ""));
            let (field, key) = (field.parse().ok()?, key.to_owned());
            Placement::Protobuf(ProtobufPlacement { field, key, value })
        }
        _ => return None,
    })
}

/// The secrets without which a call is refused.
pub(super) enum RequiredSecrets {
    All,
    Named(Vec<String>),
}

/// Marks the injections that name a required secret, and unmarks the others. Returns a required secret that no injection
/// names, if there is one.
pub(super) fn require(injections: &mut [Injection], required: &RequiredSecrets) -> Result<(), String> {
    let RequiredSecrets::Named(names) = required else {
        injections
            .iter_mut()
            .for_each(|injection| injection.required = true);
        return Ok(());
    };
    let named: Vec<_> = injections.iter().map(secrets_of).collect();
    let parsed: Vec<_> = names.iter().map(|name| SecretName::parse(name)).collect();
    let unknown = names.iter().zip(&parsed).find(|(_, parsed)| {
        parsed
            .as_ref()
            .is_ok_and(|name| !named.iter().flatten().any(|secret| secret == name.as_str()))
    });
    if let Some((name, _)) = unknown {
        return Err(name.clone());
    }
    for (injection, secrets) in injections.iter_mut().zip(named) {
        let mut parsed = parsed.iter().flatten();
        injection.required = parsed.any(|name| secrets.iter().any(|secret| secret == name.as_str()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(text: &str) -> Placement {
        parse(text).unwrap().placement.unwrap()
    }

    #[test]
    fn every_place_can_be_written() {
        let owned = str::to_owned;
        for (text, expected) in [
            (
                "header:authorization=Token token=${T}",
                Placement::Header(HeaderPlacement {
                    name: owned("authorization"),
                    value: owned("Token token=${T}"),
                }),
            ),
            (
                "basic:${EMAIL}/token:${TOKEN}",
                Placement::Basic(BasicPlacement {
                    username: owned("${EMAIL}/token"),
                    password: owned("${TOKEN}"),
                }),
            ),
            (
                "basic::${TOKEN}",
                Placement::Basic(BasicPlacement {
                    username: String::new(),
                    password: owned("${TOKEN}"),
                }),
            ),
            (
                "query:key=${K}",
                Placement::Query(QueryPlacement {
                    name: owned("key"),
                    value: owned("${K}"),
                }),
            ),
            (
                "cookie:session=${C}",
                Placement::Cookie(CookiePlacement {
                    name: owned("session"),
                    value: owned("${C}"),
                }),
            ),
            (
                "json:/params/_meta/token=${T}",
                Placement::Json(JsonPlacement {
                    pointer: owned("/params/_meta/token"),
                    value: owned("${T}"),
                }),
            ),
            (
                "form:token=${T}",
                Placement::Form(FormPlacement {
                    field: owned("token"),
                    value: owned("${T}"),
                }),
            ),
            (
                "protobuf:7:TOKEN=${T}",
                Placement::Protobuf(ProtobufPlacement {
                    field: 7,
                    key: owned("TOKEN"),
                    value: owned("${T}"),
                }),
            ),
            (
                "protobuf:7:a:b=x=${T}",
                Placement::Protobuf(ProtobufPlacement {
                    field: 7,
                    key: owned("a:b"),
                    value: owned("x=${T}"),
                }),
            ),
            (
                "protobuf:7=Bearer ${T}",
                Placement::Protobuf(ProtobufPlacement {
                    field: 7,
                    key: String::new(),
                    value: owned("Bearer ${T}"),
                }),
            ),
        ] {
            assert_eq!(placement(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_forms() {
        for text in [
            "",
            "${T}",
            "header",
            "header:x-key",
            "header:x-key=",
            "header:x-key=$T",
            "basic:${A}",
            "path:T=${T}",
            "protobuf:TOKEN=${T}",
            "protobuf:x:TOKEN=${T}",
        ] {
            assert!(
                parse(text).unwrap_err().contains("header:NAME=TEMPLATE"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_injection_is_required_when_it_names_a_required_secret() {
        let texts = [
            "basic:${USER}:${api-key}",
            "header:x-a=${A}",
            "cookie:c=${API_KEY}",
        ];
        let mut injections: Vec<_> = texts.iter().map(|text| parse(text).unwrap()).collect();
        let required = |injections: &[Injection]| {
            injections
                .iter()
                .map(|injection| injection.required)
                .collect::<Vec<_>>()
        };
        let named =
            |names: &[&str]| RequiredSecrets::Named(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(require(&mut injections, &named(&["api.key"])), Ok(()));
        assert_eq!(required(&injections), [true, false, true]);
        assert_eq!(require(&mut injections, &named(&["B"])), Err("B".to_owned()));
        assert_eq!(require(&mut injections, &named(&[])), Ok(()));
        assert_eq!(required(&injections), [false; 3]);
        assert_eq!(require(&mut injections, &RequiredSecrets::All), Ok(()));
        assert_eq!(required(&injections), [true; 3]);
    }
}
