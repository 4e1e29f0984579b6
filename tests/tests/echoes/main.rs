//! Upstreams that echo the values of secrets: the program gets masks.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    convert::Infallible,
    fs,
    io::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use e2e::{PATIENCE, Pair, eventually};
use flate2::{Compression, write::GzEncoder, write::ZlibEncoder};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

mod grpc;
mod urls;
mod web_sockets;

const SECRET: &str = "canary/5d0c+of an answer~41";
const MASK: &str = "***************************";

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

fn frames(frames: Vec<Frame<Bytes>>) -> Body {
    StreamBody::new(tokio_stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}

/// Starts an upstream over HTTP/1.1 and HTTP/2.
async fn upstream(
    answer: impl Fn(Request<Incoming>) -> Response<Body> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let calls = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let http = auto::Builder::new(TokioExecutor::new());
                drop(http.serve_connection(TokioIo::new(stream), calls).await);
            });
        }
    });
    address
}

/// The settings of a server of a test, as the servers file names them.
#[derive(Clone, Copy)]
struct Setting {
    scrub: &'static str,
    on_echo: &'static str,
    protocol: &'static str,
}

const ALL: Setting = Setting {
    scrub: "scrub: all",
    on_echo: "mask",
    protocol: "auto",
};

/// Starts a pair with the server `dev/api` at `address`.
async fn dev(address: SocketAddr, setting: Setting) -> Pair {
    dev_with(&format!("http://{address}"), "- secret: TOKEN", setting).await
}

/// Starts a pair with the server `dev/api` at `url` and the injection `injection`.
async fn dev_with(url: &str, injection: &str, setting: Setting) -> Pair {
    let Setting {
        scrub,
        on_echo,
        protocol,
    } = setting;
    let file = format!(
        "version: 1\nservers:\n- workspace: dev\n  name: api\n  url: {url}\n  injections:\n  {injection}\n  \
         protocol: {protocol}\n  on_echo: {on_echo}\n  {scrub}\n"
    );
    let pair = Pair::start_with(
        |_| {},
        |settings| fs::write(settings.servers.as_ref().unwrap(), file).unwrap(),
    )
    .await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", SECRET).await;
    pair
}

/// Calls `dev/api`, and returns the answer as soon as its head has come.
async fn begin(pair: &Pair) -> Response<Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let url = pair.injector.url("/dev/api/x").parse().unwrap();
    timeout(PATIENCE, client.get(url)).await.unwrap().unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = timeout(PATIENCE, response.into_body().collect()).await.unwrap();
    String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
}

fn field<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn echoes_everywhere(request: Request<Incoming>) -> Response<Body> {
    let value = request.headers()["x-mcp-secret-token"].to_str().unwrap();
    let host = request.uri().authority().map_or_else(
        || field(request.headers(), "host").to_owned(),
        ToString::to_string,
    );
    let in_url: String = url_encoded(value);
    Response::builder()
        .header("x-echo", format!("Bearer {value}."))
        .header("x-basic", STANDARD.encode(format!("user:{value}")))
        .header("location", format!("http://{host}/next?key={in_url}"))
        .header("link", format!("<http://{host}/next?key={in_url}>; rel=next"))
        .header("set-cookie", format!("session={in_url}; Path=/"))
        .body(whole(format!("{{\"seen\": \"{value}\"}}")))
        .unwrap()
}

fn url_encoded(value: &str) -> String {
    value.replace('/', "%2F").replace('+', "%2B").replace(' ', "%20")
}

