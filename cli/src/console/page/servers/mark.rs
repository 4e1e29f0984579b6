//! The fate of a secret in the next call.

use std::collections::BTreeMap;

use proto::{
    SecretName,
    injector::v1::{ExplainInjectionResponse, ExplainedSecret, Injection, explained_secret::State},
    vault::v1::Secret,
};

use crate::template::secrets_of;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Sent,
    /// A person names the secret before it exists.
    NotStored,
    Missing,
    Expired,
    OtherOrigin,
    NotVerified,
    Unfit,
    Unreadable,
    /// Nobody was asked, or nobody answered.
    Unknown,
}

impl Mark {
    pub(super) fn of(state: State) -> Self {
        match state {
            State::Injected => Self::Sent,
            State::Missing => Self::Missing,
            State::Expired => Self::Expired,
            State::OriginRefused => Self::OtherOrigin,
            State::UpstreamNotVerified => Self::NotVerified,
            State::Unfit => Self::Unfit,
            State::Unreadable => Self::Unreadable,
            State::Unspecified => Self::Unknown,
        }
    }

    /// Returns the words beside the name of a secret that is not simply sent.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Sent | Self::Unknown => "",
            Self::NotStored => "not stored yet",
            Self::Missing => "missing",
            Self::Expired => "expired",
            Self::OtherOrigin => "bound to another origin",
            Self::NotVerified => "server not verified",
            Self::Unfit => "does not fit",
            Self::Unreadable => "cannot be decrypted",
        }
    }

    /// Returns the class of the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Sent | Self::Unknown => "sent",
            Self::NotStored => "new",
            Self::Missing
            | Self::Expired
            | Self::OtherOrigin
            | Self::NotVerified
            | Self::Unfit
            | Self::Unreadable => "miss",
        }
    }

    /// Returns true for a secret without which a call goes out, unless it is required.
    pub(super) fn is_absent(self) -> bool {
        matches!(self, Self::NotStored | Self::Missing | Self::Expired)
    }
}

/// The marks of the secrets of a server.
#[derive(Default)]
pub(super) struct Marks {
    /// By the index of the injection and the name of the secret.
    placed: BTreeMap<(usize, String), Mark>,
    named: BTreeMap<String, Mark>,
    /// The mark of a secret that is in neither map.
    others: Option<Mark>,
}

impl Marks {
    /// Takes the marks from an explanation, which has one entry for each secret of each injection, in the order of the
    /// injections; for an auth type that decides the places, it has one entry for each secret.
    pub(super) fn of_explanation(injections: &[Injection], explained: &ExplainInjectionResponse) -> Self {
        let mut marks = Self::default();
        let mut rest: Vec<&ExplainedSecret> = explained.secrets.iter().collect();
        for explained in &explained.secrets {
            marks
                .named
                .entry(explained.name.clone())
                .or_insert_with(|| Mark::of(explained.state()));
        }
        for (index, injection) in injections.iter().enumerate() {
            for name in secrets_of(injection) {
                if let Some(at) = rest.iter().position(|explained| explained.name == name) {
                    let state = rest.remove(at).state();
                    marks.placed.insert((index, name), Mark::of(state));
                }
            }
        }
        marks
    }

    /// Takes the marks from the secrets of the workspace. Without them, nothing is known.
    pub(super) fn of_secrets(secrets: Option<&[Secret]>) -> Self {
        let mark = |secret: &Secret| if secret.expired { Mark::Expired } else { Mark::Sent };
        let named = secrets.unwrap_or_default().iter();
        Self {
            placed: BTreeMap::new(),
            named: named.map(|secret| (secret.name.clone(), mark(secret))).collect(),
            others: secrets.map(|_| Mark::NotStored),
        }
    }

    /// Returns the mark of a secret in the injection with this index.
    pub(super) fn at(&self, index: usize, name: &str) -> Mark {
        let placed = self.placed.get(&(index, name.to_owned())).copied();
        placed.unwrap_or_else(|| self.named(name))
    }

    /// Returns the mark of a secret, wherever it goes.
    pub(super) fn named(&self, name: &str) -> Mark {
        let name = SecretName::parse(name).map_or_else(|_| name.to_owned(), |name| name.to_string());
        let named = self.named.get(&name).copied().or(self.others);
        named.unwrap_or(Mark::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use proto::injector::v1::{CookiePlacement, HeaderPlacement, injection::Placement};

    use super::*;

    #[test]
    fn a_secret_may_fit_one_place_and_not_another() {
        let injection = |placement| Injection {
            required: false,
            placement: Some(placement),
        };
        let (name, value) = ("x".to_owned(), "${A}".to_owned());
        let injections = [
            injection(Placement::Header(HeaderPlacement {
                name: name.clone(),
                value: value.clone(),
            })),
            injection(Placement::Cookie(CookiePlacement { name, value })),
        ];
        let explained = |state: State| ExplainedSecret {
            name: "A".to_owned(),
            state: state.into(),
            ..Default::default()
        };
        let answer = ExplainInjectionResponse {
            secrets: vec![explained(State::Injected), explained(State::Unfit)],
            would_forward: false,
        };
        let marks = Marks::of_explanation(&injections, &answer);
        assert_eq!([marks.at(0, "A"), marks.at(1, "A")], [Mark::Sent, Mark::Unfit]);
        assert_eq!(marks.at(0, "B"), Mark::Unknown);
    }

    #[test]
    fn a_name_that_no_secret_has_is_not_stored_yet() {
        let stored = Secret {
            name: "API_KEY".to_owned(),
            ..Default::default()
        };
        let marks = Marks::of_secrets(Some(&[stored]));
        assert_eq!(
            [marks.at(0, "api-key"), marks.at(3, "OTHER")],
            [Mark::Sent, Mark::NotStored]
        );
        assert_eq!(Marks::of_secrets(None).named("OTHER"), Mark::Unknown);
    }
}
