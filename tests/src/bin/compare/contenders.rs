//! The compared proxies. All of their processes run for the whole benchmark, and get the load in turn.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use crate::{
    Failure,
    endpoints::CHECK,
    envoy::Envoy,
    h2load::{Http, Target},
    process::{Process, free_address, truncate},
    services::{Injector, Placement, TOKEN, Vault, WORKSPACE, server_name},
};

/// A path that a call takes from the load generator to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Direct,
    Forwarder,
    Envoy,
    Ours(Placement),
}

impl Contender {
    pub(crate) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Forwarder,
        Self::Envoy,
        Self::Ours(Placement::Bearer),
        Self::Ours(Placement::Unscrubbed),
        Self::Ours(Placement::Three),
        Self::Ours(Placement::Body),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Forwarder => "bare hyper forwarder",
            Self::Envoy => "Envoy, one secret kept in memory",
            Self::Ours(Placement::Bearer) => "injector + vault, one secret decrypted per call",
            Self::Ours(Placement::Unscrubbed) => "injector + vault, one secret, `scrub: off`",
            Self::Ours(Placement::Three) => "injector + vault, three secrets",
            Self::Ours(Placement::Body) => "injector + vault, one secret into the JSON body",
        }
    }
}

/// The body of each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    Small,
    Large,
    Grpc,
}

impl Payload {
    /// Writes the payload to a file, from which h2load reads it, and returns the path of the file.
    pub(crate) fn file(self, scratch: &Path) -> Result<PathBuf, Failure> {
        let (name, bytes) = match self {
            Self::Small => ("small", json_of(200)),
            Self::Large => ("large", json_of(16 * 1024)),
            // A gRPC frame with a message of 200 bytes, which has one string in field 1.
            Self::Grpc => {
                let message = [b"\x0a\xc5\x01".as_slice(), &[b'x'; 197]].concat();
                ("grpc", [&[0, 0, 0, 0, 200], message.as_slice()].concat())
            }
        };
        let path = scratch.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    pub(crate) fn headers(self) -> Vec<String> {
        let headers: &[&str] = match self {
            Self::Small | Self::Large => &["content-type: application/json"],
            Self::Grpc => &["content-type: application/grpc", "te: trailers"],
        };
        headers.iter().map(|&header| header.to_owned()).collect()
    }
}

/// Returns a JSON object of `length` bytes.
fn json_of(length: usize) -> Vec<u8> {
    let frame = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"text":""}}"#;
    let (front, back) = frame.split_at(frame.len() - r#""}}"#.len());
    [front, &"x".repeat(length - frame.len()), back]
        .concat()
        .into_bytes()
}

/// The running processes of the upstream and of all contenders.
pub(crate) struct Testbed {
    upstream: (Process, SocketAddr),
    to_http1: (Process, SocketAddr),
    to_http2: (Process, SocketAddr),
    envoy: Envoy,
    vault: Vault,
    injector: Injector,
}

impl Testbed {
    pub(crate) async fn start(bin_dir: &Path, peers: &Path, scratch: &Path) -> Result<Self, Failure> {
        let upstream = upstream(scratch).await?;
        let to_http1 = forwarder(scratch, upstream.1, Http::One).await?;
        let to_http2 = forwarder(scratch, upstream.1, Http::Two).await?;
        let envoy = Envoy::start(peers, scratch, "envoy", upstream.1).await?;
        let vault = Vault::start(bin_dir, scratch, "vault").await?;
        vault.put_servers_secrets().await?;
        let injector = Injector::start(bin_dir, scratch, "injector", &vault, upstream.1).await?;
        let testbed = Self {
            upstream,
            to_http1,
            to_http2,
            envoy,
            vault,
            injector,
        };
        for contender in Contender::ALL {
            for http in Http::BOTH {
                testbed.check(contender, http).await?;
            }
        }
        Ok(testbed)
    }

