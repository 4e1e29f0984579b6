//! Handshakes while files change.

use super::*;

/// One connection in memory, from a client to a server.
pub(super) struct Connected {
    client: client::TlsStream<DuplexStream>,
    server: server::TlsStream<DuplexStream>,
    /// The client's trust in the server.
    of_server: PeerTrust,
    /// The server's trust in the client.
    of_client: PeerTrust,
}

/// Makes a handshake, and one read on both sides: in TLS 1.3 the client learns of a refusal only after the handshake.
pub(super) async fn connect(server: &ServerTls, client: &ClientTls) -> io::Result<Connected> {
    let (ours, theirs) = duplex(64 << 10);
    let (server, client) = (server.handshake().unwrap(), client.handshake().unwrap());
    let accepting = TlsAcceptor::from(server.config.clone()).accept(theirs);
    let name = ServerName::try_from("server.test").unwrap();
    let connecting = TlsConnector::from(client.config.clone()).connect(name, ours);
    let (accepted, connected) = tokio::join!(accepting, connecting);
    let (mut accepted, mut connected) = (accepted?, connected?);
    accepted.write_all(b"!").await?;
    connected.read_u8().await?;
    let of_server = client.trust(connected.get_ref().1.peer_certificates());
    let of_client = server.trust(accepted.get_ref().1.peer_certificates());
    Ok(Connected {
        client: connected,
        server: accepted,
        of_server,
        of_client,
    })
}

fn client_of(ca: &TestCa, servers: Authorities) -> ClientTls {
    let identity = Reloading::fixed(ca.issue(CLIENT, Days::Valid).identity());
    let server = Principal::parse(SERVER).unwrap();
    ClientTls::grpc(Some(identity), Reloading::fixed(servers), server)
}

async fn is_lost(trust: PeerTrust) -> bool {
    timeout(Duration::from_millis(20), trust.lost()).await.is_ok()
}

#[tokio::test]
async fn a_handshake_uses_the_certificate_that_is_in_the_file_by_then() {
    let ca = TestCa::new();
    let mut files = Files::of(&ca);
    let (server, client) = (files.server(), client_of(&ca, ca.authorities()));
    let presented = async || {
        let connected = connect(&server, &client).await.unwrap();
        let (_, session) = connected.client.get_ref();
        session.peer_certificates().unwrap().to_vec()
    };
    let before = presented().await;
    assert_eq!(presented().await, before);
    let (cert, key, _) = files.paths();
    ca.issue(SERVER, Days::Valid).write(&cert, &key);
    files.reloader.read_changed();
    assert_ne!(presented().await, before);
}

#[tokio::test]
async fn both_cas_count_while_both_are_in_the_file_and_a_removed_one_ends_its_connections() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let mut files = Files::of(&old);
    let server = files.server();
    let (of_old, of_new) = (
        client_of(&old, old.authorities()),
        client_of(&new, old.authorities()),
    );
    let of_old_ca = connect(&server, &of_old).await.unwrap().of_client;
    assert!(connect(&server, &of_new).await.is_err());

    let (_, _, clients) = files.paths();
    fs::write(&clients, [old.pem(), new.pem()].concat()).unwrap();
    files.reloader.read_changed();
    let later = connect(&server, &of_old).await.unwrap().of_client;
    let of_new_ca = connect(&server, &of_new).await.unwrap().of_client;

    fs::write(&clients, new.pem()).unwrap();
    files.reloader.read_changed();
    assert!(connect(&server, &of_old).await.is_err());
    assert!(connect(&server, &of_new).await.is_ok());
    assert!(is_lost(of_old_ca).await && is_lost(later).await);
    assert!(!is_lost(of_new_ca).await);
}

#[tokio::test]
async fn a_client_gives_a_server_up_whose_ca_was_removed() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let files = Files::of(&old);
    let (servers, source) = reloading::ReloadingSender::new(Some(old.authorities()));
    let identity = Reloading::fixed(old.issue(CLIENT, Days::Valid).identity());
    let client = ClientTls::grpc(Some(identity), source, Principal::parse(SERVER).unwrap());
    let mut changes = client.changes();
    let trust = connect(&files.server(), &client).await.unwrap().of_server;
    servers.replace(new.authorities());
    timeout(Duration::from_secs(1), changes.changed()).await.unwrap();
    assert!(is_lost(trust).await);
    assert!(connect(&files.server(), &client).await.is_err());
}

#[tokio::test]
async fn a_source_that_has_sent_nothing_refuses_handshakes_until_it_does() {
    let ca = TestCa::new();
    let (sender, identity) = reloading::ReloadingSender::new(None);
    let server = ServerTls::grpc(identity, None);
    assert!(matches!(server.config(), Err(TlsError::NotReceived)));
    sender.replace(ca.issue(SERVER, Days::Valid).identity());
    let client = client_of(&ca, ca.authorities());
    let connected = connect(&server, &client).await.unwrap();
    // Nobody asked for the client's certificate.
    assert!(connected.server.get_ref().1.peer_certificates().is_none());
}
