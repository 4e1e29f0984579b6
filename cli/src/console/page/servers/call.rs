//! `/w/{workspace}/servers/{name}/call`: a call through the data plane, as a program would make it.

use axum::response::Response;
use http::Method;
use hyper::body::Bytes;
use maud::{Markup, html};
use proto::injector::v1::Server;

use super::{
    super::{
        frame::{failure_page, render_form},
        paths::OfServer,
    },
    access::calls_refused,
    answer::{self, CallResult},
    answer_view::answer_view,
    breadcrumb::server_breadcrumb,
    call_form::{CallForm, call_form, is_mcp},
    explained::next_call,
};
use crate::{
    console::{
        guard::{Change, PageRequest, QueryFields},
        view::{FormError, Section, error_summary},
    },
    program_call::{ProgramCall, parse_header},
};

/// Number of lines that the field for headers may have. The injector takes no more headers in one request, unless its
/// `--max-headers` is higher.
const MAX_HEADER_LINES: usize = 100;

pub(in crate::console) async fn form(
    of: OfServer,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    if let Some(refused) = calls_refused(&visit) {
        return refused;
    }
    let form = match query.text("example") {
        "mcp" => CallForm::mcp(),
        _ => CallForm::new(),
    };
    page(&visit, &of, &form, None, None).await
}

pub(in crate::console) async fn call(of: OfServer, Change { visit, fields }: Change) -> Response {
    if let Some(refused) = calls_refused(&visit) {
        return refused;
    }
    let form = CallForm::of(&fields);
    let result = match request(&of, &form) {
        Ok(call) => answer::make(&visit.app.services.connection, call)
            .await
            .map_err(FormError::from),
        Err(error) => Err(error),
    };
    match result {
        Ok(result) => page(&visit, &of, &form, None, Some(&result)).await,
        Err(error) => page(&visit, &of, &form, Some(&error), None).await,
    }
}

fn request(of: &OfServer, form: &CallForm) -> Result<ProgramCall, FormError> {
    let CallForm {
        method,
        path,
        headers,
        media_type,
        body,
    } = form;
    let own = (!body.is_empty() && !media_type.is_empty()).then(|| format!("content-type: {media_type}"));
    let lines = headers.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines.clone().count() > MAX_HEADER_LINES {
        let text = format!("a call has at most {MAX_HEADER_LINES} headers");
        return Err(FormError::at("headers", &text));
    }
    let given = own.iter().map(String::as_str).chain(lines).map(parse_header);
    let headers = given.collect::<Result<_, _>>();
    let call = ProgramCall {
        workspace: of.workspace.clone(),
        server: of.name.clone(),
        method: Method::from_bytes(method.as_bytes())
            .map_err(|_| FormError::at("method", "choose a method"))?,
        path: path.clone(),
        headers: headers.map_err(|failure| FormError::at("headers", &failure.message))?,
        body: Bytes::from(body.clone()),
    };
    match http::Uri::try_from(call.target()) {
        Ok(_) => Ok(call),
        Err(_) => Err(FormError::at(
            "path",
            "this is not a path: write white space and other special characters percent-encoded, such as `%20`",
        )),
    }
}

async fn page(
    visit: &PageRequest,
    of: &OfServer,
    form: &CallForm,
    error: Option<&FormError>,
    result: Option<&CallResult>,
) -> Response {
    let services = &visit.app.services;
    let (server, explained) = tokio::join!(
        services.server(&of.workspace, &of.name),
        services.explain(of.workspace.as_str(), of.name.as_str())
    );
    let server = match server {
        Ok(server) => server,
        Err(failure) => return failure_page(visit, Section::Workspaces, failure),
    };
    let body = html! {
        (server_breadcrumb(of.workspace.as_str(), Some(of.name.as_str())))
        h1 { "Try a call to " span.mono { (of.name) } }
        (error_summary(error, &["path", "headers", "body"]))
        section.columns {
            div {
                (call_form(&of.path(), &server, form, visit.session.csrf.reveal(), error))
                (hint(of, &server))
            }
            div {
                @match result {
                    Some(result) => (answer_view(of, &server, &form.method, result)),
                    None => {
                        h2 { "What the server will receive" }
                        (next_call(&server, &explained, false))
                    }
                }
            }
        }
    };
    render_form(
        visit,
        &format!("Try a call to {}", of.name),
        Section::Workspaces,
        error,
        &body,
    )
}

fn hint(of: &OfServer, server: &Server) -> Markup {
    html! {
        @if is_mcp(server) {
            p.help {
                "This seems to be an MCP server. "
                a href={ (of.path()) "/call?example=mcp" } { "Fill in its first message" } "."
            }
        }
    }
}
