//! Raw HTTP/2 frames (RFC 9113), for sequences that no HTTP library would send.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::PATIENCE;

/// The client connection preface (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types (RFC 9113, section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

// Flags.
pub const END_STREAM: u8 = 1;
/// Flag of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

// Error codes (RFC 9113, section 7).
pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Encodes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Encodes RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// Encodes GOAWAY with `last` as the last stream that may have been processed.
pub fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// Encodes a header field without indexing (RFC 7541, section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

/// Encodes a header field that is added to the dynamic table (RFC 7541, section 6.2.1).
pub fn indexed_field(name: &str, value: &str) -> Vec<u8> {
    [&[0x40][..], &text(name), &text(value)].concat()
}

/// The newest field of the dynamic table (RFC 7541, section 6.1).
pub const NEWEST_INDEXED_FIELD: u8 = 0x80 | 62;

/// Encodes the pseudo-header fields of a request to `localhost`.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    [
        field(":method", method),
        field(":scheme", "http"),
        field(":authority", "localhost"),
        field(":path", path),
    ]
    .concat()
}

/// `:status: 200` (RFC 7541, appendix A).
pub const STATUS_200: u8 = 0x88;
/// `:status: 400`
pub const STATUS_400: u8 = 0x8c;

fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    match u8::try_from(text.len()) {
        Ok(short @ ..127) => bytes.push(short),
        _ => {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Reads the next frame.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await?;
    Ok(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes(id) & 0x7fff_ffff,
        payload,
    })
}

/// Reads up to the next frame of this type. Returns `None` when the connection ends before that.
pub async fn next(stream: &mut (impl AsyncRead + Unpin), kind: u8) -> Option<Frame> {
    let waiting = async {
        loop {
            match read(stream).await {
                Ok(frame) if frame.kind == kind => return Some(frame),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    timeout(PATIENCE, waiting).await.expect("no such frame arrived")
}

/// Connects, and sends the preface and a SETTINGS frame.
pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    send_preface(stream).await
}

/// Connects over TLS, and sends the preface and a SETTINGS frame.
pub async fn connect_tls(address: SocketAddr, tls: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let connecting = TlsConnector::from(tls).connect(address.ip().into(), stream);
    send_preface(connecting.await.unwrap()).await
}

async fn send_preface<S: AsyncWrite + Unpin>(mut stream: S) -> S {
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

impl Frame {
    /// Returns the error code of a RST_STREAM or GOAWAY frame.
    pub fn code(&self) -> u32 {
        let (_, code) = self.payload.split_at(if self.kind == GOAWAY { 4 } else { 0 });
        u32::from_be_bytes(code[..4].try_into().unwrap())
    }
}
