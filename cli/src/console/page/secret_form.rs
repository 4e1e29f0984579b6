//! The form for the value of a secret, as it is shown and as it is read.

use std::collections::BTreeMap;

use maud::{Markup, html};
use prost_types::Timestamp;
use proto::{OriginPattern, vault::v1::Secret};

use crate::{
    console::{
        fields::{Fields, items},
        view::{
            FormError, Submit, day_of, error_summary_without_focus, field, has_error, hidden, invalid, now,
            submit,
        },
    },
    secret_metadata::{label, time_at, time_in},
};

/// The expiries that the form offers, as durations of the command line.
const DURATIONS: [(&str, &str); 4] = [
    ("7d", "in 7 days"),
    ("30d", "in 30 days"),
    ("90d", "in 90 days"),
    ("365d", "in 1 year"),
];

/// The secret that a form is for.
pub(super) enum FormFor {
    NewSecret,
    /// A new value for a secret, whose present version is `version` and has the metadata `shown`.
    Replacement {
        name: String,
        version: u64,
        shown: SecretFields,
    },
}

/// Everything in the form but the value.
pub(super) struct SecretFields {
    pub(super) name: String,
    origins: String,
    labels: String,
    /// `never`, one of [`DURATIONS`], `date`, or the present expiry in RFC 3339.
    expiry: String,
    date: String,
    /// The present expiry of a secret that is replaced.
    present_expiry: Option<i64>,
    pub(super) trims: bool,
}

impl SecretFields {
    pub(super) fn of(fields: &Fields) -> Self {
        let text = |name| fields.text(name).to_owned();
        Self {
            name: text("name"),
            origins: text("origins"),
            labels: text("labels"),
            expiry: text("expiry"),
            date: text("date"),
            present_expiry: None,
            trims: fields.is_set("trim"),
        }
    }

    /// Returns the form for a new value of `secret`, which keeps its metadata.
    pub(super) fn of_present(secret: &Secret) -> Self {
        let present_expiry = secret
            .expires_at
            .as_ref()
            .map(|at| at.seconds)
            .filter(|seconds| *seconds > now());
        Self {
            name: secret.name.clone(),
            origins: secret.upstream_origins.join("\n"),
            labels: super::secrets::labels(secret).join("\n"),
            expiry: present_expiry.map(rfc3339).unwrap_or_default(),
            date: String::new(),
            present_expiry,
            trims: false,
        }
    }

    /// Returns the metadata that a replacement form was made with, from its hidden fields.
    pub(super) fn of_shown(fields: &Fields) -> Self {
        let text = |name| fields.text(name).to_owned();
        Self {
            name: String::new(),
            origins: text("shown_origins"),
            labels: text("shown_labels"),
            expiry: text("shown_expiry"),
            date: String::new(),
            present_expiry: None,
            trims: false,
        }
    }

    /// Takes the metadata of the secret's `present` version where the person left those of the version that was `shown`. Returns the
    /// names of the fields that the person and somebody else both changed, each with its present content.
    pub(super) fn merge(&mut self, shown: &Self, present: &Secret) -> Vec<(&'static str, String)> {
        let present = Self::of_present(present);
        self.present_expiry = present.present_expiry;
        let is_same = |one: &str, other: &str| items(one) == items(other);
        let mut conflicts = Vec::new();
        for (label, entered, shown, present) in [
            ("Send only to", &mut self.origins, &shown.origins, present.origins),
            ("Labels", &mut self.labels, &shown.labels, present.labels),
        ] {
            if is_same(entered, shown) {
                *entered = present;
            } else if !is_same(shown, &present) && !is_same(entered, &present) {
                conflicts.push((label, items(&present).join(", ")));
            }
        }
        let is_left = self.date.is_empty() && is_same_expiry(&self.expiry, &shown.expiry);
        if is_left {
            self.expiry = present.expiry;
        } else if !is_same_expiry(&shown.expiry, &present.expiry) {
            let day = present.present_expiry.map_or_else(|| "never".to_owned(), day_of);
            conflicts.push(("Expires", day));
        }
        conflicts
    }

