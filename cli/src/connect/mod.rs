//! Where the pair is, and who asks: from flags, the environment, or the directory of `aerostack dev`.

mod source;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use chassis::{channel::channel, dial::without_brackets};
use chassis::{
    telemetry::chain,
    tls::{self, Authorities, Identity, TlsError},
};
use http::uri::Authority;
use proto::Principal;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time};
use tokio_rustls::TlsConnector;
use tonic::{Response, Status, Streaming, transport::Channel};

use self::source::Source;
pub use self::source::{ConnectArgs, DEFAULT_DIR};
use crate::failure::{self, Failure, FailureKind};

/// How to reach the pair.
#[derive(Debug)]
pub struct Connection {
    source: Source,
    timeout: Duration,
}

impl Connection {
    /// Finds out where the pair is. Nothing is dialled, and no certificate read, before it is needed.
    pub fn find(args: &ConnectArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let source = Source::find(args, env)?;
        let timeout = parse_timeout(source.timeout.as_deref())?;
        Ok(Self { source, timeout })
    }

    /// The vault's gRPC.
    pub fn vault(&self) -> Result<Remote, Failure> {
        self.remote(
            "the vault",
            self.source.vault.as_deref().unwrap_or("127.0.0.1:7150"),
            self.source.vault_id.as_deref(),
        )
    }

    /// The injector's gRPC.
    pub fn injector(&self) -> Result<Remote, Failure> {
        self.remote(
            "the injector",
            self.source.injector.as_deref().unwrap_or("127.0.0.1:7151"),
            self.source.injector_id.as_deref(),
        )
    }

    /// The base URL of the data plane.
    pub fn data_plane(&self) -> String {
        match self.source.data_plane.as_deref() {
            None => "http://127.0.0.1:7100".to_owned(),
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(address) => format!("http://{address}"),
        }
    }

    /// Whether anything says where the data plane is.
    pub fn has_data_plane(&self) -> bool {
        self.source.data_plane.is_some()
    }

    /// The addresses of the probes of the vault and of the injector, as far as they are known.
    pub fn probes(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let read = |address: &Option<String>| address.as_deref()?.parse().ok();
        (
            read(&self.source.vault_metrics),
            read(&self.source.injector_metrics),
        )
    }

    /// The authorities that the services' certificates come from, if any were named.
    pub fn ca(&self) -> Option<&Path> {
        self.source.ca.as_deref()
    }

    /// The client's certificate, if one was named.
    pub fn cert(&self) -> Option<&Path> {
        self.source.cert.as_deref()
    }

    /// How long a service may take to answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn remote(&self, name: &'static str, address: &str, id: Option<&str>) -> Result<Remote, Failure> {
        let tls = self.tls(id)?;
        let wrong = |what: &dyn std::fmt::Display| {
            Failure::new(
                FailureKind::Configuration,
                format_args!("{name} on {address:?}: {what}"),
            )
            .hint("addresses are HOST:PORT, such as 127.0.0.1:7150")
        };
        let to = address
            .parse()
            .map_err(|_| wrong(&"this is no address of a service"))?;
        let channel = channel(&to, tls.clone()).map_err(|error| wrong(&error))?;
        Ok(Remote {
            name,
            address: address.to_owned(),
            tls,
            channel,
            timeout: self.timeout,
        })
    }

    fn tls(&self, id: Option<&str>) -> Result<Arc<ClientConfig>, Failure> {
        let Source { ca, cert, key, .. } = &self.source;
        let (Some(ca), Some(cert), Some(key)) = (ca, cert, key) else {
            let missing = [("--ca", ca), ("--cert", cert), ("--key", key)];
            let missing = missing.into_iter().filter(|(_, set)| set.is_none());
            let missing: Vec<&str> = missing.map(|(flag, _)| flag).collect();
            let message = format!("the connection is not configured: {} missing", missing.join(", "));
            return Err(Failure::new(FailureKind::Configuration, message).hint(
                "run this where `aerostack dev` runs, or give --dir, or these flags (environment: AEROSTACK_CA, \
                 AEROSTACK_CERT, AEROSTACK_KEY)",
            ));
        };
        let authorities = Authorities::load(ca).map_err(unusable)?;
        let identity = Identity::load(cert, key).map_err(unusable)?;
        let tls = match id {
            None => tls::grpc_client_by_host(identity, &authorities),
            Some(id) => {
                let id = Principal::parse(id).map_err(|error| {
                    Failure::new(FailureKind::Configuration, format_args!("{id:?}: {error}"))
                })?;
                tls::grpc_client(identity, &authorities, id)
            }
        };
        tls.map_err(unusable)
    }
}

fn unusable(error: TlsError) -> Failure {
    Failure::new(FailureKind::Configuration, chain(&error))
        .hint("--ca, --cert and --key name the files; `aerostack dev` and `aerostack init` make some")
}

fn parse_timeout(text: Option<&str>) -> Result<Duration, Failure> {
    let text = text.unwrap_or("10");
    text.trim_end_matches('s')
        .parse::<f64>()
        .ok()
        .filter(|seconds| (0.001..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format_args!("--timeout {text:?}: a number of seconds up to 86400 is needed"),
            )
        })
}

/// One of the services, to be called.
#[derive(Debug, Clone)]
pub struct Remote {
    name: &'static str,
    address: String,
    tls: Arc<ClientConfig>,
    /// Connects when it is first used.
    pub channel: Channel,
    timeout: Duration,
}

impl Remote {
    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for an answer, but not for ever.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status).await),
            Err(_) => Err(self.silent()),
        }
    }

    /// Waits for the next message of a stream, but not for ever.
    pub async fn next<T>(&self, stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
        match time::timeout(self.timeout, stream.message()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(status)) => Err(self.failed(&status).await),
            Err(_) => Err(self.silent()),
        }
    }

    /// Why a call was not answered.
    pub async fn failed(&self, status: &Status) -> Failure {
        let Self { name, address, .. } = self;
        let Some(cause) = failure::transport(status) else {
            return Failure::of_status(name, status);
        };
        // In TLS 1.3 a server looks at the client's certificate when the client believes the handshake done, and all
        // that the call then knows is that the connection has ended.
        let refused = match time::timeout(self.timeout, self.refused()).await {
            Ok(refused) => refused.map(|alert| alert.to_string()),
            Err(_) => None,
        };
        Failure::unreachable(name, address, &refused.unwrap_or(cause))
    }

    /// Whether the service ends a handshake as soon as it may say something.
    async fn refused(&self) -> Option<io::Error> {
        let authority: Authority = self.address.parse().ok()?;
        let host = without_brackets(authority.host()).to_owned();
        let tcp = TcpStream::connect((host.as_str(), authority.port_u16()?))
            .await
            .ok()?;
        let name = ServerName::try_from(host).ok()?;
        match TlsConnector::from(self.tls.clone()).connect(name, tcp).await {
            Ok(mut stream) => stream
                .read_u8()
                .await
                .err()
                .filter(|error| error.kind() == io::ErrorKind::InvalidData),
            Err(error) => Some(error),
        }
    }

    fn silent(&self) -> Failure {
        let Self {
            name,
            address,
            timeout,
            ..
        } = self;
        let seconds = timeout.as_secs_f64();
        let message = format!("{name} on {address} did not answer within {seconds} s");
        Failure::new(FailureKind::Unavailable, message)
            .hint("`aerostack status` asks each service; --timeout waits longer")
    }
}
