//! `/w/{workspace}/add-server/picture`: the picture beside the form for a server, alone.
//!
//! The script of the form asks for it while the person types. It is a POST, although it changes nothing, because the form may be
//! longer than an address. It takes no notices, which would otherwise be lost in an answer that is no page.

use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use proto::vault::v1::Secret;

use super::{
    super::paths::InWorkspace, access::unreadable_form, form::ServerForm, mark::Marks, picture::picture,
};
use crate::console::guard::Change;

pub(in crate::console) async fn draw(
    InWorkspace(workspace): InWorkspace,
    Change { visit, fields }: Change,
) -> Response {
    let form = match ServerForm::of(&fields) {
        Ok(form) => form,
        Err(unreadable) => return unreadable_form(&visit, &unreadable),
    };
    let secrets = visit.app.services.secrets(workspace.as_str()).await.ok();
    picture_part(workspace.as_str(), &form, secrets.as_deref()).into_response()
}

/// Returns the part of the page that the script replaces.
pub(super) fn picture_part(workspace: &str, form: &ServerForm, secrets: Option<&[Secret]>) -> Markup {
    let marks = Marks::of_secrets(secrets);
    html! {
        div #picture {
            (picture(&form.server(workspace), &marks))
            p.help {
                span.blank { span aria-hidden="true" { "•••" } span.hidden-text { "a blank" } }
                " is the value of a secret. The injector fills it in at each call, and nobody else sees it."
            }
            @if secrets.is_none() {
                p.help { "The vault does not answer, so the picture does not show which secrets exist." }
            }
        }
    }
}