    /// Keeps the present expiry among the choices when the form is shown again.
    pub(super) fn with_present_expiry(self, secret: &Secret) -> Self {
        let present_expiry = Self::of_present(secret).present_expiry;
        Self {
            present_expiry,
            ..self
        }
    }

    /// Returns the origins, or the error at their field. The vault's message about a wrong origin has the API's name of the field.
    pub(super) fn origins(&self) -> Result<Vec<String>, FormError> {
        let origins = items(&self.origins);
        let wrong = origins
            .iter()
            .find_map(|text| Some((text, OriginPattern::parse(text).err()?)));
        match wrong {
            Some((text, error)) => Err(FormError::at("origins", &format!("`{text}`: {error}"))),
            None => Ok(origins),
        }
    }

    pub(super) fn labels(&self) -> Result<BTreeMap<String, String>, FormError> {
        let pairs = items(&self.labels).into_iter().map(|text| label(&text));
        pairs
            .collect::<Result<_, _>>()
            .map_err(|problem| FormError::at("labels", &problem))
    }

    pub(super) fn expires_at(&self) -> Result<Option<Timestamp>, FormError> {
        // The field for the day is visible beside every choice. A person who fills it in and leaves the choice at `never` would
        // get a secret that does not expire.
        if self.expiry != "date" && !self.date.is_empty() {
            return Err(FormError::at(
                "expiry",
                "to use the day, choose “on a date”; otherwise remove the day",
            ));
        }
        let time = match self.expiry.as_str() {
            "" | "never" => return Ok(None),
            "date" if self.date.is_empty() => {
                return Err(FormError::at(
                    "expiry",
                    "choose the day on which the value expires",
                ));
            }
            "date" => time_at(&format!("{}T00:00:00Z", self.date)),
            duration if duration.ends_with('d') => time_in(duration),
            present => time_at(present),
        };
        time.map(Some)
            .map_err(|problem| FormError::at("expiry", &problem))
    }
}

/// Compares two choices. A secret without an expiry has none, and the form sends `never`.
fn is_same_expiry(one: &str, other: &str) -> bool {
    let choice = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty() && text != "never");
    choice(one) == choice(other)
}

fn rfc3339(seconds: i64) -> String {
    Timestamp { seconds, nanos: 0 }.to_string()
}

/// Returns the form. It never shows a value.
pub(super) fn form(
    workspace: &str,
    what: &FormFor,
    entered: &SecretFields,
    csrf: &str,
    error: Option<&FormError>,
) -> Markup {
    let (action, back, button) = match what {
        FormFor::NewSecret => {
            let list = format!("/w/{workspace}/secrets");
            (list.clone(), list, "Add secret")
        }
        FormFor::Replacement { name, .. } => {
            let secret = format!("/w/{workspace}/secrets/{name}");
            (format!("{secret}/replace"), secret, "Replace value")
        }
    };
    let fields: &[_] = match what {
        FormFor::NewSecret => &["name", "value", "origins", "expiry", "labels"],
        FormFor::Replacement { .. } => &["value", "origins", "expiry", "labels"],
    };
    html! {
        (error_summary_without_focus(error, fields))
        form.stack method="post" action=(action) data-holds-value {
            (hidden(csrf))
            @match what {
                FormFor::NewSecret => (name_field(workspace, entered, error)),
                FormFor::Replacement { name: _, version, shown } => {
                    input type="hidden" name="version" value=(version);
                    input type="hidden" name="shown_origins" value=(shown.origins);
                    input type="hidden" name="shown_labels" value=(shown.labels);
                    input type="hidden" name="shown_expiry" value=(shown.expiry);
                }
            }
            (value_field(entered, what, error))
            (metadata_fields(entered, error))
            (submit(Submit::Primary, button, &back))
        }
    }
}

