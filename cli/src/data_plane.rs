//! A client of the injector's data plane, with a new connection for each call.

use std::{fmt::Display, path::Path, sync::Arc};

use chassis::{dial::without_brackets, telemetry::chain, tls};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::Reason;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_rustls::TlsConnector;

use crate::{
    connect::Connection,
    failure::{Failure, FailureKind},
};

/// The version of HTTP that a call uses, without an upgrade. HTTP/2 in cleartext is used with prior knowledge
/// (RFC 9113, 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// The address of a data plane.
#[derive(Debug)]
pub(crate) struct DataPlane {
    authority: http::uri::Authority,
    tls: Option<Arc<ClientConfig>>,
    /// The base URL from the flag or the environment.
    pub url: String,
}

impl DataPlane {
    pub(crate) fn of(connection: &Connection) -> Result<Self, Failure> {
        let url = connection.data_plane();
        let wrong = || {
            Failure::new(
                FailureKind::Configuration,
                format_args!("--data-plane {url:?}: not the address of a data plane"),
            )
            .hint("it is a URL without a path, such as http://127.0.0.1:7100")
        };
        let parts = url.parse::<Uri>().map_err(|_| wrong())?.into_parts();
        let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
        let authority = parts.authority.filter(|_| path == "/").ok_or_else(wrong)?;
        let tls = match parts.scheme.as_ref().map(http::uri::Scheme::as_str) {
            Some("http") => None,
            Some("https") => Some(Arc::new(tls_client(connection.ca())?)),
            _ => return Err(wrong()),
        };
        Ok(Self { authority, tls, url })
    }

    /// Sends `request`, whose URI is a path, and waits for the head of the answer. A refusal by the injector is an answer,
    /// not an error.
    pub(crate) async fn send(
        &self,
        connection: &Connection,
        version: HttpVersion,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let dialled = time::timeout(connection.timeout(), self.dial())
            .await
            .map_err(|_| self.unreachable(&"it does not answer"))?;
        let tcp = dialled.map_err(|error| self.unreachable(&error))?;
        let host =
            HeaderValue::try_from(self.authority.as_str()).map_err(|error| self.unreachable(&error))?;
        request.headers_mut().entry(header::HOST).or_insert(host);
        let Some(tls) = self.tls.clone() else {
            return self.exchange(tcp, version, request).await;
        };
        let mut tls = ClientConfig::clone(&tls);
        tls.alpn_protocols = match version {
            HttpVersion::Http1 => vec![b"http/1.1".to_vec()],
            HttpVersion::Http2 => vec![b"h2".to_vec()],
        };
        let name = without_brackets(self.authority.host()).to_owned();
        let name = ServerName::try_from(name).map_err(|error| self.unreachable(&error))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await;
        let stream = stream.map_err(|error| self.unreachable(&error))?;
        self.exchange(stream, version, request).await
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        let port = self
            .authority
            .port_u16()
            .unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        TcpStream::connect((without_brackets(self.authority.host()), port)).await
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        version: HttpVersion,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = TokioIo::new(stream);
        let failed = |error: hyper::Error| {
            let message = format!("the call through {} failed: {}", self.url, chain(&error));
            Failure::new(FailureKind::Unavailable, message)
                .hint("the injector's log has a line for each call")
        };
        match version {
            HttpVersion::Http1 => {
                let (mut sender, connection) = http1::handshake(stream).await.map_err(failed)?;
                // An error of the connection is also the error of the call.
                tokio::spawn(async { drop(connection.await) });
                sender.send_request(request).await.map_err(failed)
            }
            HttpVersion::Http2 => {
                request.headers_mut().remove(header::HOST);
                *request.uri_mut() = self.absolute(request.uri())?;
                let handshake = http2::handshake(TokioExecutor::new(), stream).await;
                let (mut sender, connection) = handshake.map_err(failed)?;
                tokio::spawn(async { drop(connection.await) });
                sender.send_request(request).await.map_err(failed)
            }
        }
    }

    fn absolute(&self, path: &Uri) -> Result<Uri, Failure> {
        let path = path.path_and_query().map_or("/", |path| path.as_str());
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(self.authority.clone());
        uri.path_and_query(path)
            .build()
            .map_err(|error| Failure::new(FailureKind::Usage, format_args!("{path}: {error}")))
    }

    fn unreachable(&self, why: &dyn Display) -> Failure {
        let message = format!("the data plane on {} cannot be reached: {why}", self.url);
        Failure::new(FailureKind::Unavailable, message)
            .hint("is the injector running there? It listens on its own machine only, unless told otherwise; --data-plane says where")
    }
}

fn tls_client(ca: Option<&Path>) -> Result<ClientConfig, Failure> {
    let Some(path) = ca else {
        return Err(Failure::new(
            FailureKind::Configuration,
            "an https:// data plane needs --ca",
        ));
    };
    let wrong = |error: &dyn Display| {
        Failure::new(
            FailureKind::Configuration,
            format_args!("{}: {error}", path.display()),
        )
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(&error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Returns the reason with which the injector refused a call, and `None` for an answer of the upstream.
pub(crate) fn refusal_of_injector(answer: &Response<Incoming>) -> Option<(Reason, &str)> {
    let name = answer.headers().get("x-aerostack-reason")?.to_str().ok()?;
    let reason = Reason::from_str_name(&format!("REASON_{name}")).unwrap_or(Reason::Unspecified);
    Some((reason, name))
}
