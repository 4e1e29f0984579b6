//! The rows of the form for a server: secrets, and places of secrets.

use proto::injector::v1::{
    BasicPlacement, CookiePlacement, FormPlacement, HeaderPlacement, Injection, JsonPlacement,
    ProtobufPlacement, QueryPlacement, injection::Placement,
};

use crate::console::fields::Fields;

/// The most rows that a form has. The injector takes no more secrets or injections for one server.
pub(super) const MAX_ROWS: usize = 64;

/// A form with a row that cannot be read. The forms of the console have no such rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnreadableForm {
    #[error("the form has more than {MAX_ROWS} rows, or rows without their numbers in order")]
    Rows,
    #[error("the form has a place of a kind that this release of the console does not know")]
    PlaceKind,
}

/// A secret that gets its place from the auth type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretRow {
    pub(super) name: String,
    pub(super) required: bool,
}

impl SecretRow {
    /// Returns an empty row. A call without a credential rarely makes sense, so `required` is proposed.
    pub(super) fn new() -> Self {
        Self {
            name: String::new(),
            required: true,
        }
    }

    pub(super) fn all_of(fields: &Fields) -> Result<Vec<Self>, UnreadableForm> {
        let row = |index| {
            let name = format!("secret-{index}");
            fields.has(&name).then(|| Self {
                name: fields.text(&name).to_owned(),
                required: fields.is_set(&format!("{name}-required")),
            })
        };
        complete(
            (0..MAX_ROWS).map_while(row).collect(),
            fields.count_between("secret-", ""),
        )
    }
}

/// The kinds of places that a row can be. The path of the URL has its variables in the URL itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceKind {
    Header,
    Basic,
    Query,
    Cookie,
    Json,
    Form,
    Protobuf,
}

/// The texts of a kind of place.
pub(super) struct PlaceTexts {
    /// The name in forms.
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    /// Label of the text that names the place.
    pub(super) name: &'static str,
    pub(super) name_example: &'static str,
    /// Label of the template.
    pub(super) value: &'static str,
    pub(super) value_example: &'static str,
}

impl PlaceKind {
    pub(super) const ALL: [Self; 7] = [
        Self::Header,
        Self::Basic,
        Self::Query,
        Self::Cookie,
        Self::Json,
        Self::Form,
        Self::Protobuf,
    ];

    pub(super) fn texts(self) -> PlaceTexts {
        let (key, label, name, name_example, value_example) = match self {
            Self::Header => ("header", "Header", "Name", "x-api-key", "${API_KEY}"),
            Self::Basic => ("basic", "Basic", "User name", "${USER}", "${PASSWORD}"),
            Self::Query => ("query", "Query parameter", "Name", "key", "${API_KEY}"),
            Self::Cookie => ("cookie", "Cookie", "Name", "session", "${SESSION}"),
            Self::Json => ("json", "JSON body", "JSON Pointer", "/auth/token", "${TOKEN}"),
            Self::Form => ("form", "Form field", "Name", "token", "${TOKEN}"),
            Self::Protobuf => ("protobuf", "gRPC message", "Number of the field", "7", "${TOKEN}"),
        };
        PlaceTexts {
            key,
            label,
            name,
            name_example,
            value: if self == Self::Basic { "Password" } else { "Value" },
            value_example,
        }
    }

    pub(super) fn parse(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.texts().key == key)
    }
}

/// A place of secrets, as a person describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlaceRow {
    pub(super) kind: PlaceKind,
    /// The name of the place, such as that of a header; for Basic credentials the template of the user name.
    pub(super) name: String,
    /// A template.
    pub(super) value: String,
    /// The key of an entry of a gRPC message.
    pub(super) key: String,
    pub(super) required: bool,
}

impl PlaceRow {
    pub(super) fn new(kind: PlaceKind) -> Self {
        Self {
            kind,
            name: String::new(),
            value: String::new(),
            key: String::new(),
            required: true,
        }
    }

    pub(super) fn all_of(fields: &Fields) -> Result<Vec<Self>, UnreadableForm> {
        let row = |index| {
            let field = |part: &str| fields.text(&format!("place-{index}-{part}")).to_owned();
            fields.has(&format!("place-{index}-kind")).then(|| {
                Ok(Self {
                    kind: PlaceKind::parse(&field("kind")).ok_or(UnreadableForm::PlaceKind)?,
                    name: field("name"),
                    value: field("value"),
                    key: field("key"),
                    required: !field("required").is_empty(),
                })
            })
        };
        let rows: Vec<_> = (0..MAX_ROWS).map_while(row).collect::<Result<_, _>>()?;
        complete(rows, fields.count_between("place-", "-kind"))
    }

    pub(super) fn is_blank(&self) -> bool {
        self.name.is_empty() && self.value.is_empty() && self.key.is_empty()
    }