/// Returns the fields for the origins, the expiry and the labels.
pub(super) fn metadata_fields(entered: &SecretFields, error: Option<&FormError>) -> Markup {
    html! {
        (origins_field(entered, error))
        (expiry_field(entered, error))
        (labels_field(entered, error))
    }
}

fn name_field(workspace: &str, entered: &SecretFields, error: Option<&FormError>) -> Markup {
    let help = html! {
        p data-name-preview role="status" {
            "Upper-case letters, digits and " code { "_" } ": " code { "github-token" } " becomes " code { "GITHUB_TOKEN" } "."
        }
    };
    let control = html! {
        input #name.mono name="name" type="text" value=(entered.name) required maxlength="128" autocomplete="off"
            autocapitalize="none" spellcheck="false" data-lookup={ "/w/" (workspace) "/secrets/lookup" }
            aria-describedby="name-help" aria-invalid=[invalid("name", error)] autofocus[error.is_none() || has_error("name", error)];
    };
    field("name", "Name", &help, error, &control)
}

/// Returns the field for the value. It is masked by the style sheet, also without JavaScript, and the spelling checker, which
/// may send texts to a service of the browser's vendor, is off. After every error the field is empty. It gets the focus, with the
/// error of another field in its description, unless the name above it is wrong.
fn value_field(entered: &SecretFields, what: &FormFor, error: Option<&FormError>) -> Markup {
    let description = match error.and_then(FormError::field) {
        Some(field) if field != "value" => format!("value-help {field}-help"),
        Some(_) | None => "value-help".to_owned(),
    };
    let help = html! {
        @if error.is_some() { p.error { "Enter the value again: the console did not keep it." } }
        "Text of at most 64 KiB. One final line break is removed, and line breaks are stored as LF: put a binary value with "
        code { "aerostack workspace secret set" } ". Nobody can read the value back, and this page never shows it again."
    };
    let control = html! {
        textarea #value.mono.value name="value" rows="3" required autocomplete="off" autocapitalize="none"
            autocorrect="off" spellcheck="false" data-lpignore="true" data-bwignore
            aria-describedby=(description) aria-invalid=[invalid("value", error)]
            autofocus[matches!(what, FormFor::Replacement { .. }) || (error.is_some() && !has_error("name", error))] {}
    };
    html! {
        div.value-field {
            (field("value", "Value", &help, error, &control))
            div.checks {
                label { input.reveal type="checkbox"; span { "Show what I type" } }
                label {
                    input type="checkbox" name="trim" value="yes" checked[entered.trims];
                    span { "Remove white space at both ends" }
                }
            }
        }
    }
}

fn origins_field(entered: &SecretFields, error: Option<&FormError>) -> Markup {
    let help = html! {
        "The injector refuses to send the value anywhere else. One origin per line; " code { "https://*.example.com" }
        " means every host below it. Without an origin, everybody who may edit servers can have the value sent to a server "
        "of their own."
    };
    let control = html! {
        textarea #origins.mono name="origins" rows="2" data-origins placeholder="https://api.github.com" autocomplete="off"
            autocapitalize="none" spellcheck="false" aria-describedby="origins-help"
            aria-invalid=[invalid("origins", error)] autofocus[has_error("origins", error)] { (entered.origins) }
    };
    field("origins", "Send only to", &help, error, &control)
}

fn expiry_field(entered: &SecretFields, error: Option<&FormError>) -> Markup {
    let is = |value: &str| entered.expiry == value;
    let help = html! {
        "A server does not get an expired value. To name a day, choose “on a date”: the value expires at 00:00 UTC on that day."
    };
    let control = html! {
        div.together {
            select #expiry name="expiry" aria-describedby="expiry-help" aria-invalid=[invalid("expiry", error)] autofocus[has_error("expiry", error)] {
                option value="never" selected[is("never")] { "never" }
                @if let Some(seconds) = entered.present_expiry {
                    option value=(rfc3339(seconds)) selected[is(&rfc3339(seconds))] { "on " (day_of(seconds)) ", as now" }
                }
                @for (value, text) in DURATIONS { option value=(value) selected[is(value)] { (text) } }
                option value="date" selected[is("date")] { "on a date" }
            }
            input.short name="date" type="date" data-expiry-day value=(entered.date) aria-label="Day of expiry";
        }
    };
    field("expiry", "Expires", &help, error, &control)
}

