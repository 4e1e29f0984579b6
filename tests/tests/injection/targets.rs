//! The request target: parameters that the URL of a server fixes, and values of secrets in the path and the query.

use e2e::{
    PATIENCE, Pair, Upstream,
    frames::{self, HEADERS, PREFACE, SETTINGS, frame},
    pair::server,
};
use proto::injector::v1::{Injection, Protocol, QueryPlacement, Server, injection::Placement};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::{call, dev};

/// Spellings of a parameter `key` that a server may read as this parameter.
const SPOOFS: [&str; 17] = [
    "key=spoofed",
    "key",
    "KEY=spoofed",
    "k%65y=spoofed",
    "%6B%65%79=spoofed",
    "%4bey=spoofed",
    "key[]=spoofed",
    "key[a]=spoofed",
    "key%5B%5D=spoofed",
    "[key]=spoofed",
    "%5Bkey%5D=spoofed",
    "key]=spoofed",
    "+key=spoofed",
    "%20key=spoofed",
    "key%00=spoofed",
    "%u006bey=spoofed",
    "key=spoofed&Key=spoofed;kEy=spoofed",
];

#[tokio::test]
async fn the_fixed_query_of_a_url_comes_first_and_no_program_replaces_it() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    for (name, protocol) in [("one", Protocol::Http1), ("two", Protocol::Http2)] {
        let url = format!("{}/v1?key=fixed&beta", upstream.url());
        let described = server("dev", name, &url, &["TOKEN"]);
        let added = pair
            .injector
            .add(Server {
                protocol: protocol.into(),
                ..described
            })
            .await;
        assert_eq!(added.url, url);
        for (sent, arrives) in [
            ("", "/v1?key=fixed&beta"),
            ("?", "/v1?key=fixed&beta"),
            ("/a", "/v1/a?key=fixed&beta"),
            ("/a?b=%20c;d&&", "/v1/a?key=fixed&beta&b=%20c;d&&"),
            ("/a?keys=1&my-key=2", "/v1/a?key=fixed&beta&keys=1&my-key=2"),
            ("/a?BETA=2", "/v1/a?key=fixed&beta"),
        ] {
            assert_eq!(call(&pair, &format!("/dev/{name}{sent}")).await.status(), 200);
            let seen = upstream.last();
            assert_eq!(seen.target, arrives, "{name} {sent}");
            assert_eq!(seen.header("x-mcp-secret-token"), Some("tok-1"));
        }
        for spoof in SPOOFS {
            for (sent, arrives) in [
                (spoof.to_owned(), "/v1/a?key=fixed&beta"),
                (format!("b=1&{spoof}&c=2"), "/v1/a?key=fixed&beta&b=1&c=2"),
            ] {
                assert_eq!(call(&pair, &format!("/dev/{name}/a?{sent}")).await.status(), 200);
                assert_eq!(upstream.last().target, arrives, "{name} {spoof}");
            }
        }
    }
    pair.stop().await;
}

/// A value whose encoding in a URL differs from the value.
const VALUE: &str = "canary/77b1 e0&key=x#";
const ENCODED: &str = "canary%2F77b1%20e0%26key%3Dx%23";

fn place(placement: Placement) -> Injection {
    Injection {
        required: false,
        placement: Some(placement),
    }
}

fn query(name: &str, value: &str) -> Injection {
    place(Placement::Query(QueryPlacement {
        name: name.to_owned(),
        value: value.to_owned(),
    }))
}

/// Adds the server `dev/NAME` at `url`, with injections of its own.
async fn add(pair: &Pair, name: &str, protocol: Protocol, url: &str, injections: &[Injection]) {
    let described = server("dev", name, url, &[]);
    pair.injector
        .add(Server {
            protocol: protocol.into(),
            injections: injections.to_vec(),
            ..described
        })
        .await;
}

