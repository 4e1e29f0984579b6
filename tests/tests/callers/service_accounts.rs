//! Callers that identify themselves by a JSON Web Token, such as that of a service account.

use std::time::Duration;

use e2e::{
    Injector, PATIENCE, Pair, Pki, TokenIssuer, Upstream, Vault, eventually,
    issuer::{AUDIENCE, TestKey},
    pair::server,
};
use http::Request;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::{CI, Tokens, get_with, outcome};

const WEB: &str = "system:serviceaccount:shop:web";
const OTHER: &str = "system:serviceaccount:shop:other";
const LIFE: Duration = Duration::from_secs(600);

/// Starts a pair whose injector lets `WEB` call `shop/api`, with the servers `shop/api` and `shop/other` at `url`. Returns after
/// the injector has read the key set.
async fn shop(url: &str, tokens: &Tokens) -> (Pair, TokenIssuer) {
    let pki = Pki::new();
    let issuer = TokenIssuer::start(&pki).await;
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    vault.workspace("shop").await;
    vault.put("shop", "TOKEN", "tok-1").await;
    let injector = Injector::start_with(pki, vault.address, |settings| {
        tokens.configure(settings);
        settings.jwt.jwt_issuer = vec![issuer.setting()];
        settings.callers.caller.push(format!("{WEB}=shop/api"));
    })
    .await;
    injector.ready().await;
    for name in ["api", "other"] {
        injector.add(server("shop", name, url, &["TOKEN"])).await;
    }
    let token = issuer.token(WEB, LIFE);
    eventually("the key set was read", async || {
        let answer = get_with(injector.data_plane, "/shop/none/", Some(&token)).await;
        answer.status() == 403
    })
    .await;
    (Pair { vault, injector }, issuer)
}

#[tokio::test]
async fn a_service_account_reaches_its_servers_while_its_token_is_valid() {
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let (pair, issuer) = shop(&upstream.url(), &tokens).await;
    let address = pair.injector.data_plane;
    let token = issuer.token(WEB, LIFE);
    assert_eq!(get_with(address, "/shop/api/", Some(&token)).await.status(), 200);
    assert_eq!(upstream.last().header("x-aerostack-token"), None);
    let mut other_audience = issuer.claims(WEB, LIFE);
    other_audience["aud"] = "another".into();
    let forged = format!("{}x", &token[..token.len() - 1]);
    for (path, token, expected) in [
        ("/shop/other/", token.as_str(), (403, "PERMISSION_DENIED")),
        ("/shop/none/", &token, (403, "PERMISSION_DENIED")),
        (
            "/shop/api/",
            &issuer.token(OTHER, LIFE),
            (403, "PERMISSION_DENIED"),
        ),
        (
            "/shop/api/",
            &issuer.sign(&other_audience),
            (401, "UNAUTHENTICATED"),
        ),
        ("/shop/api/", &forged, (401, "UNAUTHENTICATED")),
        ("/shop/api/", "neither.a.token", (401, "UNAUTHENTICATED")),
        // A static token counts beside those of issuers.
        ("/dev/api/", CI, (404, "SERVER_NOT_FOUND")),
    ] {
        let answer = get_with(address, path, Some(token)).await;
        assert_eq!(outcome(&answer), expected, "{path} {token}");
    }
    // An expired token is refused, also when it was accepted before. Issuers and services may differ by a minute.
    let mut expired = issuer.claims(WEB, LIFE);
    expired["exp"] = (expired["iat"].as_u64().unwrap() - 120).into();
    let answer = get_with(address, "/shop/api/", Some(&issuer.sign(&expired))).await;
    assert_eq!(outcome(&answer), (401, "UNAUTHENTICATED"));
    let problem = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(
        problem.contains("the token has expired") && !problem.contains(AUDIENCE),
        "{problem}"
    );
    pair.stop().await;
}

/// Serves an event stream and a WebSocket that never end, and returns the URL.
async fn endless_upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let request = read_head(&mut stream).await;
                let answer = match request.contains("websocket") {
                    true => {
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst\n"
                    }
                    false => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nfirst\n\r\n",
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    url
}

/// Reads the lines of a head, in lower case.
async fn read_head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    head.to_ascii_lowercase()
}

#[tokio::test]
async fn an_open_stream_and_an_upgraded_connection_end_when_the_token_of_the_caller_expires() {
    let tokens = Tokens::new();
    let (pair, issuer) = shop(&endless_upstream().await, &tokens).await;
    let token = issuer.token(WEB, Duration::from_secs(4));
    let open = async |fields: &str| {
        let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let mut stream = BufReader::new(stream);
        let request = format!(
            "GET /shop/api/ HTTP/1.1\r\nhost: localhost\r\nx-aerostack-token: {token}\r\n{fields}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        let mut line = String::new();
        while line != "first\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "{head}");
        }
        stream
    };
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for mut stream in [open("").await, open(upgrade).await] {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        ended.expect("the call outlives the token").ok();
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("0\r\n\r\n"), "the answer looks complete: {rest}");
    }
    pair.stop().await;
}

/// The issuer accepts connections and says nothing, so the key of a token is awaited.
#[tokio::test]
async fn a_call_waits_for_the_key_of_its_token_only_until_its_deadline() {
    let (pki, silent) = (Pki::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let keys = format!("http://{}/keys", silent.local_addr().unwrap());
    let claims =
        json!({"iss": "https://silent.example", "sub": "web", "aud": AUDIENCE, "exp": 4_000_000_000_u64});
    let token = TestKey::p256().token("first", &claims);
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    let injector = Injector::start_with(pki, vault.address, |settings| {
        settings.jwt.jwt_issuer = vec![format!("https://silent.example={AUDIENCE},jwks={keys}")];
        settings
            .callers
            .caller
            .push("jwt:https://silent.example#web=*".to_owned());
    })
    .await;
    let began = Instant::now();
    let request = Request::post("/shop/api/x")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "300m")
        .header("x-aerostack-token", &token);
    let answer = injector.send(request, "").await;
    assert_eq!(answer.headers()["grpc-status"], "4", "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    Pair { vault, injector }.stop().await;
}
