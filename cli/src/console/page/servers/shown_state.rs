//! The state of a server that a form was made for.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{Markup, html};
use prost::Message as _;
use proto::injector::v1::Server;

use crate::{
    console::{fields::Fields, view::FormError},
    failure::{Failure, FailureKind},
};

/// Names one state of one server, and has the settings of that state. A revision alone names no state: a server that was deleted and
/// added again under the same name begins at revision 1 again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShownState {
    uid: String,
    revision: u64,
    /// The encoded [`Server`] in Base64; empty when the form did not send it.
    settings: String,
}

impl ShownState {
    pub(super) fn of(server: &Server) -> Self {
        Self {
            uid: server.uid.clone(),
            revision: server.revision,
            settings: STANDARD.encode(server.encode_to_vec()),
        }
    }

    /// Returns the server as the form was made for it.
    pub(super) fn server(&self) -> Option<Server> {
        let encoded = Some(&self.settings).filter(|settings| !settings.is_empty());
        Server::decode(STANDARD.decode(encoded?).ok()?.as_slice()).ok()
    }

    /// Reads the state from the hidden fields of a form.
    pub(super) fn of_form(fields: &Fields) -> Self {
        Self {
            uid: fields.text("uid").to_owned(),
            revision: fields.number("revision"),
            settings: fields.text("shown").to_owned(),
        }
    }

    /// Returns the hidden fields.
    pub(super) fn fields(&self) -> Markup {
        let Self {
            uid,
            revision,
            settings,
        } = self;
        html! {
            input type="hidden" name="uid" value=(uid);
            input type="hidden" name="revision" value=(revision);
            input type="hidden" name="shown" value=(settings);
        }
    }

    /// Returns the error of a form whose state is not the present one.
    pub(super) fn compare(&self, present: &Server) -> Result<(), FormError> {
        let Self {
            uid,
            revision,
            settings: _,
        } = self;
        let message = if *uid != present.uid {
            "somebody else deleted the server meanwhile, and added another one of the same name"
        } else if *revision != present.revision {
            "somebody else changed the server meanwhile"
        } else {
            return Ok(());
        };
        Err(Failure::new(FailureKind::Conflict, message).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::view::error_summary;

    #[test]
    fn a_server_of_the_same_name_and_revision_is_another_one() {
        let server = |uid: &str, revision| Server {
            uid: uid.to_owned(),
            revision,
            ..Default::default()
        };
        let shown = ShownState::of_form(&Fields::parse(b"uid=u&revision=1"));
        assert!(shown.compare(&server("u", 1)).is_ok());
        for (present, word) in [(server("u", 2), "changed"), (server("v", 1), "deleted")] {
            let error = shown.compare(&present).err();
            let message = error_summary(error.as_ref(), &[]).into_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