#[tokio::test]
async fn each_part_of_an_answer_is_masked_as_the_server_says() {
    let address = upstream(echoes_everywhere).await;
    for protocol in ["http1", "http2"] {
        for (scrub, head, body) in [
            ("scrub: off", false, false),
            ("", true, false),
            ("scrub: headers", true, false),
            ("scrub: all", true, true),
        ] {
            let pair = dev(
                address,
                Setting {
                    scrub,
                    protocol,
                    ..ALL
                },
            )
            .await;
            let answer = begin(&pair).await;
            let headers = answer.headers().clone();
            let expected = if head { MASK } else { SECRET };
            assert_eq!(
                field(&headers, "x-echo"),
                format!("Bearer {expected}."),
                "{scrub}"
            );
            let in_url = if head {
                "*".repeat(MASK.len() + 8)
            } else {
                url_encoded(SECRET)
            };
            let in_url_masked = url_encoded(SECRET).len();
            assert_eq!(in_url.len(), in_url_masked);
            let moved = format!("/dev/api/next?key={in_url}");
            assert!(field(&headers, "location").ends_with(&moved), "{headers:?}");
            assert!(field(&headers, "link").contains(&moved), "{headers:?}");
            assert!(field(&headers, "set-cookie").starts_with(&format!("session={in_url}; ")));
            let basic = STANDARD.decode(field(&headers, "x-basic"));
            let basic = String::from_utf8_lossy(&basic.unwrap_or_default()).into_owned();
            assert_eq!(basic.contains("canary"), !head, "{basic}");
            let expected = if body { MASK } else { SECRET };
            assert_eq!(
                text(answer).await,
                format!("{{\"seen\": \"{expected}\"}}"),
                "{scrub}"
            );
        }
    }
}

#[tokio::test]
async fn a_program_may_ask_that_the_whole_answer_is_masked() {
    let address = upstream(echoes_everywhere).await;
    for scrub in ["scrub: off", "scrub: headers"] {
        let pair = dev(address, Setting { scrub, ..ALL }).await;
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let call = async |asked| {
            let request = Request::get(pair.injector.url("/dev/api/x")).header("x-aerostack-scrub", asked);
            let request = request.body(Full::default()).unwrap();
            timeout(PATIENCE, client.request(request)).await.unwrap().unwrap()
        };
        let answer = call("all").await;
        assert_eq!(field(answer.headers(), "x-echo"), format!("Bearer {MASK}."));
        assert_eq!(text(answer).await, format!("{{\"seen\": \"{MASK}\"}}"));
        for refused in ["off", "headers", ""] {
            let answer = call(refused).await;
            assert_eq!(answer.status(), 400, "{refused}");
            assert_eq!(field(answer.headers(), "x-aerostack-reason"), "REQUEST_MALFORMED");
        }
    }
}

#[tokio::test]
async fn a_value_that_comes_byte_by_byte_is_masked() {
    let address = upstream(|_| {
        let body = format!("before {SECRET} after {SECRET}");
        let bytes = body
            .bytes()
            .map(|byte| Frame::data(Bytes::copy_from_slice(&[byte])));
        Response::new(frames(bytes.collect()))
    })
    .await;
    for protocol in ["http1", "http2"] {
        let pair = dev(address, Setting { protocol, ..ALL }).await;
        assert_eq!(
            text(begin(&pair).await).await,
            format!("before {MASK} after {MASK}")
        );
    }
}

/// Answers with the part that the request asks for, as a server of files does.
fn answers_with_a_part(request: Request<Incoming>) -> Response<Body> {
    let text = format!("{}{SECRET}{}", "x".repeat(1000), "y".repeat(1000));
    let range = field(request.headers(), "range").strip_prefix("bytes=");
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return Response::new(whole(text));
    };
    let first: usize = first.parse().unwrap();
    let last: usize = last.parse().unwrap_or(text.len() - 1);
    let response = Response::builder().status(206);
    let response = response.header("content-range", format!("bytes {first}-{last}/{}", text.len()));
    response.body(whole(text[first..=last].to_owned())).unwrap()
}

#[tokio::test]
async fn a_program_cannot_have_the_two_halves_of_a_value_in_two_answers() {
    let address = upstream(answers_with_a_part).await;
    let masked = format!("{}{MASK}{}", "x".repeat(1000), "y".repeat(1000));
    for (scrub, asked, status) in [
        ("scrub: all", None, 200),
        ("scrub: headers", Some("all"), 200),
        ("scrub: headers", None, 206),
    ] {
        let pair = dev(address, Setting { scrub, ..ALL }).await;
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        for range in ["bytes=0-1010", "bytes=1011-"] {
            let request = Request::get(pair.injector.url("/dev/api/x")).header("range", range);
            let request = asked
                .into_iter()
                .fold(request, |request, all| request.header("x-aerostack-scrub", all));
            let call = client.request(request.body(Full::default()).unwrap());
            let answer = timeout(PATIENCE, call).await.unwrap().unwrap();
            assert_eq!(answer.status(), status, "{scrub} {range}");
            if status == 200 {
                assert_eq!(text(answer).await, masked, "{scrub} {range}");
            }
        }
    }
}

