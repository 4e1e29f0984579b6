//! The `healthcheck` command, which reads a probe page of the service on the same machine. Container engines and the kubelet run it
//! inside the image, which has neither a shell nor an HTTP client.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

use super::{settings::EXIT_USAGE, startup, telemetry::chain};

/// Time limit for the answer. A service that needs longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum size of the answer in bytes, more than any probe of these services sends.
const MAX_ANSWER: usize = 4096;

/// The page that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/readyz`: the service can do its work now.
    Readiness,
    /// `/startupz`: the service could do its work at least once.
    Startup,
    /// `/livez`: the service answers at all.
    Liveness,
}

impl Page {
    fn path(self) -> &'static str {
        match self {
            Self::Readiness => "/readyz",
            Self::Startup => "/startupz",
            Self::Liveness => "/livez",
        }
    }

    fn affirmative(self) -> &'static str {
        match self {
            Self::Readiness => "ready",
            Self::Startup => "started",
            Self::Liveness => "live",
        }
    }
}

/// The reason for which a service does not count as ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The connection failed.
    #[error("{0} does not answer")]
    Unreachable(SocketAddr, #[source] io::Error),
    /// The answer is not HTTP.
    #[error("{0} does not answer as a service does")]
    NotHttp(SocketAddr, #[source] hyper::Error),
    /// No answer came in time.
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
    /// The service answered that it is not ready.
    #[error("{0}")]
    Reported(String),
}

/// Reads `page` on `metrics_listen`, the address in the service's settings, and prints the result. Returns exit code 0
/// when the page says yes, else 1.
pub fn run(metrics_listen: &str, page: Page) -> ExitCode {
    let Ok(listen) = metrics_listen.parse() else {
        return startup::fail(
            EXIT_USAGE,
            format_args!("--metrics-listen: {metrics_listen:?} is not an address, such as 127.0.0.1:9051"),
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let readiness = match runtime {
        Ok(runtime) => runtime.block_on(check_page(listen, page, TIMEOUT)),
        Err(error) => return startup::fail(1, chain(&error)),
    };
    match readiness {
        Ok(()) => {
            // Standard output may be closed; the exit code is what counts.
            drop(writeln!(io::stdout(), "{}", page.affirmative()));
            ExitCode::SUCCESS
        }
        Err(error) => startup::fail(1, chain(&error)),
    }
}

/// Succeeds when the service whose probes listen on `listen` answers within `timeout` that it is ready.
pub async fn check(listen: SocketAddr, timeout: Duration) -> Result<(), NotReady> {
    check_page(listen, Page::Readiness, timeout).await
}

async fn check_page(listen: SocketAddr, page: Page, timeout: Duration) -> Result<(), NotReady> {
    let address = reachable(listen);
    time::timeout(timeout, read(address, page))
        .await
        .unwrap_or(Err(NotReady::Timeout(address)))
}

async fn read(address: SocketAddr, page: Page) -> Result<(), NotReady> {
    let not_http = |error| NotReady::NotHttp(address, error);
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| NotReady::Unreachable(address, error))?;
    let (mut probe, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(page.path());
    let host = header::HeaderValue::try_from(address.to_string());
    request.headers_mut().insert(
        header::HOST,
        host.expect("an address is digits, dots, colons and brackets"),
    );
    let response = probe.send_request(request).await.map_err(not_http)?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let reason = match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    Err(NotReady::Reported(if reason.is_empty() {
        format!("{address} answered {status}")
    } else {
        reason
    }))
}

/// Returns the address at which this machine reaches the listener: loopback for one that listens on all addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::registry::Registry;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::probe::{self, Probes};

    async fn probes(listen: &str, ready: Result<(), &'static str>) -> SocketAddr {
        probes_while_starting(listen, ready, Ok(())).await
    }

    async fn probes_while_starting(
        listen: &str,
        ready: Result<(), &'static str>,
        started: Result<(), &'static str>,
    ) -> SocketAddr {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let probes = Probes {
            metrics: Arc::new(Registry::default()),
            ready: Arc::new(move || ready.map_err(Into::into)),
            started: Some(Arc::new(move || started.map_err(Into::into))),
        };
        tokio::spawn(probe::serve(listener, probes, CancellationToken::new()));
        address
    }

    #[tokio::test]
    async fn a_ready_service_is_ready_on_every_address_that_it_listens_on() {
        for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let address = probes(listen, Ok(())).await;
            assert!(check(address, TIMEOUT).await.is_ok(), "{listen}");
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_ready_says_why() {
        let address = probes("127.0.0.1:0", Err("the vault does not answer")).await;
        let why = check(address, TIMEOUT).await.unwrap_err();
        assert_eq!(why.to_string(), "not ready: the vault does not answer");
    }

    #[tokio::test]
    async fn the_startup_page_is_another_one_than_readiness() {
        let starting = probes_while_starting("127.0.0.1:0", Ok(()), Err("a server cannot be used yet")).await;
        assert!(check_page(starting, Page::Readiness, TIMEOUT).await.is_ok());
        let why = check_page(starting, Page::Startup, TIMEOUT).await.unwrap_err();
        assert_eq!(why.to_string(), "not started: a server cannot be used yet");
        let started = probes_while_starting("127.0.0.1:0", Err("the vault is away"), Ok(())).await;
        assert!(check_page(started, Page::Startup, TIMEOUT).await.is_ok());
        assert!(check_page(started, Page::Readiness, TIMEOUT).await.is_err());
    }

    #[tokio::test]
    async fn a_service_that_is_not_ready_is_live() {
        let address = probes_while_starting("127.0.0.1:0", Err("the vault is away"), Err("starting")).await;
        assert!(check_page(address, Page::Liveness, TIMEOUT).await.is_ok());
        assert!(check_page(address, Page::Readiness, TIMEOUT).await.is_err());
    }

    #[tokio::test]
    async fn a_closed_port_is_not_ready_and_a_wildcard_address_is_checked_on_loopback() {
        for (listen, here) in [
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::]:0", "[::1]"),
            ("127.0.0.1:0", "127.0.0.1"),
        ] {
            let free = TcpListener::bind(listen).await.unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let why = check(address, TIMEOUT).await.unwrap_err();
            let expected = format!("{here}:{} does not answer", address.port());
            assert_eq!(why.to_string(), expected, "{listen}");
        }
    }

    #[tokio::test]
    async fn a_service_that_hangs_is_not_ready() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        assert!(
            matches!(check(address, Duration::from_millis(20)).await, Err(NotReady::Timeout(late)) if late == address)
        );
    }

    #[tokio::test]
    async fn a_port_that_does_not_speak_http_is_not_ready() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = other.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 smtp\r\n")
                .await
                .unwrap();
        });
        assert!(matches!(
            check(address, TIMEOUT).await,
            Err(NotReady::NotHttp(..))
        ));
    }
}
