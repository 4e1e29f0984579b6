//! `healthcheck`: asks the service beside it whether it is ready, for container engines, whose images have no shell and
//! no HTTP client.

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

use super::{process, settings::EXIT_USAGE, telemetry::chain};

/// How long the answer may take: what needs longer is not ready.
const PATIENCE: Duration = Duration::from_secs(3);

/// More than any of our probes says.
const LONGEST_ANSWER: usize = 4096;

/// Why a service is not taken for ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// There is nobody.
    #[error("{0} does not answer")]
    Unreachable(SocketAddr, #[source] io::Error),
    /// There is somebody, who does not speak HTTP.
    #[error("{0} does not answer as a service does")]
    NotHttp(SocketAddr, #[source] hyper::Error),
    /// The answer did not come.
    #[error("{0} did not answer in time")]
    Late(SocketAddr),
    /// The service itself says so.
    #[error("{0}")]
    Said(String),
}

/// Asks `/readyz` on `metrics_listen`, the address that the service was told, and says what came of it: exit code 0 when
/// the service is ready, else 1 and one line.
pub fn run(metrics_listen: &str) -> ExitCode {
    let Ok(listen) = metrics_listen.parse() else {
        return process::fail(
            EXIT_USAGE,
            format_args!("--metrics-listen: {metrics_listen:?} is not an address, such as 127.0.0.1:9051"),
        );
    };
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = match asked {
        Ok(runtime) => runtime.block_on(ask(listen, PATIENCE)),
        Err(error) => return process::fail(1, chain(&error)),
    };
    match asked {
        Ok(()) => {
            // Nobody has to read it.
            drop(writeln!(io::stdout(), "ready"));
            ExitCode::SUCCESS
        }
        Err(error) => process::fail(1, chain(&error)),
    }
}

/// Whether the service whose probes listen on `listen` is ready, and says so in time.
pub async fn ask(listen: SocketAddr, patience: Duration) -> Result<(), NotReady> {
    let address = within_this_machine(listen);
    time::timeout(patience, readyz(address))
        .await
        .unwrap_or(Err(NotReady::Late(address)))
}

async fn readyz(address: SocketAddr) -> Result<(), NotReady> {
    let not_http = |error| NotReady::NotHttp(address, error);
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| NotReady::Unreachable(address, error))?;
    let (mut probe, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/readyz");
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
    let said = match Limited::new(response.into_body(), LONGEST_ANSWER).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    Err(NotReady::Said(if said.is_empty() {
        format!("{address} answered {status}")
    } else {
        said
    }))
}

/// What listens everywhere is asked on loopback.
fn within_this_machine(listen: SocketAddr) -> SocketAddr {
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
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let probes = Probes {
            metrics: Arc::new(Registry::default()),
            ready: Arc::new(move || ready.map_err(Into::into)),
        };
        tokio::spawn(probe::serve(listener, probes, CancellationToken::new()));
        address
    }

    #[tokio::test]
    async fn a_ready_service_is_found_so_wherever_it_listens() {
        for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let address = probes(listen, Ok(())).await;
            assert!(ask(address, PATIENCE).await.is_ok(), "{listen}");
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_ready_says_why() {
        let address = probes("127.0.0.1:0", Err("the vault does not answer")).await;
        let why = ask(address, PATIENCE).await.unwrap_err();
        assert_eq!(why.to_string(), "not ready: the vault does not answer");
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready_and_what_listens_everywhere_is_looked_for_here() {
        for (listen, here) in [
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::]:0", "[::1]"),
            ("127.0.0.1:0", "127.0.0.1"),
        ] {
            let free = TcpListener::bind(listen).await.unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let why = ask(address, PATIENCE).await.unwrap_err();
            let expected = format!("{here}:{} does not answer", address.port());
            assert_eq!(why.to_string(), expected, "{listen}");
        }
    }

    #[tokio::test]
    async fn a_service_that_hangs_is_not_ready() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        assert!(
            matches!(ask(address, Duration::from_millis(20)).await, Err(NotReady::Late(asked)) if asked == address)
        );
    }

    #[tokio::test]
    async fn what_does_not_speak_http_is_not_ready() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = other.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 smtp\r\n")
                .await
                .unwrap();
        });
        assert!(matches!(ask(address, PATIENCE).await, Err(NotReady::NotHttp(..))));
    }
}
