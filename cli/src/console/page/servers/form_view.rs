//! The form for a server, beside a picture of what the server will receive.

use maud::{Markup, html};
use proto::vault::v1::Secret;

use super::{
    form::{Auth, ServerForm},
    message::place_of,
    more_view::more,
    picture_part::picture_part,
    rows_view::{places, secret_rows},
    shown_state::ShownState,
};
use crate::console::view::{
    FormError, Submit, error_at, error_summary, field, has_error, hidden, invalid, submit,
};

/// Everything around the fields of the form.
pub(super) struct FormContext<'c> {
    pub(super) workspace: &'c str,
    /// The path that takes the form.
    pub(super) action: String,
    pub(super) back: String,
    pub(super) button: &'static str,
    /// The state of a server that is edited, and `None` for a new server.
    pub(super) edited: Option<ShownState>,
    /// The secrets of the workspace, if they are known.
    pub(super) secrets: Option<&'c [Secret]>,
    /// The URL that an entry of the catalog has as an example.
    pub(super) url_example: &'c str,
    pub(super) csrf: &'c str,
    /// The id of the row that gets the focus, after a step that changed the rows.
    pub(super) focus: &'c str,
}

pub(super) fn form_view(context: &FormContext<'_>, form: &ServerForm, error: Option<&FormError>) -> Markup {
    html! {
        (error_summary(error, &fields_with_errors(context, form)))
        form.editor method="post" action=(context.action)
            data-picture={ "/w/" (context.workspace) "/add-server/picture" } {
            // A press of Enter in a field uses the first button.
            button.hidden-text type="submit" tabindex="-1" aria-hidden="true" { (context.button) }
            (hidden(context.csrf))
            input type="hidden" name="entry" value=(form.entry);
            @if let Some(shown) = &context.edited { (shown.fields()) }
            div.fields {
                (name_and_url(context, form, error))
                (credential(context, form, error))
                (more(form, error))
                (description(form, error))
            }
            (preview(context, form))
            div.submit { (submit(Submit::Primary, context.button, &context.back)) }
        }
        (choices_of_secrets(context.secrets.unwrap_or_default()))
    }
}

