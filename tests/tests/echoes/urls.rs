//! Values in the URL of a request, which upstreams repeat in redirects and links as a matter of course.

use http::{Request, Response};
use hyper::body::Incoming;

use super::{ALL, Body, Setting, begin, dev_with, field, upstream, whole};

/// The fields with URLs, and the text before and after each URL.
const FIELDS: [(&str, &str, &str); 4] = [
    ("location", "", ""),
    ("content-location", "", ""),
    ("link", "<", ">; rel=next"),
    ("refresh", "5; url=", ""),
];

/// Repeats the target of the request in every field: as an absolute URL first, and then as a path.
fn repeats_its_target(request: Request<Incoming>) -> Response<Body> {
    let target = request.uri().path_and_query().unwrap().as_str();
    let host = request.uri().authority().map_or_else(
        || field(request.headers(), "host").to_owned(),
        ToString::to_string,
    );
    let mut response = Response::builder().status(302);
    for url in [format!("http://{host}{target}"), target.to_owned()] {
        for (name, before, after) in FIELDS {
            response = response.header(name, format!("{before}{url}{after}"));
        }
    }
    response.body(whole("")).unwrap()
}

#[tokio::test]
async fn a_value_in_the_url_is_masked_in_links_and_redirects_which_lead_to_the_injector() {
    let address = upstream(repeats_its_target).await;
    // The value in the URL has two escaped characters and a space: `canary%2F5d0c%2Bof%20an%20answer~41`.
    let masks = |text: &str| "*".repeat(text.len());
    for (url, injection, expected) in [
        (
            format!("http://{address}/v1"),
            "- query: {name: key, value: \"${TOKEN}\"}",
            format!("x?key={}", masks("canary%2F5d0c%2Bof%20an%20answer~41")),
        ),
        (
            format!("http://{address}/bot${{TOKEN}}/v1"),
            "- path: {variable: TOKEN}",
            "x".to_owned(),
        ),
    ] {
        for scrub in ["scrub: off", "scrub: headers", "scrub: all"] {
            for protocol in ["http1", "http2"] {
                let setting = Setting {
                    scrub,
                    protocol,
                    ..ALL
                };
                let pair = dev_with(&url, injection, setting).await;
                let answer = begin(&pair).await;
                assert_eq!(answer.status(), 302);
                let shown = format!("{scrub} {protocol} {:?}", answer.headers());
                assert!(!shown.contains("canary"), "{shown}");
                let here = format!("/dev/api/{expected}");
                for (name, before, after) in FIELDS {
                    let fields = answer.headers().get_all(name).iter();
                    let fields: Vec<_> = fields.map(|value| value.to_str().unwrap()).collect();
                    let absolute = pair.injector.url(&here);
                    let urls = [absolute, here.clone()].map(|url| format!("{before}{url}{after}"));
                    assert_eq!(fields, urls, "{name}: {shown}");
                }
            }
        }
    }
}