    /// Returns the URL, headers and processes of `contender`, for calls that reach the upstream over `http`.
    pub(crate) fn target(&self, contender: Contender, http: Http, payload: Payload) -> Target {
        let forwarder = match http {
            Http::One => &self.to_http1,
            Http::Two => &self.to_http2,
        };
        let mut path = match payload {
            Payload::Small | Payload::Large => "/".to_owned(),
            Payload::Grpc => "/bench.v1.Echo/Unary".to_owned(),
        };
        let mut headers = Vec::new();
        let (address, processes) = match contender {
            Contender::Direct => (self.upstream.1, Vec::new()),
            Contender::Forwarder => (forwarder.1, vec![forwarder.0.id()]),
            Contender::Envoy => (self.envoy.address(http), vec![self.envoy.process.id()]),
            Contender::Ours(placement) => {
                let server = server_name(placement, http);
                // A gRPC path names only the method, so metadata names the injector's server.
                if payload == Payload::Grpc {
                    headers.push(format!("x-aerostack-workspace: {WORKSPACE}"));
                    headers.push(format!("x-aerostack-server: {server}"));
                } else {
                    path = format!("/{WORKSPACE}/{server}{path}");
                }
                let processes = vec![self.injector.process.id(), self.vault.process.id()];
                (self.injector.data_plane, processes)
            }
        };
        Target {
            urls: vec![format!("http://{address}{path}")],
            headers,
            processes,
        }
    }

    /// Empties the access logs, which otherwise fill the disk.
    pub(crate) fn empty_logs(&self) -> Result<(), Failure> {
        truncate(&self.envoy.log)?;
        truncate(&self.injector.log)
    }

    /// Makes one call and counts the secrets that arrive at the upstream, so that the benchmark never measures a
    /// contender that does not inject.
    async fn check(&self, contender: Contender, http: Http) -> Result<(), Failure> {
        let target = self.target(contender, http, Payload::Small);
        let url = target.urls.first().ok_or("no URL")?;
        let request = Request::post(format!("{}{CHECK}", url.trim_end_matches('/')))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(b"{}")))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client
            .request(request)
            .await?
            .into_body()
            .collect()
            .await?
            .to_bytes();
        let seen = String::from_utf8_lossy(&answer);
        let injected = seen.matches(TOKEN).count();
        let expected = match contender {
            Contender::Direct | Contender::Forwarder => 0,
            Contender::Envoy
            | Contender::Ours(Placement::Bearer | Placement::Unscrubbed | Placement::Body) => 1,
            Contender::Ours(Placement::Three) => 3,
        };
        // The upstream prints injected headers in full, because the mark that hides a sensitive header is not sent over
        // the network.
        if injected == expected {
            Ok(())
        } else {
            let name = contender.name();
            Err(format!("{name} injected {injected} secrets instead of {expected}:\n{seen}").into())
        }
    }
}

pub(crate) async fn upstream(scratch: &Path) -> Result<(Process, SocketAddr), Failure> {
    let address = free_address()?;
    let arguments = ["upstream".to_owned(), address.to_string()];
    let mut process = Process::start_role("the upstream", arguments, &scratch.join("upstream.log"))?;
    process.wait_until_listening(address).await?;
    Ok((process, address))
}

async fn forwarder(scratch: &Path, to: SocketAddr, http: Http) -> Result<(Process, SocketAddr), Failure> {
    let address = free_address()?;
    let mut arguments = vec!["forwarder".to_owned(), address.to_string(), to.to_string()];
    if http == Http::Two {
        arguments.push("--http2".to_owned());
    }
    let log = scratch.join(format!("forwarder-{}.log", arguments.len()));
    let mut process = Process::start_role("the forwarder", arguments, &log)?;
    process.wait_until_listening(address).await?;
    Ok((process, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_just_their_size() {
        for length in [200, 16 * 1024] {
            let body = json_of(length);
            assert_eq!(body.len(), length);
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        }
    }
}
