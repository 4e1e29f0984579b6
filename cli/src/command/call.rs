//! `aerostack call`

use std::{
    fs::{self, File},
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, builder::ArgPredicate};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use proto::{Reason, ServerName, WorkspaceName};
use tokio::time;

use crate::{
    connect::Connection,
    data_plane::{DataPlane, HttpVersion, refusal_of_injector},
    failure::{Failure, FailureKind},
    output::Report,
    program_call::{Problem, ProgramCall, parse_header, read_problem},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack call my-workspace github /user\n\
\x20 aerostack call my-workspace github /repos -i --json '{\"name\": \"x\"}'")]
pub struct CallArgs {
    /// The workspace of the server
    workspace: String,
    /// The server
    server: String,
    /// The path to request, with its query
    #[arg(default_value = "/")]
    path: String,
    /// The method; by default POST with a body, else GET
    #[arg(short = 'X', long, value_name = "METHOD")]
    request: Option<String>,
    /// A request header; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A body, `@FILE`, or `@-` for standard input; newlines of a file are removed. Several bodies are joined by `&`
    #[arg(short, long, value_name = "DATA")]
    data: Vec<String>,
    /// A body, `@FILE` or `@-`, sent unchanged
    #[arg(long, value_name = "DATA", conflicts_with = "data")]
    data_binary: Option<String>,
    /// A JSON body, `@FILE` or `@-`, with the headers `Content-Type` and `Accept` for JSON
    #[arg(long, value_name = "JSON", conflicts_with_all = ["data", "data_binary"])]
    json: Option<String>,
    /// Also print the head of the answer
    #[arg(short, long, default_value_if("head", ArgPredicate::IsPresent, "true"))]
    include: bool,
    /// Send a HEAD request, and print the head of the answer
    #[arg(short = 'I', long)]
    head: bool,
    /// Write the answer to a file; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Exit with code 22 and print nothing when the upstream answers with an error
    #[arg(short, long)]
    fail: bool,
    /// The longest time for the whole call, in seconds
    #[arg(short, long, value_name = "SECONDS")]
    max_time: Option<f64>,
    /// Print the heads of the request and the answer to standard error
    #[arg(short, long)]
    verbose: bool,
    /// Use HTTP/2 to the injector
    #[arg(long)]
    http2: bool,
}

impl CallArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let limit = self.max_time.map(Duration::try_from_secs_f64).transpose();
        let limit =
            limit.map_err(|error| Failure::new(FailureKind::Usage, format_args!("--max-time: {error}")))?;
        let call = self.call(connection);
        match limit {
            None => call.await?,
            Some(limit) => time::timeout(limit, call).await.map_err(|_| {
                Failure::new(FailureKind::Unavailable, "the call took longer than --max-time")
            })??,
        }
        Ok(Report::default())
    }

    async fn call(self, connection: &Connection) -> Result<(), Failure> {
        let data_plane = DataPlane::of(connection)?;
        let request = self.request()?;
        if self.verbose {
            note(&request_head(&request));
        }
        let version = if self.http2 {
            HttpVersion::Http2
        } else {
            HttpVersion::Http1
        };
        let answer = data_plane.send(connection, version, request).await?;
        let head = answer_head(&answer);
        if self.verbose {
            note(&head);
        }
        if let Some((reason, name)) = refusal_of_injector(&answer) {
            let name = name.to_owned();
            return Err(self.refusal(reason, &name, answer).await);
        }
        let status = answer.status();
        if self.fail && (status.is_client_error() || status.is_server_error()) {
            return Err(upstream_error(status));
        }
        let file = self.output.as_deref().filter(|file| *file != Path::new("-"));
        let mut to = Sink::open(file)?;
        if self.include {
            to.write(head.as_bytes())?;
        }
        copy(answer.into_body(), &mut to).await
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Failure> {
        let usage = |what: &dyn std::fmt::Display| Failure::new(FailureKind::Usage, what);
        let workspace = WorkspaceName::parse(&self.workspace).map_err(|error| usage(&error))?;
        let server = ServerName::parse(&self.server).map_err(|error| usage(&error))?;
        let (body, kind) = self.body()?;
        let method = match &self.request {
            Some(method) => Method::from_bytes(method.as_bytes())
                .map_err(|error| usage(&format_args!("{method:?}: {error}")))?,
            None if self.head => Method::HEAD,
            None if body.is_some() => Method::POST,
            None => Method::GET,
        };
        let mut headers = kind.map(BodyKind::headers).unwrap_or_default();
        for given in &self.headers {
            headers.push(parse_header(given)?);
        }
        let call = ProgramCall {
            workspace,
            server,
            method,
            path: self.path.clone(),
            headers,
            body: body.unwrap_or_default(),
        };
        call.request()
    }

    fn body(&self) -> Result<(Option<Bytes>, Option<BodyKind>), Failure> {
        if let Some(json) = &self.json {
            return Ok((Some(content(json)?.into()), Some(BodyKind::Json)));
        }
        if let Some(binary) = &self.data_binary {
            return Ok((Some(content(binary)?.into()), Some(BodyKind::Form)));
        }
        if self.data.is_empty() {
            return Ok((None, None));
        }
        let mut pieces = Vec::with_capacity(self.data.len());
        for data in &self.data {
            let mut piece = content(data)?;
            if data.starts_with('@') {
                piece.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
            }
            pieces.push(piece);
        }
        Ok((Some(pieces.join(&b'&').into()), Some(BodyKind::Form)))
    }

    /// Returns the failure for a call that the injector refused.
    async fn refusal(&self, reason: Reason, name: &str, answer: Response<Incoming>) -> Failure {
        let Problem { detail, call_id } = read_problem(answer.into_body()).await;
        let message = format!("the injector refused the call: {detail} ({name}, call {call_id})");
        Failure::new(FailureKind::of(reason.code()), message).hint(self.hint_for(reason))
    }

    fn hint_for(&self, reason: Reason) -> String {
        let Self {
            workspace, server, ..
        } = self;
        match reason {
            Reason::ServerNotFound => {
                format!("`aerostack workspace server list {workspace}` shows what exists")
            }
            Reason::UpstreamUnreachable
            | Reason::UpstreamTlsFailed
            | Reason::UpstreamCertificateUntrusted
            | Reason::UpstreamCertificateNameMismatch
            | Reason::UpstreamNotTls
            | Reason::UpstreamClientCertificateRefused
            | Reason::UpstreamAddressRefused => {
                format!("`aerostack workspace server show {workspace} {server}` shows its URL")
            }
            _ => format!("`aerostack explain {workspace} {server}` shows the state of each secret"),
        }
    }
}

