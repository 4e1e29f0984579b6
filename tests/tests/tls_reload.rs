//! Certificates, keys and CAs that are replaced while the services run.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use aerostack::pki::{Leaf, Usage};
use bytes::Bytes;
use chassis::{
    channel::channel,
    tls::{self, Authorities, Identity},
};
use e2e::{
    Injector, Pair, Pki, SecretVolume, Upstream, Vault, eventually,
    pair::{get, server},
    pki::{self, Files},
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::{
    Principal,
    vault::v1::{ListWorkspacesRequest, workspace_service_client::WorkspaceServiceClient},
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet, time};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

const SECRET: &str = "canary-53f1";
/// Interval between two renewals in the test under load.
const RENEWAL: Duration = Duration::from_millis(300);

/// Returns the duration of the test under load; `.ci/soak` sets a longer one.
fn soak() -> Duration {
    let seconds = std::env::var("TLS_RELOAD_SECONDS").ok();
    Duration::from_secs(seconds.map_or(5, |seconds| seconds.parse().unwrap()))
}

/// A pair of services whose certificates and CAs are in volumes.
struct Volumes {
    vault: SecretVolume,
    injector: SecretVolume,
    pair: Pair,
}

impl Volumes {
    async fn start(pki: &Arc<Pki>) -> Self {
        let volume = |principal| SecretVolume::new(&pki.principal(principal), &[pki]);
        let (of_vault, of_injector) = (volume(pki::VAULT), volume(pki::INJECTOR));
        let vault = Vault::start_with(pki.clone(), |settings| {
            settings.tls.tls_cert = Some(of_vault.cert());
            settings.tls.tls_key = Some(of_vault.key());
            settings.tls.client_ca = Some(of_vault.ca());
        })
        .await;
        let injector = Injector::start_with(pki.clone(), vault.address, |settings| {
            settings.vault_cert = Some(of_injector.cert());
            settings.vault_key = Some(of_injector.key());
            settings.vault_ca = Some(of_injector.ca());
            settings.tls.tls_cert = Some(of_injector.cert());
            settings.tls.tls_key = Some(of_injector.key());
            settings.tls.client_ca = Some(of_injector.ca());
        })
        .await;
        injector.ready().await;
        Self {
            vault: of_vault,
            injector: of_injector,
            pair: Pair { vault, injector },
        }
    }

    /// Renews both certificates from `issuer`, and trusts `cas`.
    fn renew(&self, issuer: &Pki, cas: &[&Pki]) {
        self.vault.replace(&issuer.principal(pki::VAULT), cas);
        self.injector.replace(&issuer.principal(pki::INJECTOR), cas);
    }

    /// Waits until both services present the certificates in their volumes, and so have read all their files.
    async fn applied(&self, trusted: &[&Pki]) {
        for (address, volume) in [
            (self.pair.vault.address, &self.vault),
            (self.pair.injector.address, &self.injector),
        ] {
            eventually("the certificate of the volume is presented", async || {
                presented(address, trusted).await.ok() == Some(leaf_of(&volume.cert()))
            })
            .await;
        }
    }

    fn calls_vault(&self, files: &Files, trusted: &[&Pki]) -> Channel {
        let address = self.pair.vault.address;
        let config = tls::grpc_client(
            Some(Identity::load(&files.cert, &files.key).unwrap()),
            &authorities(trusted),
            Principal::parse(pki::VAULT).unwrap(),
        );
        channel(&address.to_string().parse().unwrap(), config.unwrap()).unwrap()
    }
}

fn authorities(trusted: &[&Pki]) -> Authorities {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("ca.pem");
    let pem: String = trusted.iter().map(|pki| pki.ca_pem()).collect();
    fs::write(&file, pem).unwrap();
    Authorities::load(&file).unwrap()
}

fn leaf_of(cert: &PathBuf) -> Vec<u8> {
    CertificateDer::from_pem_file(cert).unwrap().to_vec()
}

/// Returns the certificate that the listener at `address` presents to a client without one.
async fn presented(address: SocketAddr, trusted: &[&Pki]) -> std::io::Result<Vec<u8>> {
    let mut roots = rustls::RootCertStore::empty();
    for pki in trusted {
        let ca = CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let connected = TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), stream)
        .await?;
    let (_, session) = connected.get_ref();
    Ok(session.peer_certificates().unwrap()[0].to_vec())
}