fn labels_field(entered: &SecretFields, error: Option<&FormError>) -> Markup {
    let help = html! { "To sort secrets by, such as " code { "team=payments" } ". One per line. Labels are not encrypted." };
    let control = html! {
        textarea #labels.mono name="labels" rows="2" autocomplete="off" autocapitalize="none" spellcheck="false"
            aria-describedby="labels-help" aria-invalid=[invalid("labels", error)] autofocus[has_error("labels", error)] { (entered.labels) }
    };
    field("labels", "Labels", &help, error, &control)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn entered(encoded: &str) -> SecretFields {
        SecretFields::of(&Fields::parse(encoded.as_bytes()))
    }

    #[test]
    fn an_expiry_is_never_a_duration_or_a_date() {
        assert!(entered("").expires_at().ok().unwrap().is_none());
        assert!(entered("expiry=never").expires_at().ok().unwrap().is_none());
        let at = |encoded| entered(encoded).expires_at().ok().unwrap().unwrap().seconds;
        assert!((at("expiry=30d") - now() - 30 * 86_400).abs() < 5);
        assert_eq!(at("expiry=date&date=2031-02-03"), 1_927_843_200);
        assert_eq!(at("expiry=2031-02-03T00:00:00Z"), 1_927_843_200);
        for wrong in [
            "expiry=date",
            "expiry=date&date=x",
            "expiry=soon",
            "expiry=never&date=2031-02-03",
            "expiry=30d&date=2031-02-03",
        ] {
            assert!(entered(wrong).expires_at().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_replacement_keeps_the_metadata_unless_the_person_changes_them() {
        let expires_at = Some(Timestamp {
            seconds: now() + 1_000_000,
            nanos: 0,
        });
        let secret = Secret {
            name: "A".to_owned(),
            upstream_origins: vec!["https://a.example".to_owned(), "https://b.example".to_owned()],
            labels: [("team".to_owned(), "x".to_owned())].into(),
            expires_at,
            ..Default::default()
        };
        let entered = SecretFields::of_present(&secret);
        assert_eq!(entered.origins().ok().unwrap(), secret.upstream_origins);
        assert_eq!(entered.labels().ok().unwrap(), secret.labels);
        assert_eq!(entered.expires_at().ok().unwrap(), expires_at);
    }

    /// `tests/peers/test_console.py` checks the script of the form against the same table.
    #[test]
    fn the_table_of_origins_for_the_script_of_the_form_is_that_of_the_vault() {
        let table: Vec<(String, bool)> =
            serde_json::from_str(include_str!("../../../tests/console/origins.json")).unwrap();
        for (given, is_origin) in table {
            assert_eq!(OriginPattern::parse(&given).is_ok(), is_origin, "{given}");
        }
    }

    #[test]
    fn a_wrong_origin_is_named_at_its_field() {
        let error = entered("origins=https://a.example%0Aapi.github.com")
            .origins()
            .err()
            .unwrap();
        let message = error.message_at("origins").unwrap();
        assert!(message.starts_with("`api.github.com`: an origin is"), "{message}");
    }

    #[test]
    fn an_expired_secret_gets_no_old_expiry() {
        let secret = Secret {
            expires_at: Some(Timestamp::default()),
            ..Default::default()
        };
        assert!(
            SecretFields::of_present(&secret)
                .expires_at()
                .ok()
                .unwrap()
                .is_none()
        );
    }
}