    /// Returns the row of an injection, and `None` for one in the URL's path or in a place that this release does not know.
    pub(super) fn of(injection: &Injection) -> Option<Self> {
        let Injection { required, placement } = injection;
        let (kind, name, value, key) = match placement.clone()? {
            Placement::Header(HeaderPlacement { name, value }) => {
                (PlaceKind::Header, name, value, String::new())
            }
            Placement::Basic(BasicPlacement { username, password }) => {
                (PlaceKind::Basic, username, password, String::new())
            }
            Placement::Query(QueryPlacement { name, value }) => {
                (PlaceKind::Query, name, value, String::new())
            }
            Placement::Cookie(CookiePlacement { name, value }) => {
                (PlaceKind::Cookie, name, value, String::new())
            }
            Placement::Json(JsonPlacement { pointer, value }) => {
                (PlaceKind::Json, pointer, value, String::new())
            }
            Placement::Form(FormPlacement { field, value }) => (PlaceKind::Form, field, value, String::new()),
            Placement::Protobuf(ProtobufPlacement { field, key, value }) => {
                (PlaceKind::Protobuf, field.to_string(), value, key)
            }
            Placement::Path(_) => return None,
        };
        Some(Self {
            kind,
            name,
            value,
            key,
            required: *required,
        })
    }

    /// Returns the injection. A number that is none becomes 0, which the injector refuses.
    pub(super) fn injection(&self) -> Injection {
        let Self {
            kind,
            name,
            value,
            key,
            required,
        } = self.clone();
        let placement = match kind {
            PlaceKind::Header => Placement::Header(HeaderPlacement { name, value }),
            PlaceKind::Basic => Placement::Basic(BasicPlacement {
                username: name,
                password: value,
            }),
            PlaceKind::Query => Placement::Query(QueryPlacement { name, value }),
            PlaceKind::Cookie => Placement::Cookie(CookiePlacement { name, value }),
            PlaceKind::Json => Placement::Json(JsonPlacement { pointer: name, value }),
            PlaceKind::Form => Placement::Form(FormPlacement { field: name, value }),
            PlaceKind::Protobuf => Placement::Protobuf(ProtobufPlacement {
                field: name.parse().unwrap_or_default(),
                key,
                value,
            }),
        };
        Injection {
            required,
            placement: Some(placement),
        }
    }
}

/// Returns the rows if they are as many as the form has. A row that was left out would be missing from the server.
fn complete<T>(rows: Vec<T>, sent: usize) -> Result<Vec<T>, UnreadableForm> {
    match rows.len() == sent {
        true => Ok(rows),
        false => Err(UnreadableForm::Rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injection_survives_the_form() {
        for kind in PlaceKind::ALL {
            let texts = kind.texts();
            let row = PlaceRow {
                name: texts.name_example.to_owned(),
                value: texts.value_example.to_owned(),
                key: if kind == PlaceKind::Protobuf { "K" } else { "" }.to_owned(),
                ..PlaceRow::new(kind)
            };
            assert_eq!(PlaceRow::of(&row.injection()), Some(row.clone()));
            assert_eq!(PlaceKind::parse(texts.key), Some(kind));
        }
    }

    #[test]
    fn no_row_is_left_out() {
        let read = |form: &str| {
            let fields = Fields::parse(form.as_bytes());
            SecretRow::all_of(&fields).and(PlaceRow::all_of(&fields).map(|rows| rows.len()))
        };
        let rows = |number| -> String {
            (0..number)
                .map(|row| format!("place-{row}-kind=basic&"))
                .collect()
        };
        assert_eq!(read(&rows(MAX_ROWS)), Ok(MAX_ROWS));
        assert_eq!(read(&rows(MAX_ROWS + 1)), Err(UnreadableForm::Rows));
        assert_eq!(
            read("place-0-kind=header&place-2-kind=header"),
            Err(UnreadableForm::Rows)
        );
        assert_eq!(read("secret-1=A"), Err(UnreadableForm::Rows));
        assert_eq!(read("place-0-kind=trailer"), Err(UnreadableForm::PlaceKind));
    }

    #[test]
    fn rows_are_read_in_their_order() {
        let fields = Fields::parse(
            b"place-0-kind=header&place-0-name=x&place-0-value=%24%7BA%7D&place-1-kind=basic&place-1-required=yes\
              &secret-0=&secret-1=B&secret-1-required=yes",
        );
        let places = PlaceRow::all_of(&fields).unwrap();
        assert_eq!(places.len(), 2);
        assert_eq!((places[0].value.as_str(), places[0].required), ("${A}", false));
        assert!(places[1].is_blank() && places[1].required);
        let secrets = SecretRow::all_of(&fields).unwrap();
        assert_eq!(secrets.len(), 2);
        assert!(!secrets[0].required && secrets[1].required);
    }
}
