//! Runs OpenBao with secrets in its KV store and a transit key.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::time;

use crate::{
    Failure,
    h2load::{Http, Load, Target},
    process::{Process, free_address},
    services::{TOKEN, secret_name},
};

/// Number of concurrent puts while the store is filled.
const AT_ONCE: usize = 64;

/// A running OpenBao with raft storage, without TLS and without an audit device.
pub(crate) struct OpenBao {
    pub(crate) process: Process,
    address: SocketAddr,
    token: String,
    client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) dir: PathBuf,
    filled: u32,
}

impl OpenBao {
    /// Starts OpenBao and puts `secrets` secrets.
    pub(crate) async fn start(peers: &Path, scratch: &Path, secrets: u32) -> Result<Self, Failure> {
        let dir = scratch.join("openbao");
        fs::create_dir_all(dir.join("raft"))?;
        let (address, cluster) = (free_address()?, free_address()?);
        let config = json!({
            "storage": {"raft": {"path": dir.join("raft"), "node_id": "one"}},
            "listener": {"tcp": {"address": address, "tls_disable": true}},
            "api_addr": format!("http://{address}"),
            "cluster_addr": format!("http://{cluster}"),
            "log_level": "warn",
        });
        let file = dir.join("config.json");
        fs::write(&file, config.to_string())?;
        let arguments = ["server".as_ref(), "-config".as_ref(), file.as_os_str()];
        let mut process = Process::start("openbao", &peers.join("bao"), arguments, &dir.join("log"))?;
        process.wait_until_listening(address).await?;
        let mut openbao = Self {
            process,
            address,
            token: String::new(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            dir,
            filled: 0,
        };
        openbao.unseal().await?;
        openbao.mount().await?;
        openbao.fill(secrets).await?;
        Ok(openbao)
    }

    async fn unseal(&mut self) -> Result<(), Failure> {
        let shares = json!({"secret_shares": 1, "secret_threshold": 1});
        let made = self.call(Method::PUT, "sys/init", &shares).await?;
        let text = |pointer| made.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        self.token = text("/root_token").to_owned();
        let key = json!({"key": text("/keys/0")});
        self.call(Method::PUT, "sys/unseal", &key).await?;
        for _ in 0..500 {
            let leader = self.call(Method::GET, "sys/leader", &Value::Null).await?;
            if leader.get("is_self").and_then(Value::as_bool) == Some(true) {
                return Ok(());
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        Err("OpenBao did not become active".into())
    }

    /// Puts secrets until OpenBao holds `count`.
    pub(crate) async fn fill(&mut self, count: u32) -> Result<(), Failure> {
        let body = json!({"data": {"value": TOKEN}}).to_string();
        fs::write(self.put_body_path(), &body)?;
        let path = |number| format!("kv/data/{}", secret_name(number));
        let body = serde_json::from_str(&body)?;
        let numbers = self.filled..count;
        if let Some(first) = numbers.clone().next() {
            self.retry_until_ready(&path(first), &body).await?;
        }
        let puts = stream::iter(numbers.skip(1))
            .map(|number| {
                let (this, body) = (&*self, &body);
                async move { this.call(Method::POST, &path(number), body).await }
            })
            .buffer_unordered(AT_ONCE);
        puts.try_for_each(|_| future::ready(Ok(()))).await?;
        self.filled = self.filled.max(count);
        Ok(())
    }

    async fn mount(&self) -> Result<(), Failure> {
        let kv = json!({"type": "kv", "options": {"version": "2"}});
        self.retry_until_ready("sys/mounts/kv", &kv).await?;
        self.retry_until_ready("sys/mounts/transit", &json!({"type": "transit"}))
            .await?;
        self.retry_until_ready("transit/keys/bench", &json!({})).await?;
        // The transit engine takes base64; this value is `TOKEN`.
        let plaintext = json!({"plaintext": "YmVuY2gtNWU0YjFmMGM5YTdkMzgyNmJjNDFmN2UwOWQ1YThjNjM="});
        let made = self
            .retry_until_ready("transit/encrypt/bench", &plaintext)
            .await?;
        let ciphertext = json!({"ciphertext": made.pointer("/data/ciphertext")});
        Ok(fs::write(self.ciphertext_path(), ciphertext.to_string())?)
    }

    /// The file with the request body for transit decryption.
    fn ciphertext_path(&self) -> PathBuf {
        self.dir.join("ciphertext")
    }

    /// The file with the request body for a put.
    fn put_body_path(&self) -> PathBuf {
        self.dir.join("body")
    }

    /// Repeats a call for up to 5 seconds, because a new mount or key takes a moment until OpenBao can use it.
    async fn retry_until_ready(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let mut answer = self.call(Method::POST, path, body).await;
        for _ in 0..100 {
            if answer.is_ok() {
                break;
            }
            time::sleep(Duration::from_millis(50)).await;
            answer = self.call(Method::POST, path, body).await;
        }
        answer
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(self.url(path))
            .header("x-vault-token", &self.token)
            .body(Full::new(Bytes::from(body.to_string())))?;
        let answer = self.client.request(request).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(format!("OpenBao, {path}: {status} {}", String::from_utf8_lossy(&bytes)).into());
        }
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v1/{path}", self.address)
    }

    /// Returns a load of KV reads.
    pub(crate) fn reads(&self, secrets: u32) -> (Load, Target) {
        (self.load(None), self.target(self.urls(secrets)))
    }

    /// Returns a load of KV writes, which put new versions of existing secrets, by `writers` concurrent writers.
    pub(crate) fn puts(&self, secrets: u32, writers: u32) -> (Load, Target) {
        let load = Load {
            connections: writers,
            ..self.load(Some(self.put_body_path()))
        };
        (load, self.target(self.urls(secrets)))
    }

    /// Returns the URLs of about `secrets` secrets, evenly spread over all secrets.
    fn urls(&self, secrets: u32) -> Vec<String> {
        let step = usize::try_from(self.filled / secrets.max(1))
            .unwrap_or_default()
            .max(1);
        let numbers = (0..self.filled).step_by(step);
        numbers
            .map(|number| self.url(&format!("kv/data/{}", secret_name(number))))
            .collect()
    }

    /// Returns a load of transit decryptions.
    pub(crate) fn decrypts(&self) -> (Load, Target) {
        let load = self.load(Some(self.ciphertext_path()));
        (load, self.target(vec![self.url("transit/decrypt/bench")]))
    }

    fn load(&self, body: Option<PathBuf>) -> Load {
        Load {
            http: Http::One,
            connections: Http::One.connections(),
            body,
            headers: vec![format!("x-vault-token: {}", self.token)],
        }
    }

    fn target(&self, urls: Vec<String>) -> Target {
        Target {
            urls,
            headers: Vec::new(),
            processes: vec![self.process.id()],
        }
    }
}