#[tokio::test]
async fn a_value_goes_into_the_query_in_place_of_the_programs_parameters() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("KEY", VALUE), ("ID", "short")]).await;
    let injections = [
        query("key", "v1 ${KEY}"),
        query("absent", "${NONE}"),
        query("id", "${ID}"),
    ];
    for (name, protocol) in [("one", Protocol::Http1), ("two", Protocol::Http2)] {
        let url = format!("{}/v1?fixed=1", upstream.url());
        add(&pair, name, protocol, &url, &injections).await;
        let injected = format!("fixed=1&key=v1%20{ENCODED}&id=short");
        for (sent, arrives) in [
            ("", format!("/v1?{injected}")),
            ("/a?b=1", format!("/v1/a?{injected}&b=1")),
            ("/a?absent=spoofed&b=1&id=x", format!("/v1/a?{injected}&b=1")),
        ] {
            assert_eq!(call(&pair, &format!("/dev/{name}{sent}")).await.status(), 200);
            assert_eq!(upstream.last().target, arrives, "{name} {sent}");
        }
        for spoof in SPOOFS {
            assert_eq!(call(&pair, &format!("/dev/{name}/a?{spoof}")).await.status(), 200);
            assert_eq!(
                upstream.last().target,
                format!("/v1/a?{injected}"),
                "{name} {spoof}"
            );
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn values_go_into_the_path_and_the_query_of_the_servers_url() {
    let upstream = Upstream::start().await;
    let pair = dev(&[
        ("TOKEN", "123:abc-DEF_4567890123456789"),
        ("KEY", VALUE),
        ("DOTS", ".."),
    ])
    .await;
    for (name, protocol) in [("one", Protocol::Http1), ("two", Protocol::Http2)] {
        let url = format!("{}/bot${{TOKEN}}/x?key=${{KEY}}", upstream.url());
        add(&pair, name, protocol, &url, &[]).await;
        let (path, query) = ("/bot123%3Aabc-DEF_4567890123456789/x", format!("key={ENCODED}"));
        for (sent, arrives) in [
            ("", format!("{path}?{query}")),
            (
                "/sendMessage?chat_id=1&KEY=2",
                format!("{path}/sendMessage?{query}&chat_id=1"),
            ),
        ] {
            assert_eq!(call(&pair, &format!("/dev/{name}{sent}")).await.status(), 200);
            assert_eq!(upstream.last().target, arrives, "{name} {sent}");
        }
    }
    // A value that would be a dot segment, and a secret that does not exist, leave no URL to send.
    let before = upstream.seen().len();
    for (name, variable) in [("dots", "DOTS"), ("none", "NONE")] {
        let url = format!("{}/${{{variable}}}/x", upstream.url());
        add(&pair, name, Protocol::Http1, &url, &[]).await;
        let response = call(&pair, &format!("/dev/{name}/a")).await;
        assert_eq!(response.status(), 502, "{name}");
        assert!(response.headers().contains_key("x-aerostack-reason"));
    }
    assert_eq!(upstream.seen().len(), before);
    pair.stop().await;
}

/// Returns the first byte of the field `:path` in an HPACK block (RFC 7541, section 6) in which that field has a literal
/// value.
fn path_field(mut block: &[u8]) -> u8 {
    loop {
        let (first, bits) = match block[0] {
            first @ 0x80.. => (first, 7),
            first @ 0x40..0x80 => (first, 6),
            first @ 0x20..0x40 => (first, 5),
            first => (first, 4),
        };
        let index = integer(&mut block, bits);
        if matches!(first, 0x20..0x40 | 0x80..) {
            continue;
        }
        // `:path` is the entry 4 of the static table.
        if index == 4 {
            return first;
        }
        for _ in 0..if index == 0 { 2 } else { 1 } {
            let length = integer(&mut block, 7);
            block = &block[length..];
        }
    }
}

/// Takes an integer whose first byte has this many bits of it (section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> usize {
    let most = (1 << bits) - 1;
    let mut value = usize::from(block[0]) & most;
    *block = &block[1..];
    let mut shift = 0;
    while value >= most {
        let byte = block[0];
        *block = &block[1..];
        value += usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// An intermediary must not put a field into its table that is never indexed (section 7.1.3). A target that is too short for a
/// placeholder is not marked.
#[tokio::test]
async fn over_http_2_a_target_with_a_value_is_never_indexed() {
    const NEVER_INDEXED: u8 = 0x10;
    let pair = dev(&[("TOKEN", "canary-4711-long-enough-for-a-placeholder")]).await;
    for (name, path, is_secret) in [
        ("path", "/in/${TOKEN}", true),
        ("query", "/x?key=${TOKEN}", true),
        ("none", "/x?key=constant", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        add(&pair, name, Protocol::Http2, &url, &[]).await;
        let receiving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            frames::next(&mut stream, HEADERS).await.unwrap().payload
        };
        let request = format!("/dev/{name}/a");
        let block = tokio::select! {
            block = timeout(PATIENCE, receiving) => block.unwrap(),
            response = call(&pair, &request) => panic!("{name}: {response:?}"),
        };
        let first = path_field(&block);
        assert_eq!(first & 0xf0 == NEVER_INDEXED, is_secret, "{name}: {first:#x}");
    }
    pair.stop().await;
}
