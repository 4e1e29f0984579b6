//! Users of a console over TLS who stop in the middle of a handshake or of a request.

use std::time::Duration;

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::user_console::{ALICE, BOB, UserBrowser, UserConsole};

/// More connections than a person has, and fewer than all slots of handshakes.
const MANY: usize = 100;
/// Longest time that another user waits. The stalled connections are kept for longer.
const SOON: Duration = Duration::from_secs(5);
/// Longest time until the console has closed a connection whose handshake does not go on.
const HANDSHAKES_END: Duration = Duration::from_secs(20);

/// The first bytes of a TLS record with a ClientHello, whose rest never comes.
const BEGUN_HANDSHAKE: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 252];

async fn assert_answers_soon(browser: &mut UserBrowser) {
    let answer = timeout(SOON, browser.get("/")).await.expect("it waited");
    assert_eq!(answer.unwrap().status, StatusCode::OK);
}

/// Reads until the console closes the connection.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    // A connection that is reset has ended, too.
    drop(stream.read_to_end(&mut answer).await);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stalls_keeps_no_user_waiting_and_ends() {
    let console = UserConsole::start(&[ALICE], &[]).await;
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    let mut silent = Vec::new();
    while silent.len() < MANY {
        let mut stream = TcpStream::connect(&alice.address).await.unwrap();
        if silent.len() % 2 == 0 {
            stream.write_all(&BEGUN_HANDSHAKE).await.unwrap();
        }
        silent.push(stream);
    }
    assert_answers_soon(&mut alice).await;
    for stream in &mut silent {
        timeout(HANDSHAKES_END, read_to_end(stream))
            .await
            .expect("the handshake goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_stalls_keeps_no_other_user_waiting() {
    let console = UserConsole::start(&[ALICE, BOB], &[]).await;
    let mut bob = console.browser(Some(&console.authority.user(BOB)));
    let csrf = bob.sign_in().await;
    let (host, cookie) = (&console.host, bob.cookie.as_deref().unwrap());
    let form = "application/x-www-form-urlencoded";
    let head = |path: &str, media: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\ncontent-type: {media}\r\ncontent-length: 900\r\n\r\n"
        )
    };
    let token = format!("--b\r\ncontent-disposition: form-data; name=\"csrf\"\r\n\r\n{csrf}");
    let file = "\r\n--b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\nA=1";
    let with_file = "multipart/form-data; boundary=b";
    let beginnings = [
        format!("GET / HTTP/1.1\r\nhost: {host}\r\ncook"),
        format!("{}csrf={csrf}&name=w", head("/workspaces", form)),
        format!("{}{token}{file}", head("/w/w/secrets/import", with_file)),
        format!("{}{token}", head("/backup/restore", with_file)),
    ];
    let mut stalled = Vec::new();
    for beginning in beginnings.iter().cycle().take(MANY) {
        let mut stream = bob.connect().await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    assert_answers_soon(&mut alice).await;
    let csrf = alice.sign_in().await;
    assert_eq!(alice.create(&csrf, "made").await, StatusCode::SEE_OTHER);
    // Bob's other requests are answered while these wait.
    assert_answers_soon(&mut bob).await;
    drop(stalled);
}
