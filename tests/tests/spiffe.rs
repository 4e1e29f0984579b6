//! Certificates and bundles from a SPIFFE Workload API, whose server here is written to the public standard.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use chassis::tls::{self, Authorities, Identity};
use e2e::{
    Injector, Pair, Pki, Upstream, Vault, eventually,
    pair::{get, server},
    pki::{self, Files},
};
use http::{Response, StatusCode};
use http_body_util::Full;
use proto::{
    Principal,
    vault::v1::{ListWorkspacesRequest, workspace_service_client::WorkspaceServiceClient},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::watch, task::JoinSet, time};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{UnixListenerStream, WatchStream},
};
use tonic::{
    Request, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower::Service;

const SECRET: &str = "canary-9a77";

#[derive(Clone, PartialEq, prost::Message)]
struct SvidRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

/// Returns an answer with a certificate of `issuer` for `id`, the bundle of its trust domain, and the bundle of `federated`.
fn answer(id: &str, issuer: &Pki, bundle: &[&Pki], federated: Option<(&str, &Pki)>) -> SvidResponse {
    let files = issuer.principal(id);
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let svid = Svid {
        spiffe_id: id.to_owned(),
        x509_svid: chain.flat_map(|one| one.unwrap().to_vec()).collect(),
        x509_svid_key: key.secret_der().to_vec(),
        bundle: bundle.iter().flat_map(|pki| der(pki)).collect(),
        hint: String::new(),
    };
    SvidResponse {
        svids: vec![svid],
        crl: Vec::new(),
        federated_bundles: federated
            .map(|(id, pki)| (id.to_owned(), der(pki)))
            .into_iter()
            .collect(),
    }
}

fn der(pki: &Pki) -> Vec<u8> {
    CertificateDer::from_pem_slice(pki.ca_pem().as_bytes())
        .unwrap()
        .to_vec()
}

/// A Workload API for one workload.
struct Agent {
    answers: watch::Sender<SvidResponse>,
}

impl Agent {
    fn start(socket: &Path, first: SvidResponse) -> Self {
        let (answers, receiver) = watch::channel(first);
        let listener = UnixListener::bind(socket).unwrap();
        let server = Server::builder().add_service(WorkloadApi(receiver));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { answers }
    }

    fn send(&self, answer: SvidResponse) {
        self.answers.send_replace(answer);
    }
}

#[derive(Clone)]
struct WorkloadApi(watch::Receiver<SvidResponse>);

impl NamedService for WorkloadApi {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

impl Service<http::Request<Body>> for WorkloadApi {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
            let codec = ProstCodec::<SvidResponse, SvidRequest>::default();
            Ok(Grpc::new(codec).server_streaming(service, request).await)
        })
    }
}

impl ServerStreamingService<SvidRequest> for WorkloadApi {
    type Response = SvidResponse;
    type ResponseStream = BoxStream<Result<SvidResponse, Status>>;
    type Future = BoxFuture<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<SvidRequest>) -> Self::Future {
        let header = request.metadata().get("workload.spiffe.io").cloned();
        let answers = self.0.clone();
        Box::pin(async move {
            if header.is_none_or(|header| header != "true") {
                return Err(Status::invalid_argument("security header missing from request"));
            }
            let answers: Self::ResponseStream = Box::pin(WatchStream::new(answers).map(Ok));
            Ok(tonic::Response::new(answers))
        })
    }
}

/// The sockets of the Workload APIs of a vault and an injector.
struct Sockets {
    _dir: TempDir,
    vault: PathBuf,
    injector: PathBuf,
}

impl Sockets {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let (vault, injector) = (dir.path().join("vault.sock"), dir.path().join("injector.sock"));
        Self {
            _dir: dir,
            vault,
            injector,
        }
    }
}

fn setting(socket: &Path) -> Option<String> {
    Some(format!("unix:{}", socket.display()))
}

async fn vault_at(pki: &Arc<Pki>, socket: &Path) -> Vault {
    Vault::start_with(pki.clone(), |settings| {
        (
            settings.tls.tls_cert,
            settings.tls.tls_key,
            settings.tls.client_ca,
        ) = (None, None, None);
        settings.tls.spiffe_socket = setting(socket);
        settings.roles.admin.push("spiffe://other/admin".to_owned());
    })
    .await
}