/// Returns the names of the fields that show their errors themselves. A server that exists keeps its name, and the style sheet hides
/// the secrets of the ways that are not chosen.
fn fields_with_errors(context: &FormContext<'_>, form: &ServerForm) -> Vec<&'static str> {
    let name = context.edited.is_none().then_some("name");
    let always = [
        "url",
        "auth",
        "origins",
        "paths",
        "grpc_methods",
        "all_messages",
        "secrets_field",
        "ca_pem",
        "server_name",
        "client_cert",
        "allow_bound",
        "allow_plaintext",
        "protocol",
        "scrub",
        "on_echo",
        "oauth",
        "description",
    ];
    let chosen = [form.credential_field()];
    name.into_iter().chain(always).chain(chosen).collect()
}

/// Returns the picture. The script of the form loads it again while the person types.
fn preview(context: &FormContext<'_>, form: &ServerForm) -> Markup {
    html! {
        aside.preview aria-labelledby="preview-title" {
            h2 #preview-title { "What the server will receive" }
            (picture_part(context.workspace, form, context.secrets))
            noscript { button.button.small type="submit" name="step" value="picture" formnovalidate { "Draw again" } }
        }
    }
}

fn name_and_url(context: &FormContext<'_>, form: &ServerForm, error: Option<&FormError>) -> Markup {
    let help = html! {
        "Lower-case letters, digits and " code { "-" } ". Programs call the server by it: "
        code { "/" (context.workspace) "/" span data-shows="name" { (if form.name.is_empty() { "github" } else { &form.name }) } "/…" }
    };
    let control = html! {
        input #name.mono name="name" type="text" value=(form.name) required maxlength="63"
            pattern="[a-z0-9]([\\-a-z0-9]*[a-z0-9])?"
            title="Lower-case letters, digits and -, with a letter or a digit at both ends"
            autocomplete="off" autocapitalize="none" spellcheck="false"
            aria-describedby="name-help" aria-invalid=[invalid("name", error)]
            autofocus[has_error("name", error) || (error.is_none() && context.focus.is_empty() && form.name.is_empty())];
    };
    html! {
        @if context.edited.is_none() { (field("name", "Name", &help, error, &control)) }
        @else { input type="hidden" name="name" value=(form.name); }
        (url(context, form, error))
    }
}

fn url(context: &FormContext<'_>, form: &ServerForm, error: Option<&FormError>) -> Markup {
    let example = if context.url_example.is_empty() {
        "https://api.github.com"
    } else {
        context.url_example
    };
    let help = html! {
        @if !context.url_example.is_empty() {
            "Your own address, in the form " code { (context.url_example) } ". "
        }
        "The part that all calls begin with. A secret may stand in the path or in the query, as " code { "${NAME}" } "."
    };
    let control = html! {
        input #url.mono name="url" type="text" inputmode="url" value=(form.url) required maxlength="2048" placeholder=(example)
            autocomplete="off" autocapitalize="none" spellcheck="false"
            aria-describedby="url-help" aria-invalid=[invalid("url", error)]
            autofocus[has_error("url", error)
                || (error.is_none() && context.focus.is_empty() && !form.name.is_empty() && form.url.is_empty())];
    };
    field("url", "URL", &help, error, &control)
}

fn description(form: &ServerForm, error: Option<&FormError>) -> Markup {
    let control = html! {
        input #description name="description" type="text" value=(form.description) maxlength="1024" autocomplete="off"
            aria-describedby="description-help" aria-invalid=[invalid("description", error)] autofocus[has_error("description", error)];
    };
    field(
        "description",
        "Description",
        &html! { "For people. May be empty." },
        error,
        &control,
    )
}

fn auth_texts(auth: Auth) -> (&'static str, &'static str) {
    match auth {
        Auth::Bearer => ("Bearer token", "Authorization: Bearer … – what most APIs expect"),
        Auth::Places => (
            "Another place",
            "an API key header, Basic, the query, a cookie, a body, gRPC",
        ),
        Auth::Headers => (
            "A header for each secret",
            "X-Mcp-Secret-NAME – for servers that read it",
        ),
        Auth::Body => ("In the JSON body", "the member secrets – for functions"),
        Auth::Nothing => ("No credential", "only route calls to the server"),
    }
}

fn credential(context: &FormContext<'_>, form: &ServerForm, error: Option<&FormError>) -> Markup {
    html! {
        fieldset #auth.choices.auth {
            legend { "How the server gets its credential" }
            (error_at("auth", error))
            @for auth in Auth::ALL {
                @let (label, detail) = auth_texts(auth);
                label {
                    input type="radio" name="auth" value=(auth.key()) checked[form.auth == auth]
                        autofocus[form.auth == auth && has_error("auth", error)];
                    span { (label) small { (detail) } }
                }
            }
        }
        div.for-bearer { (bearer(form, error)) }
        div.for-secrets { (secret_rows(&form.secrets, context.focus, error)) }
        div.for-places { (places(&form.places, context.focus, error, place_of(error))) }
    }
}

fn bearer(form: &ServerForm, error: Option<&FormError>) -> Markup {
    let help = html! {
        "Choose a secret of the workspace, or name one that you add later. The server gets no other secret."
    };
    let control = html! {
        input #bearer.mono name="bearer" type="text" value=(form.bearer.name) list="secrets" placeholder="GITHUB_TOKEN"
            autocomplete="off" autocapitalize="none" spellcheck="false"
            aria-describedby="bearer-help" aria-invalid=[invalid("bearer", error)] autofocus[has_error("bearer", error)];
    };
    html! {
        (field("bearer", "Name of the secret that holds the token", &help, error, &control))
        div.checks {
            label {
                input type="checkbox" name="bearer-required" value="yes" checked[form.bearer.required];
                span { "Refuse calls while the secret is missing" }
            }
        }
    }
}

/// Returns the secrets of the workspace as suggestions of the browser: names, and templates.
fn choices_of_secrets(secrets: &[Secret]) -> Markup {
    let note = |secret: &Secret| match (secret.expired, secret.upstream_origins.as_slice()) {
        (true, _) => "expired".to_owned(),
        (false, []) => String::new(),
        (false, origins) => format!("only to {}", origins.join(", ")),
    };
    html! {
        datalist #secrets {
            @for secret in secrets { option value=(secret.name) { (note(secret)) } }
        }
        datalist #templates {
            @for secret in secrets { option value={ "${" (secret.name) "}" } { (note(secret)) } }
        }
    }
}