/// Default headers of a body, which `--header` can replace.
#[derive(Clone, Copy)]
enum BodyKind {
    Form,
    Json,
}

impl BodyKind {
    fn headers(self) -> Vec<(HeaderName, HeaderValue)> {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
        match self {
            Self::Form => vec![(header::CONTENT_TYPE, FORM)],
            Self::Json => vec![(header::CONTENT_TYPE, JSON), (header::ACCEPT, JSON)],
        }
    }
}

fn upstream_error(status: StatusCode) -> Failure {
    Failure::new(
        FailureKind::HttpError,
        format_args!("the upstream answered {status}"),
    )
}

/// Reads the file of `@FILE`, or standard input for `@-`. Other text is returned unchanged.
fn content(data: &str) -> Result<Vec<u8>, Failure> {
    match data.strip_prefix('@') {
        None => Ok(data.as_bytes().to_vec()),
        Some("-") => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::file(Path::new("standard input"), &error))?;
            Ok(bytes)
        }
        Some(path) => fs::read(path).map_err(|error| Failure::file(Path::new(path), &error)),
    }
}

/// The file or standard output that the answer is written to.
struct Sink {
    path: PathBuf,
    to: Box<dyn Write>,
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            None => Ok(Self {
                path: "standard output".into(),
                to: Box::new(io::stdout()),
            }),
            Some(path) => {
                let file = File::create(path).map_err(|error| Failure::file(path, &error))?;
                Ok(Self {
                    path: path.to_owned(),
                    to: Box::new(file),
                })
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.to.write_all(bytes).and_then(|()| self.to.flush());
        written.map_err(|error| Failure::file(&self.path, &error))
    }
}

async fn copy(mut body: Incoming, to: &mut Sink) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(
                FailureKind::Unavailable,
                format_args!("the answer broke off: {error}"),
            )
        })?;
        if let Some(data) = frame.data_ref() {
            to.write(data)?;
        }
    }
    Ok(())
}

fn request_head(request: &Request<Full<Bytes>>) -> String {
    let mut head = format!("> {} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        head.push_str(&format!("> {name}: {}\n", value.to_str().unwrap_or("(binary)")));
    }
    head
}

fn answer_head(answer: &Response<Incoming>) -> String {
    let mut head = format!("{:?} {}\r\n", answer.version(), answer.status());
    for (name, value) in answer.headers() {
        head.push_str(&format!(
            "{name}: {}\r\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    head.push_str("\r\n");
    head
}

fn note(text: &str) {
    // A closed standard error is ignored.
    drop(io::stderr().write_all(text.as_bytes()));
}
