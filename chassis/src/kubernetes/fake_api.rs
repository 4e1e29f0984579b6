//! An API server for tests: objects in memory, with the conflicts of `resourceVersion`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::ApiClient;
use crate::{
    pki::{Ca, CaSpec, Leaf, issue},
    tls,
};

pub(super) const TOKEN: &str = "token-of-the-service-account";

#[derive(Default)]
pub(super) struct FakeState {
    pub(super) objects: BTreeMap<String, Value>,
    /// The method and the path of each call.
    pub(super) calls: Vec<String>,
    /// Number of writes before which somebody else changes the object.
    pub(super) rivals: usize,
    version: u64,
}

pub(super) struct FakeApi {
    pub(super) state: Arc<Mutex<FakeState>>,
    pub(super) service_account: TempDir,
    pub(super) port: u16,
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        let now = SystemTime::now();
        let ca = Ca::generate(&CaSpec::for_any_name(now)).unwrap();
        let leaf = issue(&ca, &Leaf::server("api", now)).unwrap();
        let service_account = TempDir::new().unwrap();
        fs::write(service_account.path().join("ca.crt"), ca.cert_pem()).unwrap();
        fs::write(service_account.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<FakeState>>::default();
        tokio::spawn(serve(listener, Arc::new(config).into(), state.clone()));
        Self {
            state,
            service_account,
            port,
        }
    }

    pub(super) fn client(&self) -> ApiClient {
        ApiClient::at(self.port, self.service_account.path())
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        let mut state = self.state.lock().unwrap();
        let object = state.versioned(object);
        state.objects.insert(path.to_owned(), object);
    }

    pub(super) fn object(&self, path: &str) -> Value {
        self.state.lock().unwrap().objects[path].clone()
    }

    /// Returns the writes so far, and forgets all calls.
    pub(super) fn writes(&self) -> Vec<String> {
        let calls = std::mem::take(&mut self.state.lock().unwrap().calls);
        calls
            .into_iter()
            .filter(|call| !call.starts_with("GET "))
            .collect()
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<Mutex<FakeState>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            // Fails when a test refuses the certificate.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let answer = service_fn(move |request| answer(request, state.clone()));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<FakeState>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let allowed = head.headers.get(header::AUTHORIZATION).unwrap() == &format!("Bearer {TOKEN}");
    let (code, object) = if allowed {
        state.lock().unwrap().answer(&head.method, head.uri.path(), &body)
    } else {
        (StatusCode::UNAUTHORIZED, json!({"message": "Unauthorized"}))
    };
    let mut response = Response::new(Full::new(object.to_string().into()));
    *response.status_mut() = code;
    Ok(response)
}

impl FakeState {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        self.calls.push(format!("{method} {path}"));
        if *method == Method::GET {
            return match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => (StatusCode::NOT_FOUND, json!({"message": "not found"})),
            };
        }
        let object: Value = serde_json::from_slice(body).unwrap();
        let path = match *method == Method::POST {
            true => format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()),
            false => path.to_owned(),
        };
        if let Some(left) = self.rivals.checked_sub(1) {
            self.rivals = left;
            if let Some(found) = self.objects.get(&path).cloned() {
                let changed = self.versioned(found);
                self.objects.insert(path.clone(), changed);
            }
        }
        let found = self.objects.get(&path);
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let conflict = (
            StatusCode::CONFLICT,
            json!({"message": "the object has been modified"}),
        );
        match (method, found) {
            (&Method::POST, Some(_)) => return conflict,
            (&Method::PUT, None) => return (StatusCode::NOT_FOUND, json!({"message": "not found"})),
            (&Method::PUT, Some(found)) if version(found) != version(&object) => return conflict,
            _ => {}
        }
        let object = self.versioned(object);
        self.objects.insert(path, object.clone());
        (StatusCode::OK, object)
    }

    fn versioned(&mut self, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object
    }
}