/// Lists workspaces as the owner of the channel's certificate.
async fn is_served(channel: &Channel) -> bool {
    let request = ListWorkspacesRequest::default();
    let mut client = WorkspaceServiceClient::new(channel.clone());
    let call = client.list_workspaces(request);
    time::timeout(e2e::PATIENCE, call)
        .await
        .expect("no answer")
        .is_ok()
}

async fn page(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let response = get(&format!("http://{address}{path}")).await;
    let text = String::from_utf8(response.body().to_vec()).unwrap();
    (response.status(), text)
}

async fn failures(address: SocketAddr, label: &str) -> u64 {
    let (_, page) = page(address, "/metrics").await;
    let start = format!("aerostack_certificate_reload_failures_total{{certificate=\"{label}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {label} in {page}"))
        .parse()
        .unwrap()
}

/// Calls that are made without pause, on kept connections and on new ones.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<()>,
}

impl Load {
    fn on(url: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let (stop, answered, url) = (stop.clone(), answered.clone(), url.to_owned());
            callers.spawn(async move {
                let kept = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
                while !stop.load(Ordering::Relaxed) {
                    let (status, body) = if caller % 2 == 0 {
                        let request = Request::get(&url).body(Full::default()).unwrap();
                        let response = kept.request(request).await.unwrap();
                        (
                            response.status(),
                            response.into_body().collect().await.unwrap().to_bytes(),
                        )
                    } else {
                        let (parts, body) = get(&url).await.into_parts();
                        (parts.status, body)
                    };
                    let text = String::from_utf8_lossy(&body).into_owned();
                    assert_eq!((status, text.as_str()), (StatusCode::OK, SECRET));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            stop,
            answered,
            callers,
        }
    }

    /// Ends the calls, of which none may have failed, and returns their number.
    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Starts an upstream that answers with the secret that it got, and adds it to the pair as `dev/echo`.
async fn echo(pair: &Pair) -> Upstream {
    let upstream = Upstream::answering(|seen| {
        let secret = seen.header("x-mcp-secret-token").unwrap_or("none").to_owned();
        Response::new(Full::from(secret))
    })
    .await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", SECRET).await;
    pair.injector
        .add(server("dev", "echo", &upstream.url(), &["TOKEN"]))
        .await;
    upstream
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_cas_that_are_replaced_under_load_fail_no_call() {
    let first = Pki::new();
    let services = Volumes::start(&first).await;
    let _upstream = echo(&services.pair).await;
    let load = Load::on(&services.pair.injector.url("/dev/echo/"));

    let until = time::Instant::now() + soak();
    let mut renewals = time::interval(RENEWAL);
    while time::Instant::now() < until {
        renewals.tick().await;
        services.renew(&first, &[&first]);
    }
    services.applied(&[&first]).await;

    let mut issuer = first;
    for _ in 0..2 {
        let next = Pki::new();
        // Both sides trust the new CA before a certificate comes from it, and the old one until none does.
        services.renew(&issuer, &[&issuer, &next]);
        services.applied(&[&issuer]).await;
        services.renew(&next, &[&issuer, &next]);
        services.applied(&[&next]).await;
        services.renew(&next, &[&next]);
        services.applied(&[&next]).await;
        issuer = next;
    }
    let answered = load.end().await;
    assert!(answered > 100, "{answered}");
    for (address, labels) in [
        (services.pair.vault.metrics, &["tls-cert", "client-ca"][..]),
        (
            services.pair.injector.metrics,
            &["vault-cert", "vault-ca", "tls-cert", "client-ca"],
        ),
    ] {
        for label in labels {
            assert_eq!(failures(address, label).await, 0, "{label}");
        }
    }
    services.pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_ca_is_refused_also_on_connections_that_were_open_before() {
    let (old, new) = (Pki::new(), Pki::new());
    let services = Volumes::start(&old).await;
    services.pair.vault.workspace("dev").await;
    let both = [&*old, &*new];
    let of_old = services.calls_vault(&old.principal(pki::ADMIN), &both);
    assert!(is_served(&of_old).await);
    assert!(!is_served(&services.calls_vault(&new.principal(pki::ADMIN), &both)).await);

    services.renew(&old, &both);
    services.applied(&both).await;
    let of_new = services.calls_vault(&new.principal(pki::ADMIN), &both);
    assert!(is_served(&of_old).await && is_served(&of_new).await);

    services.renew(&new, &[&new]);
    services.applied(&both).await;
    // The channel connects again when its connection is cut off, and that is refused as well.
    eventually("the old CA counts no more", async || !is_served(&of_old).await).await;
    assert!(!is_served(&of_old).await);
    assert!(!is_served(&services.calls_vault(&old.principal(pki::ADMIN), &both)).await);
    assert!(is_served(&of_new).await);
    services.pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_the_key_of_another_keeps_the_last_good_pair() {
    let pki = Pki::new();
    let (dir, first, second) = (
        TempDir::new().unwrap(),
        pki.principal(pki::VAULT),
        pki.principal(pki::VAULT),
    );
    let files = Files {
        cert: dir.path().join("tls.crt"),
        key: dir.path().join("tls.key"),
    };
    let copy = |from: &PathBuf, to: &PathBuf| {
        fs::copy(from, to).unwrap();
    };
    copy(&first.cert, &files.cert);
    copy(&first.key, &files.key);
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.tls.tls_cert = Some(files.cert.clone());
        settings.tls.tls_key = Some(files.key.clone());
    })
    .await;
    copy(&second.cert, &files.cert);
    eventually("the mismatch is counted", async || {
        failures(vault.metrics, "tls-cert").await == 1
    })
    .await;
    assert_eq!(
        presented(vault.address, &[&pki]).await.unwrap(),
        leaf_of(&first.cert)
    );
    assert_eq!(page(vault.metrics, "/readyz").await.0, StatusCode::OK);
    copy(&second.key, &files.key);
    eventually("the whole pair is used", async || {
        presented(vault.address, &[&pki]).await.unwrap() == leaf_of(&second.cert)
    })
    .await;
    assert_eq!(failures(vault.metrics, "tls-cert").await, 1);
    vault.stop().await;
}

fn short_lived(id: &str, seconds: u64) -> Leaf {
    Leaf {
        uris: vec![id.to_owned()],
        dns: vec!["localhost".to_owned()],
        usages: vec![Usage::Server, Usage::Client],
        not_after: SystemTime::now() + Duration::from_secs(seconds),
        ..Pki::blank()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_certificate_expired_is_ready_again_when_it_is_renewed() {
    let pki = Pki::new();
    let volume = SecretVolume::new(&pki.leaf(&short_lived(pki::VAULT, 2)), &[&pki]);
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.tls.tls_cert = Some(volume.cert());
        settings.tls.tls_key = Some(volume.key());
    })
    .await;
    eventually("the vault says that it has expired", async || {
        let (status, text) = page(vault.metrics, "/readyz").await;
        status == StatusCode::SERVICE_UNAVAILABLE
            && text.starts_with("not ready: the certificate of --tls-cert expired at ")
            && text.contains("renew it")
    })
    .await;
    let not_after = SystemTime::now() + Duration::from_secs(24 * 3600);
    let renewed = Leaf {
        not_after,
        ..short_lived(pki::VAULT, 0)
    };
    volume.replace(&pki.leaf(&renewed), &[&pki]);
    vault.reload();
    eventually("the vault is ready", async || {
        page(vault.metrics, "/readyz").await.0 == StatusCode::OK
    })
    .await;
    let expires = not_after
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let line =
        format!("aerostack_certificate_expiration_timestamp_seconds{{certificate=\"tls-cert\"}} {expires}\n");
    let (_, metrics) = page(vault.metrics, "/metrics").await;
    assert!(metrics.contains(&line), "{metrics}");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injector_moves_to_its_renewed_certificate_before_the_old_one_expires() {
    let pki = Pki::new();
    let volume = SecretVolume::new(&pki.leaf(&short_lived(pki::INJECTOR, 5)), &[&pki]);
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    let injector = Injector::start_with(pki.clone(), vault.address, |settings| {
        settings.vault_cert = Some(volume.cert());
        settings.vault_key = Some(volume.key());
    })
    .await;
    injector.ready().await;
    let pair = Pair { vault, injector };
    let _upstream = echo(&pair).await;
    let load = Load::on(&pair.injector.url("/dev/echo/"));
    volume.replace(&pki.principal(pki::INJECTOR), &[&pki]);
    time::sleep(Duration::from_secs(7)).await;
    assert!(load.end().await > 100);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_plane_presents_the_renewed_certificate_to_new_connections() {
    let (pki, other) = (Pki::new(), Pki::new());
    let volume = SecretVolume::new(&pki.principal(pki::INJECTOR), &[&pki]);
    let pair = Pair::start_with(
        |_| {},
        |settings| {
            settings.data_plane_tls_cert = Some(volume.cert());
            settings.data_plane_tls_key = Some(volume.key());
        },
    )
    .await;
    let address = pair.injector.data_plane;
    assert_eq!(
        presented(address, &[&pki]).await.unwrap(),
        leaf_of(&volume.cert())
    );
    let before = leaf_of(&volume.cert());
    volume.replace(&other.principal(pki::INJECTOR), &[&other]);
    eventually("the renewed certificate is presented", async || {
        presented(address, &[&pki, &other]).await.unwrap() != before
    })
    .await;
    pair.stop().await;
}

/// Returns the TLS settings of an upstream at `localhost`.
fn upstream_tls(files: &Files) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .unwrap()
        .map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect(), key);
    Arc::new(config.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_to_upstreams_are_verified_by_the_cas_that_are_in_the_file_by_then() {
    let (pki, other) = (Pki::new(), Pki::new());
    let volume = SecretVolume::new(&pki.principal(pki::INJECTOR), &[&pki]);
    let pair = Pair::start_with(|_| {}, |settings| settings.upstream_ca = vec![volume.ca()]).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", SECRET).await;
    let trusted = Upstream::tls(upstream_tls(&pki.principal("spiffe://test/upstream"))).await;
    let later = Upstream::tls(upstream_tls(&other.principal("spiffe://test/upstream"))).await;
    for (name, upstream) in [("trusted", &trusted), ("later", &later)] {
        let api = server("dev", name, &upstream.url(), &["TOKEN"]);
        pair.injector.add(api).await;
    }
    let status = async |name: &str| pair.injector.get(&format!("/dev/{name}/")).await.status();
    assert_eq!(status("trusted").await, StatusCode::OK);
    assert_eq!(status("later").await, StatusCode::BAD_GATEWAY);
    volume.replace(&volume.files(), &[&pki, &other]);
    eventually("both CAs count", async || status("later").await == StatusCode::OK).await;
    assert_eq!(status("trusted").await, StatusCode::OK);
    volume.replace(&volume.files(), &[&other]);
    // The open connection to the first upstream is not used for a new call either.
    eventually("the removed CA counts no more", async || {
        status("trusted").await == StatusCode::BAD_GATEWAY
    })
    .await;
    assert_eq!(status("later").await, StatusCode::OK);
    pair.stop().await;
}
