//! TLS versions and session tickets.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn tls_before_1_3_is_refused() {
    let pair = Pair::start().await;
    for address in [pair.vault.address, pair.injector.address] {
        for (version, taken) in [(&rustls::version::TLS13, true), (&rustls::version::TLS12, false)] {
            let config = Arc::new(wire::anonymous_tls(&pair.vault.pki, &[version]));
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let shaken = timeout(e2e::PATIENCE, TlsConnector::from(config).connect(name, stream))
                .await
                .expect("it hangs");
            assert_eq!(shaken.is_ok(), taken, "{version:?}: {:?}", shaken.err());
        }
    }
    pair.stop().await;
}

/// A session store that counts the tickets of servers.
#[derive(Debug, Default)]
struct Tickets(AtomicUsize);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

fn collecting(pki: &Pki) -> (Arc<Tickets>, Arc<ClientConfig>) {
    let tickets = Arc::new(Tickets::default());
    let mut config = wire::anonymous_tls(pki, &[&rustls::version::TLS13]);
    config.resumption = Resumption::store(tickets.clone());
    (tickets, Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_can_be_resumed() {
    let pair = Pair::start().await;
    for address in [pair.vault.address, pair.injector.address] {
        let (tickets, config) = collecting(&pair.vault.pki);
        let channel = channel(&address.to_string().parse().unwrap(), config).unwrap();
        wire::open(&channel, "/grpc.health.v1.Health/Check", Bytes::new())
            .await
            .unwrap();
        assert_eq!(tickets.0.load(Ordering::Relaxed), 0);
    }
    assert!(
        tickets_of_an_ordinary_server(&pair.vault.pki).await > 0,
        "this test would not see tickets"
    );
    pair.stop().await;
}

async fn tickets_of_an_ordinary_server(pki: &Pki) -> usize {
    let files = pki.principal(pki::VAULT);
    let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let (tickets, config) = collecting(pki);
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    stream.read_u8().await.unwrap();
    tickets.0.load(Ordering::Relaxed)
}