async fn pair_at(pki: &Arc<Pki>, sockets: &Sockets) -> Pair {
    let vault = vault_at(pki, &sockets.vault).await;
    let injector = Injector::start_with(pki.clone(), vault.address, |settings| {
        (
            settings.tls.tls_cert,
            settings.tls.tls_key,
            settings.tls.client_ca,
        ) = (None, None, None);
        (settings.vault_cert, settings.vault_key, settings.vault_ca) = (None, None, None);
        settings.tls.spiffe_socket = setting(&sockets.injector);
    })
    .await;
    Pair { vault, injector }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_waits_for_its_workload_apis_and_follows_their_rotation_under_load() {
    let (first, sockets) = (Pki::new(), Sockets::new());
    let pair = pair_at(&first, &sockets).await;
    let probe = async |path: &str| get(&format!("http://{}{path}", pair.vault.metrics)).await;
    assert_eq!(probe("/livez").await.status(), StatusCode::OK);
    let not_ready = probe("/readyz").await;
    assert_eq!(not_ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = String::from_utf8(not_ready.body().to_vec()).unwrap();
    assert!(
        text.contains("no certificate has come from --spiffe-socket yet"),
        "{text}"
    );

    let of = |id, issuer: &Pki, bundle: &[&Pki]| answer(id, issuer, bundle, None);
    let vault = Agent::start(&sockets.vault, of(pki::VAULT, &first, &[&first]));
    let injector = Agent::start(&sockets.injector, of(pki::INJECTOR, &first, &[&first]));
    pair.injector.ready().await;
    eventually("the vault is ready", async || {
        probe("/readyz").await.status() == StatusCode::OK
    })
    .await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", SECRET).await;
    let upstream = Upstream::answering(|seen| {
        let secret = seen.header("x-mcp-secret-token").unwrap_or("none").to_owned();
        Response::new(Full::from(secret))
    })
    .await;
    let echo = server("dev", "echo", &upstream.url(), &["TOKEN"]);
    pair.injector.add(echo).await;

    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (stop, answered, url) = (stop.clone(), answered.clone(), pair.injector.url("/dev/echo/"));
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let response = get(&url).await;
                let body: &Bytes = response.body();
                assert_eq!(
                    (response.status(), &body[..]),
                    (StatusCode::OK, SECRET.as_bytes())
                );
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let pause = || time::sleep(Duration::from_millis(200));
    let renew = |issuer: &Pki, bundle: &[&Pki]| {
        vault.send(of(pki::VAULT, issuer, bundle));
        injector.send(of(pki::INJECTOR, issuer, bundle));
    };
    for _ in 0..10 {
        renew(&first, &[&first]);
        pause().await;
    }
    let next = Pki::new();
    renew(&first, &[&first, &next]);
    pause().await;
    renew(&next, &[&first, &next]);
    pause().await;
    renew(&next, &[&next]);
    pause().await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 50);
    // The bundle without the first CA is in use.
    let mut client = WorkspaceServiceClient::new(pair.vault.channel(pki::ADMIN));
    assert!(
        client
            .list_workspaces(ListWorkspacesRequest::default())
            .await
            .is_err()
    );
    pair.stop().await;
}

/// Lists workspaces as the owner of `files`, whose vault comes from `ca`.
async fn is_served(vault: &Vault, files: &Files, ca: &Pki) -> bool {
    let config = tls::grpc_client(
        Some(Identity::load(&files.cert, &files.key).unwrap()),
        &Authorities::load(&ca.ca_file()).unwrap(),
        Principal::parse(pki::VAULT).unwrap(),
    );
    let address = vault.address.to_string().parse().unwrap();
    let channel = chassis::channel::channel(&address, config.unwrap()).unwrap();
    let call = WorkspaceServiceClient::new(channel)
        .list_workspaces(ListWorkspacesRequest::default())
        .await;
    call.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_of_a_trust_domain_vouches_for_that_domain_alone() {
    let (own, other, sockets) = (Pki::new(), Pki::new(), Sockets::new());
    let federated = Some(("spiffe://other", &*other));
    let agent = Agent::start(&sockets.vault, answer(pki::VAULT, &own, &[&own], federated));
    let vault = vault_at(&own, &sockets.vault).await;
    let of_own = own.principal(pki::ADMIN);
    eventually("the vault serves its own trust domain", async || {
        is_served(&vault, &of_own, &own).await
    })
    .await;
    let of_other = other.principal("spiffe://other/admin");
    assert!(is_served(&vault, &of_other, &own).await);
    for (id, issuer) in [(pki::ADMIN, &other), ("spiffe://other/admin", &own)] {
        assert!(!is_served(&vault, &issuer.principal(id), &own).await, "{id}");
    }
    agent.send(answer(pki::VAULT, &own, &[&own], None));
    eventually("the trust domain is no longer federated", async || {
        !is_served(&vault, &of_other, &own).await
    })
    .await;
    assert!(is_served(&vault, &of_own, &own).await);

    // An answer for another identity changes nothing.
    agent.send(answer("spiffe://test/other", &own, &[&other], None));
    time::sleep(Duration::from_millis(200)).await;
    assert!(is_served(&vault, &of_own, &own).await);
    vault.stop().await;
}
