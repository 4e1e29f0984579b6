//! A call of a server through the data plane, as a program makes it. `aerostack call` and the console make such calls.

use std::fmt::Display;

use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use proto::{ServerName, WorkspaceName};
use serde_json::Value;

use crate::failure::{Failure, FailureKind};

/// Bytes of the body of a refusal that are read at most.
const MAX_REFUSAL: usize = 64 * 1024;

/// A call whose server is named by the headers `x-aerostack-workspace` and `x-aerostack-server`, so that the path is the
/// upstream's own.
pub(crate) struct ProgramCall {
    pub(crate) workspace: WorkspaceName,
    pub(crate) server: ServerName,
    pub(crate) method: Method,
    /// The path with its query. A missing `/` at its beginning is added.
    pub(crate) path: String,
    /// Headers of the same name replace the earlier ones.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl ProgramCall {
    /// Returns the path and the query, with the `/` at the beginning.
    pub(crate) fn target(&self) -> String {
        let path = &self.path;
        match path.starts_with('/') {
            true => path.clone(),
            false => format!("/{path}"),
        }
    }

    pub(crate) fn request(self) -> Result<Request<Full<Bytes>>, Failure> {
        let path = self.target();
        let Self {
            workspace,
            server,
            method,
            path: _,
            headers: given,
            body,
        } = self;
        let mut request = Request::builder()
            .method(method)
            .uri(&path)
            .body(Full::from(body))
            .map_err(|error| usage(&format_args!("{path}: {error}")))?;
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        for (name, value) in given {
            // `insert` panics when a map is full.
            headers
                .try_insert(name, value)
                .map_err(|_| usage(&"the call has too many headers"))?;
        }
        // Set last, so that no given header replaces them.
        for (name, value) in [
            ("x-aerostack-workspace", workspace.as_str()),
            ("x-aerostack-server", server.as_str()),
            // An administrator reads the answer.
            ("x-aerostack-scrub", "all"),
        ] {
            let value = HeaderValue::from_str(value).map_err(|error| usage(&error))?;
            headers
                .try_insert(HeaderName::from_static(name), value)
                .map_err(|_| usage(&"the call has too many headers"))?;
        }
        Ok(request)
    }
}

/// The headers that say where a request goes and where it ends. The client sets them, and a second opinion would break the request.
const FRAMING: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Parses `NAME: VALUE`. Errors quote only the name of a header, because the value may be a credential.
pub(crate) fn parse_header(given: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let (name, value) = given
        .split_once(':')
        .ok_or_else(|| usage(&"a header is NAME: VALUE"))?;
    let wrong = |what: &dyn Display| usage(&format_args!("header {name:?}: {what}"));
    let parsed: HeaderName = name
        .trim()
        .parse()
        .map_err(|error: http::header::InvalidHeaderName| wrong(&error))?;
    if FRAMING.contains(&parsed) {
        return Err(wrong(
            &"it is set for the connection to the injector, leave it out",
        ));
    }
    Ok((
        parsed,
        value
            .trim()
            .parse()
            .map_err(|error: http::header::InvalidHeaderValue| wrong(&error))?,
    ))
}

fn usage(problem: &dyn Display) -> Failure {
    Failure::new(FailureKind::Usage, problem)
}

/// The explanation in the body of a refusal by the injector.
#[derive(Default)]
pub(crate) struct Problem {
    /// A sentence for people; empty when the body is something else.
    pub(crate) detail: String,
    pub(crate) call_id: String,
}

/// Reads the `application/problem+json` of a refusal.
pub(crate) async fn read_problem(mut body: Incoming) -> Problem {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        text.extend(frame.into_data().unwrap_or_default());
        if text.len() > MAX_REFUSAL {
            break;
        }
    }
    let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
    let member = |name: &str| {
        let text = problem.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Problem {
        detail: member("detail"),
        call_id: member("call_id"),
    }
}
