//! A stand-in for an issuer of tokens, such as the API server of Kubernetes: OpenID Connect discovery and a key set over HTTPS.

#[path = "../../chassis/src/jwt/test_keys.rs"]
mod test_keys;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use chassis::tls::{self, Identity};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

pub use test_keys::TestKey;

use crate::{Pki, Seen, Upstream, pki::Files};

/// The audience of the services of the tests.
pub const AUDIENCE: &str = "aerostack-vault";

/// A running issuer. Clones share it.
#[derive(Clone)]
pub struct TokenIssuer {
    upstream: Upstream,
    ca: std::path::PathBuf,
    state: Arc<Mutex<IssuerState>>,
}

struct IssuerState {
    /// The published keys with their ids. The last one signs.
    keys: Vec<(String, Arc<TestKey>)>,
    is_down: bool,
    /// The `issuer` of the discovery document, when it is not the URL.
    other_name: Option<String>,
    /// The bearer token that readers need.
    reader: Option<String>,
}

impl TokenIssuer {
    /// Starts an issuer with the key `first`, whose certificate comes from `pki`.
    pub async fn start(pki: &Pki) -> Self {
        let Files { cert, key } = pki.principal("spiffe://test/issuer");
        let config = tls::http_server(Identity::load(&cert, &key).unwrap(), None).unwrap();
        let state = Arc::new(Mutex::new(IssuerState {
            keys: vec![("first".to_owned(), Arc::new(TestKey::rsa()))],
            is_down: false,
            other_name: None,
            reader: None,
        }));
        let answering = state.clone();
        let upstream =
            Upstream::tls_answering(config, move |seen| answer(&answering.lock().unwrap(), seen)).await;
        Self {
            upstream,
            ca: pki.ca_file(),
            state,
        }
    }

    /// Returns the text of `iss`.
    pub fn url(&self) -> String {
        self.upstream.url()
    }

    /// Returns a setting `--jwt-issuer` with the name `kubernetes`.
    pub fn setting(&self) -> String {
        format!(
            "{}={AUDIENCE},name=kubernetes,ca={}",
            self.url(),
            self.ca.display()
        )
    }

    /// Publishes another key beside the present ones, which signs from now on.
    pub fn add_key(&self, kid: &str) {
        let key = Arc::new(TestKey::p256());
        self.state.lock().unwrap().keys.push((kid.to_owned(), key));
    }

    /// Withdraws all keys but the one that signs.
    pub fn withdraw_old_keys(&self) {
        let keys = &mut self.state.lock().unwrap().keys;
        keys.drain(..keys.len() - 1);
    }

    /// Answers with errors, or works again.
    pub fn set_down(&self, is_down: bool) {
        self.state.lock().unwrap().is_down = is_down;
    }

    /// Publishes a discovery document of another issuer.
    pub fn set_name(&self, name: &str) {
        self.state.lock().unwrap().other_name = Some(name.to_owned());
    }

    /// Answers only readers with this bearer token.
    pub fn require(&self, reader: &str) {
        self.state.lock().unwrap().reader = Some(reader.to_owned());
    }

    /// Returns the number of reads of the key set, failed ones included.
    pub fn reads(&self) -> usize {
        let seen = self.upstream.seen();
        seen.iter().filter(|seen| seen.target == "/keys").count()
    }

    /// Returns a token for a subject that is valid for `life` from now on.
    pub fn token(&self, subject: &str, life: Duration) -> String {
        self.sign(&self.claims(subject, life))
    }

    /// Returns the claims of a token.
    pub fn claims(&self, subject: &str, life: Duration) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        json!({
            "iss": self.url(),
            "sub": subject,
            "aud": [AUDIENCE, "another"],
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": (now + life).as_secs(),
        })
    }

    /// Returns a token with any claims.
    pub fn sign(&self, claims: &Value) -> String {
        let (kid, key) = self.signing_key();
        key.token(&kid, claims)
    }

    /// Returns the key that signs, and its id.
    pub fn signing_key(&self) -> (String, Arc<TestKey>) {
        self.state.lock().unwrap().keys.last().unwrap().clone()
    }
}

/// Replaces a file as Kubernetes does with a projected token: readers see the old or the new content, and no part of it.
pub fn replace_file(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn answer(state: &IssuerState, seen: &Seen) -> Response<Full<Bytes>> {
    let status = |status: StatusCode, body: String| {
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response
    };
    let reader = seen.header("authorization").map(ToOwned::to_owned);
    if state.is_down {
        return status(StatusCode::SERVICE_UNAVAILABLE, String::new());
    }
    if state.reader.is_some() && reader != state.reader.as_ref().map(|token| format!("Bearer {token}")) {
        return status(StatusCode::UNAUTHORIZED, String::new());
    }
    let url = format!("https://{}", seen.host);
    match seen.target.as_str() {
        "/.well-known/openid-configuration" => {
            let issuer = state.other_name.as_ref().unwrap_or(&url);
            let document = json!({"issuer": issuer, "jwks_uri": format!("{url}/keys")});
            status(StatusCode::OK, document.to_string())
        }
        "/keys" => {
            let keys: Vec<_> = state.keys.iter().map(|(kid, key)| key.jwk(kid)).collect();
            status(StatusCode::OK, json!({ "keys": keys }).to_string())
        }
        _ => status(StatusCode::NOT_FOUND, String::new()),
    }
}
