//! WebSockets, whose messages come in frames.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::{PATIENCE, Pair};
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        handshake::client::Response,
        protocol::{
            CloseFrame,
            frame::{
                Frame as WebSocketFrame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

use super::{ALL, BROKEN_OFF, MASK, SECRET, Setting, assert_counted, dev};

/// Opens a WebSocket through the injector, whose client would accept compressed messages.
async fn open(pair: &Pair) -> (WebSocketStream<TcpStream>, Response) {
    let address = pair.injector.data_plane;
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}/dev/api/chat")
        .into_client_request()
        .unwrap();
    let compression = HeaderValue::from_static("permessage-deflate");
    request
        .headers_mut()
        .insert("sec-websocket-extensions", compression);
    client_async(request, stream).await.unwrap()
}

#[tokio::test]
async fn messages_of_a_websocket_are_masked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let long = format!("{}{SECRET}{}", "x".repeat(70_000), "y".repeat(300));
        for message in [
            Message::text(format!("text {SECRET}")),
            Message::binary(format!("binary {SECRET} rest").into_bytes()),
            Message::text(long),
            Message::Ping(Bytes::from_static(SECRET.as_bytes())),
        ] {
            socket.send(message).await.unwrap();
        }
        let (beginning, rest) = SECRET.split_at(9);
        for (text, opcode, is_last) in [
            (beginning, Data::Text, false),
            ("", Data::Continue, false),
            (rest, Data::Continue, true),
        ] {
            let frame = WebSocketFrame::message(text.to_owned(), OpCode::Data(opcode), is_last);
            socket.send(Message::Frame(frame)).await.unwrap();
        }
        let close = CloseFrame {
            code: CloseCode::Policy,
            reason: format!("no {SECRET}").into(),
        };
        socket.close(Some(close)).await.unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    let pair = dev(address, ALL).await;
    let (mut socket, response) = open(&pair).await;
    assert!(response.headers().get("sec-websocket-extensions").is_none());
    let mut messages = Vec::new();
    while let Some(Ok(message)) = timeout(PATIENCE, socket.next()).await.unwrap() {
        messages.push(message);
    }
    let close = CloseFrame {
        code: CloseCode::Policy,
        reason: format!("no {MASK}").into(),
    };
    assert_eq!(
        messages,
        [
            Message::text(format!("text {MASK}")),
            Message::binary(format!("binary {MASK} rest").into_bytes()),
            Message::text(format!("{}{MASK}{}", "x".repeat(70_000), "y".repeat(300))),
            Message::Ping(Bytes::from_static(MASK.as_bytes())),
            Message::text(MASK),
            Message::Close(Some(close)),
        ]
    );
    drop(socket);
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_blocked_websocket_is_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        socket.send(Message::text(SECRET)).await.unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    let setting = Setting {
        on_echo: "block",
        ..ALL
    };
    let pair = dev(address, setting).await;
    let (mut socket, _) = open(&pair).await;
    let first = timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(!matches!(first, Some(Ok(_))), "{first:?}");
    assert_counted(&pair, &format!("{BROKEN_OFF} 1\n")).await;
}

/// An upstream can send control frames inside a fragmented message without end.
#[tokio::test]
async fn control_frames_inside_a_message_are_passed_on_without_its_end() {
    const SENDING: Duration = Duration::from_secs(8);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let begun = WebSocketFrame::message("hello".to_owned(), OpCode::Data(Data::Text), false);
        socket.send(Message::Frame(begun)).await.unwrap();
        let began = Instant::now();
        while began.elapsed() < SENDING && socket.send(Message::Ping(Bytes::new())).await.is_ok() {}
    });
    let pair = dev(address, ALL).await;
    let (mut socket, _) = open(&pair).await;
    let first = timeout(SENDING / 2, socket.next())
        .await
        .expect("no frame arrives");
    assert!(first.unwrap().unwrap().is_ping());
    drop(socket);
    serving.await.unwrap();
}
