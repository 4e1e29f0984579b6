use http::HeaderValue;

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn an_upgrade_has_to_be_named_by_connection() {
    for (connection, named) in [
        (&["upgrade"][..], true),
        (&["Upgrade"], true),
        (&["keep-alive, UPGRADE"], true),
        (&["keep-alive", "x,upgrade ,"], true),
        (&[], false),
        (&[""], false),
        (&["close"], false),
        (&["upgrades"], false),
        (&["x-upgrade"], false),
        (&["up grade"], false),
    ] {
        let pairs: Vec<_> = connection.iter().map(|value| ("connection", *value)).collect();
        assert_eq!(is_named_by_connection(&headers(&pairs)), named, "{connection:?}");
    }
}

#[test]
fn protocols_that_lead_to_http_are_not_requested() {
    for (upgrade, expected) in [
        (&["websocket"][..], &["websocket"][..]),
        (&["WebSocket", "tcp"], &["WebSocket", "tcp"]),
        (&["h2c, websocket"], &["websocket"]),
        (&["SPDY/3.1,x"], &["SPDY/3.1", "x"]),
        (&["h2c"], &[]),
        (&["H2C, h2", "h3"], &[]),
        (&["HTTP/2.0, http, TLS/1.0"], &[]),
        (&["h2c/1"], &[]),
        (&["", ",, ,"], &[]),
        (
            &["web socket", "a/b/c", "/", "a/", "/b", "x;y", "\"websocket\""],
            &[],
        ),
    ] {
        let upgrade_fields = upgrade.iter().map(|value| ("upgrade", *value));
        let pairs: Vec<_> = upgrade_fields.chain([("connection", "upgrade")]).collect();
        assert_eq!(requested(&headers(&pairs)), expected, "{upgrade:?}");
    }
}

#[test]
fn an_upstream_may_switch_only_to_requested_protocols() {
    let requested = ["websocket".to_owned(), "foo/2".to_owned()];
    for (upgrade, is_agreed) in [
        (&["websocket"][..], true),
        (&["WebSocket"], true),
        (&["foo/2, websocket"], true),
        (&["foo"], false),
        (&["foo/1"], false),
        (&["h2c"], false),
        (&["websocket, h2c"], false),
        (&["websocket", "bar"], false),
        (&["websocket\u{e9}"], false),
        (&[""], false),
        (&[], false),
    ] {
        let mut response = HeaderMap::new();
        for value in upgrade {
            response.append("upgrade", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        assert_eq!(agreed(&response, &requested).is_some(), is_agreed, "{upgrade:?}");
    }
}
