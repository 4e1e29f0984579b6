//! A running console for users with client certificates, and a browser with such a certificate.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aerostack::pki::{Ca, CaSpec, Issued, Leaf, Usage, issue};
use chassis::tls::provider;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    browser::{Answer, between, command},
    support::dev::Dev,
};

pub(crate) const ALICE: &str = "spiffe://test/alice";
pub(crate) const BOB: &str = "spiffe://test/bob";

/// A certificate authority, and a directory for what it issues.
pub(crate) struct TestAuthority {
    pub(crate) ca: Ca,
    pub(crate) home: TempDir,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let ca = Ca::generate(&CaSpec::for_any_name(SystemTime::now())).unwrap();
        fs::write(home.path().join("ca.pem"), ca.cert_pem()).unwrap();
        let authority = Self { ca, home };
        let server = authority.issue(&Leaf::server("console", SystemTime::now()));
        let key = authority.path("key.pem");
        fs::write(authority.path("cert.pem"), &server.cert_pem).unwrap();
        fs::write(&key, server.key_pem.as_bytes()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        issue(&self.ca, leaf).unwrap()
    }

    pub(crate) fn user(&self, principal: &str) -> Issued {
        self.issue(&Leaf::new("user", principal, &[Usage::Client], SystemTime::now()))
    }

    /// Returns the command of a console that serves with a certificate of this authority, and admits its users.
    pub(crate) fn console(&self, dir: &Path, listen: &str, users: &[&str]) -> Command {
        let mut command = command(dir, listen);
        for (flag, file) in [
            ("--tls-cert", "cert.pem"),
            ("--tls-key", "key.pem"),
            ("--client-ca", "ca.pem"),
        ] {
            command.arg(flag).arg(self.path(file));
        }
        for user in users {
            command.args(["--allow-user", user]);
        }
        command
    }
}

/// A pair of services, and a console for users with certificates. Both are killed when dropped.
pub(crate) struct UserConsole {
    pub(crate) child: Child,
    /// The printed address, such as `localhost:7180`.
    pub(crate) host: String,
    pub(crate) authority: TestAuthority,
    pub(crate) dev: Dev,
}

impl UserConsole {
    pub(crate) async fn start(users: &[&str], more: &[&str]) -> Self {
        let authority = TestAuthority::new();
        let dir = authority.path("dev");
        let dev = Dev::start(&dir).await;
        let log = fs::File::create(authority.path("console.log")).unwrap();
        let mut child = authority
            .console(&dir, "127.0.0.1:0", users)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        let host = address.trim().strip_prefix("https://").unwrap();
        Self {
            child,
            host: host.trim_end_matches('/').to_owned(),
            authority,
            dev,
        }
    }

    pub(crate) fn port(&self) -> &str {
        self.host.rsplit_once(':').unwrap().1
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.authority.path("console.log")).unwrap()
    }

    /// Returns the log once it has a text.
    pub(crate) async fn log_with(&self, text: &str) -> String {
        let has = async {
            loop {
                let log = self.log();
                if log.contains(text) {
                    return log;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), has).await;
        found.unwrap_or_else(|_| panic!("no {text}: {}", self.log()))
    }

    /// Asserts that one line of the log has exactly these fields.
    pub(crate) fn assert_logged(&self, message: &str, user: &str, method: &str, path: &str, status: &str) {
        let logged = self.log();
        let fields = [
            ("user", user),
            ("method", method),
            ("path", path),
            ("status", status),
        ];
        let is_it = |line: &str| {
            let has = |(name, value): (&str, &str)| {
                let words = line.split_whitespace();
                words
                    .filter_map(|word| word.strip_prefix(name)?.strip_prefix('='))
                    .any(|given| given.trim_matches('"') == value)
            };
            line.contains(message) && fields.into_iter().all(has)
        };
        assert!(logged.lines().any(is_it), "{message} {fields:?}: {logged}");
    }

    pub(crate) fn browser(&self, identity: Option<&Issued>) -> UserBrowser {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.authority.ca.cert_pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(issued) => {
                let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        UserBrowser {
            tls: TlsConnector::from(Arc::new(config)),
            address: format!("127.0.0.1:{}", self.port()),
            host: self.host.clone(),
            cookie: None,
        }
    }
}

impl Drop for UserConsole {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A browser with a client certificate, or without one.
pub(crate) struct UserBrowser {
    pub(crate) tls: TlsConnector,
    pub(crate) address: String,
    pub(crate) host: String,
    pub(crate) cookie: Option<String>,
}

impl UserBrowser {
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, AnyError> {
        self.send(Method::GET, path, String::new()).await
    }

    /// Sends a request on a connection of its own, and keeps the cookie of the answer.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Answer, AnyError> {
        self.send_with(method, path, &[], body).await
    }

    /// Connects over TLS, without a request.
    pub(crate) async fn connect(&self) -> Result<TlsStream<TcpStream>, AnyError> {
        let stream = TcpStream::connect(&self.address).await?;
        Ok(self
            .tls
            .connect(ServerName::try_from("localhost")?, stream)
            .await?)
    }

    pub(crate) async fn send_with(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Answer, AnyError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender
            .send_request(request.body(Full::<Bytes>::from(body))?)
            .await?;
        let (head, body) = answer.into_parts();
        let text = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
        connection.abort();
        if let Some(cookie) = head.headers.get(header::SET_COOKIE) {
            let (cookie, _) = cookie.to_str()?.split_once(';').ok_or("no attributes")?;
            self.cookie = Some(cookie.to_owned());
        }
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            text,
        })
    }

    /// Opens the first page, and returns the token of the session.
    pub(crate) async fn sign_in(&mut self) -> String {
        assert_eq!(self.get("/").await.unwrap().status, StatusCode::OK);
        let form = self.get("/workspaces/new").await.unwrap().text;
        between(&form, "name=\"csrf\" value=\"", "\"").to_owned()
    }

    pub(crate) async fn create(&mut self, csrf: &str, name: &str) -> StatusCode {
        let form = format!("csrf={csrf}&name={name}");
        let answer = self.send(Method::POST, "/workspaces", form).await.unwrap();
        answer.status
    }
}