/// Starts an upstream whose body the test sends.
async fn fed_upstream(content_type: &'static str) -> (SocketAddr, mpsc::UnboundedSender<Frame<Bytes>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = Mutex::new(Some(receiver));
    let address = upstream(move |_| {
        let frames = UnboundedReceiverStream::new(receiver.lock().unwrap().take().unwrap());
        let mut response = Response::new(StreamBody::new(frames.map(Ok)).boxed_unsync());
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert("content-type", content_type);
        response
    })
    .await;
    (address, sender)
}

/// Reads data of a body until they are as long as `expected`, and compares them.
async fn assert_next(body: &mut Incoming, expected: &str) {
    let mut data = Vec::new();
    while data.len() < expected.len() {
        let frame = timeout(PATIENCE, body.frame()).await.expect("nothing came");
        data.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(String::from_utf8_lossy(&data), expected);
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (address, sender) = fed_upstream("text/event-stream").await;
    let pair = dev(address, ALL).await;
    let mut body = begin(&pair).await.into_body();
    for (event, expected) in [
        ("data: one\n\n".to_owned(), "data: one\n\n".to_owned()),
        (format!("data: {SECRET}\n\n"), format!("data: {MASK}\n\n")),
        ("data: two\n\n".to_owned(), "data: two\n\n".to_owned()),
    ] {
        sender.send(Frame::data(event.into())).unwrap();
        assert_next(&mut body, &expected).await;
    }
}

#[tokio::test]
async fn the_last_bytes_arrive_although_nothing_follows_them() {
    let (address, sender) = fed_upstream("text/plain").await;
    let pair = dev(address, ALL).await;
    let mut body = begin(&pair).await.into_body();
    sender.send(Frame::data("no end of line".into())).unwrap();
    assert_next(&mut body, "no end of line").await;
    // A value has begun, and what follows shows that it is another text.
    let (beginning, _) = SECRET.split_at(20);
    sender.send(Frame::data(beginning.into())).unwrap();
    assert_next(&mut body, beginning).await;
    sender.send(Frame::data(SECRET.into())).unwrap();
    assert_next(&mut body, MASK).await;
}

#[tokio::test]
async fn a_compressed_body_is_decoded_and_masked() {
    let plain = format!("{{\"seen\": \"{SECRET}\"}}");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(plain.as_bytes()).unwrap();
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(plain.as_bytes()).unwrap();
    let zstd =
        ruzstd::encoding::compress_to_vec(plain.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    // A meta-block without compression (RFC 7932, section 9.2), and an empty last one.
    let block = (u32::try_from(plain.len()).unwrap() - 1) << 4 | 1 << 20;
    let brotli = [&block.to_le_bytes()[..3], plain.as_bytes(), &[3]].concat();
    for (coding, body) in [
        ("gzip", gzip.finish().unwrap()),
        ("x-gzip", {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(plain.as_bytes()).unwrap();
            gzip.finish().unwrap()
        }),
        ("deflate", deflate.finish().unwrap()),
        ("zstd", zstd),
        ("br", brotli),
    ] {
        let asked = Arc::new(Mutex::new(String::new()));
        let recorded = asked.clone();
        let address = upstream(move |request| {
            *recorded.lock().unwrap() = field(request.headers(), "accept-encoding").to_owned();
            let response = Response::builder().header("content-encoding", coding);
            response.body(whole(body.clone())).unwrap()
        })
        .await;
        let pair = dev(address, ALL).await;
        let answer = begin(&pair).await;
        assert_eq!(field(answer.headers(), "content-encoding"), "", "{coding}");
        assert_eq!(
            text(answer).await,
            format!("{{\"seen\": \"{MASK}\"}}"),
            "{coding}"
        );
        assert_eq!(*asked.lock().unwrap(), "identity");
    }
}

#[tokio::test]
async fn an_answer_whose_window_is_too_large_is_broken_off() {
    // "plain text" with a window of 1 GiB and of 128 MiB.
    let brotli = &b"\x11\x1e\x12\x00\x02plain text\x03"[..];
    let zstd = &b"\x28\xb5\x2f\xfd\x00\x88\x51\x00\x00plain text"[..];
    for (coding, body) in [("br", brotli), ("zstd", zstd)] {
        let address = upstream(move |_| {
            let response = Response::builder().header("content-encoding", coding);
            response.body(whole(body)).unwrap()
        })
        .await;
        let pair = dev(address, ALL).await;
        let answer = timeout(PATIENCE, begin(&pair).await.into_body().collect()).await;
        assert!(answer.unwrap().is_err(), "{coding}");
        let series = "aerostack_injector_broken_off_calls_total{workspace=\"dev\",server=\"api\",reason=\"UPSTREAM_ENCODING_UNSUPPORTED\"} 1";
        assert_counted(&pair, series).await;
    }
}

#[tokio::test]
async fn an_answer_in_an_unknown_encoding_is_refused() {
    for coding in ["compress", "gzip, br"] {
        let address = upstream(move |_| {
            let response = Response::builder().header("content-encoding", coding);
            response.body(whole("x")).unwrap()
        })
        .await;
        let pair = dev(address, ALL).await;
        let answer = begin(&pair).await;
        assert_eq!(answer.status(), 502);
        let reason = field(answer.headers(), "x-aerostack-reason");
        assert_eq!(reason, "UPSTREAM_ENCODING_UNSUPPORTED", "{coding}");
        // Where bodies are not searched, an encoding is not the injector's business.
        let pair = dev(
            address,
            Setting {
                scrub: "scrub: headers",
                ..ALL
            },
        )
        .await;
        assert_eq!(begin(&pair).await.status(), 200);
    }
}

#[tokio::test]
async fn an_answer_with_a_value_is_blocked_where_the_server_says_so() {
    let in_head = upstream(echoes_everywhere).await;
    let setting = Setting {
        on_echo: "block",
        ..ALL
    };
    let pair = dev(in_head, setting).await;
    let answer = begin(&pair).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(
        field(answer.headers(), "x-aerostack-reason"),
        "UPSTREAM_ECHOED_SECRET"
    );
    let problem = text(answer).await;
    assert!(
        problem.contains("TOKEN") && !problem.contains("canary"),
        "{problem}"
    );

    let in_body = upstream(|_| {
        let bytes = ["before ", SECRET, " after"];
        let bytes = bytes.map(|part| Frame::data(Bytes::from_static(part.as_bytes())));
        Response::new(frames(bytes.into()))
    })
    .await;
    let pair = dev(in_body, setting).await;
    let mut body = begin(&pair).await.into_body();
    let mut data = Vec::new();
    let failed = loop {
        match timeout(PATIENCE, body.frame()).await.unwrap() {
            Some(Ok(frame)) => data.extend_from_slice(&frame.into_data().unwrap()),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(failed, "the answer ended as if it were complete");
    assert!("before ".as_bytes().starts_with(&data), "{data:?}");
    assert_counted(&pair, &format!("{BROKEN_OFF} 1\n")).await;
}

#[tokio::test]
async fn echoes_are_counted_by_part() {
    let address = upstream(echoes_everywhere).await;
    let pair = dev(address, ALL).await;
    text(begin(&pair).await).await;
    for part in ["head", "body"] {
        let series =
            format!("aerostack_injector_echoes_total{{workspace=\"dev\",server=\"api\",part=\"{part}\"}} 1");
        assert_counted(&pair, &series).await;
    }
}

/// Waits until the metrics of the injector have `series`.
async fn assert_counted(pair: &Pair, series: &str) {
    eventually("the event is counted", async || {
        let page = e2e::pair::get(&format!("http://{}/metrics", pair.injector.metrics)).await;
        String::from_utf8_lossy(page.body()).contains(series)
    })
    .await;
}

/// The series of calls that were broken off because of a value.
const BROKEN_OFF: &str = "aerostack_injector_broken_off_calls_total{workspace=\"dev\",server=\"api\",reason=\"UPSTREAM_ECHOED_SECRET\"}";

/// The text after the status code is not a header, but reaches the program as well.
#[tokio::test]
async fn a_value_in_the_status_line_is_removed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = format!("HTTP/1.1 400 {SECRET}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let pair = dev(
        address,
        Setting {
            scrub: "scrub: headers",
            ..ALL
        },
    )
    .await;
    let answer = begin(&pair).await;
    assert_eq!(answer.status(), 400);
    assert!(answer.extensions().get::<hyper::ext::ReasonPhrase>().is_none());
}
