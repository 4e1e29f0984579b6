//! Reads of an issuer's documents over HTTPS.

use std::{io, path::Path, sync::Arc, time::Duration};

use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time;

use super::{bearer::BearerToken, key_set::MAX_KEY_SET};
use crate::{
    blocking::blocking,
    https_client::{Endpoint, ExchangeError, exchange},
    tls,
};

/// Time limit for one document, from the resolution of the host's name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A document could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("it did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("no connection could be made")]
    Connect(#[source] io::Error),
    #[error("the CAs could not be read: {0}")]
    Authorities(String),
    #[error("the answer is not HTTP")]
    Http(#[source] hyper::Error),
    #[error("the answer is longer than {} KiB, or broke off", MAX_KEY_SET / 1024)]
    Body,
    #[error("it answered {0}")]
    Status(StatusCode),
}

/// Returns the body of the document at `url`, whose scheme is `https` or `http`. A redirect is an error like any other status.
pub(super) async fn fetch(
    url: &Uri,
    ca: Option<&Path>,
    token: Option<&BearerToken>,
) -> Result<Bytes, FetchError> {
    let reading = async {
        let (default_port, tls) = match url.scheme_str() {
            Some("http") => (80, None),
            _ => (443, Some(client_config(ca).await?)),
        };
        let to = Endpoint {
            host: url.host().unwrap_or_default(),
            port: url.port_u16().unwrap_or(default_port),
            tls,
        };
        match exchange(to, request(url, token), MAX_KEY_SET).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(FetchError::Status(status)),
        }
    };
    time::timeout(TIMEOUT, reading)
        .await
        .unwrap_or(Err(FetchError::Timeout))
}

impl From<ExchangeError> for FetchError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Connect(source) => Self::Connect(source),
            ExchangeError::Http(source) => Self::Http(source),
            ExchangeError::Body(StatusCode::OK) => Self::Body,
            ExchangeError::Body(status) => Self::Status(status),
        }
    }
}

fn request(url: &Uri, token: Option<&BearerToken>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, token.header());
    }
    request
}

/// Reads the CAs anew for each document, so that a renewed file counts from then on.
async fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, FetchError> {
    let ca = ca.map(ToOwned::to_owned);
    let roots = blocking(move || roots(ca.as_deref())).await?;
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Authorities(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, FetchError> {
    let mut roots = RootCertStore::empty();
    let certificates = match ca {
        None => rustls_native_certs::load_native_certs().certs,
        Some(path) => {
            let wrong = |error: String| FetchError::Authorities(format!("{}: {error}", path.display()));
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|error| wrong(error.to_string()))?
        }
    };
    roots.add_parsable_certificates(certificates);
    match roots.is_empty() {
        true => Err(FetchError::Authorities("there is none".to_owned())),
        false => Ok(roots),
    }
}
