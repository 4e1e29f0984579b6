//! One request over HTTP/1.1, on a connection of its own.

use std::{io, sync::Arc};

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::lookup_host,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use crate::{
    dial::{Dialer, without_brackets},
    keepalive::TcpTimeout,
};

/// A server.
pub(crate) struct Endpoint<'a> {
    /// A name or an IP address. An IPv6 address may be in brackets.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// `None` for a server without TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// The exchange of a request and its answer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("no connection could be made")]
    Connect(#[source] io::Error),
    #[error("the answer is not HTTP")]
    Http(#[source] hyper::Error),
    /// The status came, and not the whole body.
    #[error("the answer is too long, or broke off")]
    Body(StatusCode),
}

/// Sends a request, and returns the status and the body of the answer, which has at most `max_body` bytes. A redirect is an answer
/// like any other. Sets no time limit.
pub(crate) async fn exchange(
    to: Endpoint<'_>,
    request: Request<Full<Bytes>>,
    max_body: usize,
) -> Result<(StatusCode, Bytes), ExchangeError> {
    let host = without_brackets(to.host).to_owned();
    let addresses = lookup_host((host.as_str(), to.port)).await;
    let addresses: Vec<_> = addresses.map_err(ExchangeError::Connect)?.collect();
    let stream = Dialer::new(TcpTimeout::default()).connect(&addresses).await;
    let stream = stream.map_err(ExchangeError::Connect)?;
    let Some(tls) = to.tls else {
        return exchange_over(stream, request, max_body).await;
    };
    let name = ServerName::try_from(host)
        .map_err(|error| ExchangeError::Connect(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    exchange_over(stream.map_err(ExchangeError::Connect)?, request, max_body).await
}

async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    max_body: usize,
) -> Result<(StatusCode, Bytes), ExchangeError> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(ExchangeError::Http)?;
    let _connection = AbortOnDrop(tokio::spawn(async { drop(connection.await) }));
    let answer = sender.send_request(request).await.map_err(ExchangeError::Http)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), max_body).collect().await;
    Ok((status, body.map_err(|_| ExchangeError::Body(status))?.to_bytes()))
}

/// Ends the connection when the answer has been read, or is given up.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
