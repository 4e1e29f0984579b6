//! The request target: parameters that the URL of a server fixes, and values of secrets in the path and the query.

use e2e::{Upstream, pair::server};
use proto::injector::v1::{Protocol, Server};

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
