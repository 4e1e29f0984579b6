use std::collections::BTreeMap;

use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use tokio::task::JoinHandle;

use super::*;

type HttpClient = Client<hyper_util::client::legacy::connect::HttpConnector, Empty<Bytes>>;

async fn echo() -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(listener, None, stop.clone()));
    (address, stop, served)
}

async fn call(client: &HttpClient, address: SocketAddr) -> BTreeMap<String, String> {
    let request = Request::get(format!("http://{address}/a/b?c"))
        .header("x-mcp-secret-token", "in clear")
        .header("authorization", "Bearer in clear")
        .body(Empty::new())
        .unwrap();
    let response = client.request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn it_shows_the_received_headers_with_secrets_as_fingerprints() {
    let (address, ..) = echo().await;
    let shown = call(&Client::builder(TokioExecutor::new()).build_http(), address).await;
    assert_eq!(shown[":path"], "/a/b");
    assert_eq!(shown["x-mcp-secret-token"], fingerprint(b"in clear"));
    assert_eq!(shown["authorization"], fingerprint(b"Bearer in clear"));
    assert!(fingerprint(b"in clear").starts_with("sha256:"));
}

#[tokio::test]
async fn it_stops_although_a_client_keeps_its_connection_open() {
    let (address, stop, served) = echo().await;
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
    call(&client, address).await;
    stop.cancel();
    time::timeout(GRACE / 2, served).await.unwrap().unwrap();
}

#[test]
fn every_mistake_is_reported_at_once() {
    let args = EchoArgs {
        listen: "nowhere".to_owned(),
        tls_cert: Some("/no/such/file".into()),
        tls_key: None,
        log: "info".to_owned(),
    };
    let report = args.check().err().unwrap().to_string();
    for part in ["--listen: ", "--tls-key: is required"] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
}
