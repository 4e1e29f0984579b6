//! Calls of the API with the credentials of the pod's service account.
//!
//! The client reads the credentials and makes a connection for each call: calls are rare, and the kubelet replaces the token about
//! every hour.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;
use tokio::time;
use zeroize::Zeroizing;

use super::ApiError;
use crate::{
    dial::without_brackets,
    https_client::{Endpoint, ExchangeError, exchange},
    jwt::BearerToken,
    telemetry::chain,
    tls,
};

/// The directory in which the kubelet puts the credentials of a pod's service account.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Time limit of one call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Length limit of an answer in bytes. The store of Kubernetes takes objects of up to 1.5 MiB.
const MAX_ANSWER: usize = 4 << 20;

/// A client of the API.
#[derive(Debug, Clone)]
pub struct ApiClient {
    host: String,
    port: u16,
    service_account: PathBuf,
}

impl ApiClient {
    /// Makes a client of the cluster that this program runs in, which the environment names. `service_account` is the directory with
    /// `token` and `ca.crt`, usually [`SERVICE_ACCOUNT_DIR`].
    ///
    /// # Errors
    /// [`ApiError::NotInCluster`] outside of a cluster.
    pub fn in_cluster(service_account: &Path) -> Result<Self, ApiError> {
        let variable = |name| env::var(name).map_err(|_| ApiError::NotInCluster(name));
        let (host, port) = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT");
        Ok(Self {
            host: variable(host)?,
            port: variable(port)?
                .parse()
                .map_err(|_| ApiError::NotInCluster(port))?,
            service_account: service_account.to_owned(),
        })
    }

    #[cfg(test)]
    pub(super) fn at(port: u16, service_account: &Path) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            service_account: service_account.to_owned(),
        }
    }

    /// Returns the object at `path`.
    ///
    /// # Errors
    /// [`ApiError`]; a missing object is an error for which [`ApiError::is_not_found`] returns true.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, path, None).await
    }

    /// Makes an object in the collection at `path`.
    ///
    /// # Errors
    /// [`ApiError`]; [`ApiError::is_conflict`] returns true for the error of an object that exists.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::POST, path, Some(object)).await
    }

    /// Replaces the object at `path`.
    ///
    /// # Errors
    /// [`ApiError`]; [`ApiError::is_conflict`] returns true for the error of an object whose `resourceVersion` is not that of
    /// `object`.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::PUT, path, Some(object)).await
    }

    async fn call(&self, method: Method, path: &str, object: Option<&Value>) -> Result<Value, ApiError> {
        let called = time::timeout(TIMEOUT, self.exchange(&method, path, object));
        let (code, body) = called.await.unwrap_or(Err(ApiError::Timeout))?;
        let answer: Result<Value, _> = serde_json::from_slice(&body);
        if code.is_success() {
            return answer.map_err(|error| ApiError::Malformed(error.to_string()));
        }
        let message = answer
            .ok()
            .and_then(|status| Some(status.get("message")?.as_str()?.to_owned()));
        Err(ApiError::Refused {
            method,
            path: path.to_owned(),
            code,
            message: message.unwrap_or_else(|| "no message".to_owned()),
        })
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), ApiError> {
        let to = Endpoint {
            host: &self.host,
            port: self.port,
            tls: Some(self.tls()?),
        };
        let exchanged = exchange(to, self.request(method, path, object)?, MAX_ANSWER).await;
        let (code, body) = exchanged.map_err(|error| match error {
            ExchangeError::Connect(source) => ApiError::Unreachable {
                address: self.address(),
                source,
            },
            error @ (ExchangeError::Http(_) | ExchangeError::Body(_)) => ApiError::Malformed(chain(&error)),
        })?;
        Ok((code, Zeroizing::new(body.to_vec())))
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let body = object.map_or_else(Bytes::new, |object| object.to_string().into());
        let token = BearerToken::read(&self.service_account.join("token"))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address())
            .header(header::AUTHORIZATION, token.header())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "aerostack")
            .body(Full::new(body));
        request.map_err(|error| ApiError::Malformed(error.to_string()))
    }

    /// TLS 1.2 is allowed, because load balancers of some providers end TLS before the API.
    fn tls(&self) -> Result<Arc<ClientConfig>, ApiError> {
        let path = self.service_account.join("ca.crt");
        let pem = fs::read(&path).map_err(|source| ApiError::ServiceAccount {
            path: path.clone(),
            source,
        })?;
        let wrong = |problem: String| ApiError::ServiceAccount {
            path: path.clone(),
            source: io::Error::other(problem),
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("no certificate in PEM form was found".to_owned()));
        }
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Returns host and port as URLs have them: an IPv6 address is in brackets.
    fn address(&self) -> String {
        let host = without_brackets(&self.host);
        match host.contains(':') {
            true => format!("[{host}]:{}", self.port),
            false => format!("{host}:{}", self.port),
        }
    }
}
