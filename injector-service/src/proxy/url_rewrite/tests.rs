use super::*;
use crate::work_growth::{assert_linear, repeated};

/// Rewrites one header of the response to `https://api.example.com/v1/x/y`, by a server at
/// `https://api.example.com/v1/`.
fn rewritten(prefix: &str, name: &'static str, value: &str) -> Option<String> {
    rewritten_with(Oauth::Replace, prefix, name, value)
}

fn rewritten_with(oauth: Oauth, prefix: &str, name: &'static str, value: &str) -> Option<String> {
    let server = Spec {
        oauth,
        ..Spec::of_url("https://api.example.com/v1/")
    };
    let mut headers = HeaderMap::new();
    headers.insert(name, value.parse().unwrap());
    ServerUrls {
        scheme: "http",
        authority: &"localhost:7100".parse().unwrap(),
        prefix,
        server: &server,
        request: &SentUrl::new("https://api.example.com/v1/x/y".parse().unwrap()),
    }
    .rewrite_headers(&mut headers);
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// Rewrites the headers of the response to a request whose URL has about `request` bytes.
fn rewritten_for(request: usize, headers: &mut HeaderMap) {
    let url = format!("https://api.example.com/v1/{}?q", "x".repeat(request));
    ServerUrls {
        scheme: "http",
        authority: &"localhost:7100".parse().unwrap(),
        prefix: "/w/s",
        server: &Spec::of_url("https://api.example.com/v1/"),
        request: &SentUrl::new(url.parse().unwrap()),
    }
    .rewrite_headers(headers);
}

#[test]
fn the_work_for_links_grows_with_their_length_only() {
    for link in [
        "<a:>,",
        "<b>,",
        "<../b>",
        "<//a>",
        "<",
        "\"",
        "\"\"",
        "anchor=\"b\";",
        ";=\"\"",
        "\u{e9}",
    ] {
        let links = |length: usize| repeated("<a:>", link, length);
        assert_linear(link, links, |value| {
            let mut headers = HeaderMap::new();
            headers.insert("link", HeaderValue::from_bytes(value).unwrap());
            rewritten_for(value.len(), &mut headers);
        });
    }
}

#[test]
fn a_link_field_beyond_the_most_links_of_a_head_is_removed() {
    let link = |count: usize| HeaderValue::try_from(vec!["<b>"; count].join(",")).unwrap();
    let mut headers = HeaderMap::new();
    for count in [MAX_LINKS - 2, 2, 1] {
        headers.append("link", link(count));
    }
    headers.append("location", HeaderValue::from_static("/v1/b"));
    rewritten_for(0, &mut headers);
    let left: Vec<_> = headers.get_all("link").iter().map(HeaderValue::len).collect();
    let whole = |count: usize| count * "</w/s/b>,".len() - 1;
    assert_eq!(left, [whole(MAX_LINKS - 2), whole(2)]);
    assert_eq!(headers["location"], "/w/s/b");
}

#[test]
fn a_url_on_the_server_leads_to_the_injector_in_every_way_of_naming() {
    for (location, by_path, otherwise) in [
        (
            "https://api.example.com/v1/b?q=1#f",
            "http://localhost:7100/w/s/b?q=1#f",
            "http://localhost:7100/b?q=1#f",
        ),
        (
            "https://API.example.com:443/v1",
            "http://localhost:7100/w/s",
            "http://localhost:7100/",
        ),
        (
            "http://api.example.com/v1/b",
            "http://localhost:7100/w/s/b",
            "http://localhost:7100/b",
        ),
        (
            "http://api.example.com:443/v1/b",
            "http://localhost:7100/w/s/b",
            "http://localhost:7100/b",
        ),
        ("/v1/b", "/w/s/b", "/b"),
        ("//api.example.com/v1/b", "/w/s/b", "/b"),
        ("b", "/w/s/x/b", "/x/b"),
        ("?q", "/w/s/x/y?q", "/x/y?q"),
        ("/v1?q", "/w/s?q", "/?q"),
        (
            "/v1//evil.example",
            "/w/s//evil.example",
            "http://localhost:7100//evil.example",
        ),
    ] {
        for (prefix, expected) in [("/w/s", by_path), ("", otherwise)] {
            assert_eq!(
                rewritten(prefix, "location", location).as_deref(),
                Some(expected),
                "{location}"
            );
        }
    }
}

#[test]
fn any_other_url_leads_where_it_led() {
    for (location, expected) in [
        ("/other", "https://api.example.com/other"),
        ("/v10/b", "https://api.example.com/v10/b"),
        ("../../../b", "https://api.example.com/b"),
        ("//elsewhere.example/b", "https://elsewhere.example/b"),
        ("https://elsewhere.example/v1/b", "https://elsewhere.example/v1/b"),
        (
            "https://api.example.com:8443/v1",
            "https://api.example.com:8443/v1",
        ),
        ("http://api.example.com:8443/v1", "http://api.example.com:8443/v1"),
        ("data:,x", "data:,x"),
    ] {
        for prefix in ["/w/s", ""] {
            assert_eq!(
                rewritten(prefix, "location", location).as_deref(),
                Some(expected),
                "{location}"
            );
        }
    }
    assert_eq!(rewritten("/w/s", "location", "https://["), None);
}

#[test]
fn urls_are_rewritten_in_every_header_that_carries_some() {
    for (name, value, expected) in [
        ("content-location", "/v1/b", Some("/w/s/b")),
        (
            "operation-location",
            "https://api.example.com/v1/ops/1",
            Some("http://localhost:7100/w/s/ops/1"),
        ),
        (
            "azure-asyncoperation",
            "https://api.example.com/v1/ops/1?api-version=1",
            Some("http://localhost:7100/w/s/ops/1?api-version=1"),
        ),
        ("sourcemap", "y.map", Some("/w/s/x/y.map")),
        ("x-sourcemap", "/v1/y.map", Some("/w/s/y.map")),
        (
            "link",
            "<https://api.example.com/v1/r?page=2>; rel=\"next\", </v1/r?page=9>; rel=last",
            Some("<http://localhost:7100/w/s/r?page=2>; rel=\"next\", </w/s/r?page=9>; rel=last"),
        ),
        (
            "link",
            "<https://other.example/>; title=\"a \\\"<b>, c\"; Anchor = \"/v1/z\"; x=\"/v1/z\"",
            Some("<https://other.example/>; title=\"a \\\"<b>, c\"; Anchor = \"/w/s/z\"; x=\"/v1/z\""),
        ),
        ("link", "<https://[>; rel=next", None),
        ("link", "</v1/b", None),
        ("link", "</v1/b>; title=\"", None),
        ("uri", "</v1/b>", Some("</w/s/b>")),
        ("uri", "/v1/b", Some("/w/s/b")),
        ("refresh", "5", Some("5")),
        ("refresh", "5; url=/v1/b", Some("5; url=/w/s/b")),
        ("refresh", "0;URL = '/v1/b' x", Some("0; url=/w/s/b")),
        (
            "refresh",
            "1.5, \"https://api.example.com/v1/b\"",
            Some("1.5; url=http://localhost:7100/w/s/b"),
        ),
        ("refresh", "5 url=urls", Some("5; url=/w/s/x/urls")),
        ("refresh", "5; url=https://[", None),
        ("x-mine", "/v1/b", Some("/v1/b")),
    ] {
        assert_eq!(
            rewritten("/w/s", name, value).as_deref(),
            expected,
            "{name}: {value}"
        );
    }
}

#[test]
fn urls_of_oauth_documents_are_rewritten_where_the_program_authenticates_itself() {
    let challenge =
        |url: &str| format!("Basic realm=\"/v1/<\", Bearer Resource_Metadata = \"{url}\", scope=\"a\"");
    let document = "/.well-known/oauth-protected-resource";
    for (oauth, prefix, url, expected) in [
        (
            Oauth::Pass,
            "/w/s",
            format!("https://api.example.com{document}/v1"),
            format!("http://localhost:7100{document}/w/s"),
        ),
        (
            Oauth::Pass,
            "",
            format!("https://api.example.com{document}/v1/a"),
            format!("http://localhost:7100{document}/a"),
        ),
        (
            Oauth::Pass,
            "",
            format!("https://api.example.com{document}/v1"),
            format!("http://localhost:7100{document}"),
        ),
        (
            Oauth::Pass,
            "/w/s",
            format!("https://api.example.com{document}"),
            format!("https://api.example.com{document}"),
        ),
        (
            Oauth::Pass,
            "/w/s",
            "https://api.example.com/v1/metadata.json?q".to_owned(),
            "http://localhost:7100/.well-known/x-aerostack-resource-metadata/w/s/metadata.json?q".to_owned(),
        ),
        (
            Oauth::Replace,
            "/w/s",
            format!("https://api.example.com{document}/v1"),
            format!("https://api.example.com{document}/v1"),
        ),
    ] {
        let rewritten = rewritten_with(oauth, prefix, "www-authenticate", &challenge(&url));
        assert_eq!(rewritten, Some(challenge(&expected)));
    }
}
