//! Places of values in the URL and in the body, beside those that the auth types give.

use bytes::Bytes;
use e2e::{Seen, pair::server};
use http::{Request, Response, StatusCode, request::Builder};
use http_body_util::Full;
use proto::injector::v1::{
    FormPlacement, JsonPlacement, PathPlacement, Protocol, QueryPlacement, Scrub, Server,
    injection::Placement,
};

use super::{SECRET, SENT, Scene, injection};

/// The end of the paths that the upstream redirects.
const REDIRECTED: &str = "/redirected";

#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Query,
    Path,
    Form,
    JsonPointer,
}

impl Place {
    pub(super) const ALL: [Self; 4] = [Self::Query, Self::Path, Self::Form, Self::JsonPointer];

    /// Returns the name of a server of the tests.
    pub(super) fn server_name(self, of: &str) -> String {
        format!("{of}-{self:?}").to_ascii_lowercase()
    }

    /// Returns a server at `url` with `secret` in this place.
    pub(super) fn server(self, name: &str, url: &str, secret: &str) -> Server {
        let value = format!("v-${{{secret}}}");
        let (path, placement) = match self {
            Self::Query => {
                let name = "key".to_owned();
                (String::new(), Placement::Query(QueryPlacement { name, value }))
            }
            Self::Path => {
                let variable = secret.to_owned();
                let path = format!("/bot${{{secret}}}");
                (path, Placement::Path(PathPlacement { variable }))
            }
            Self::Form => {
                let field = "token".to_owned();
                (String::new(), Placement::Form(FormPlacement { field, value }))
            }
            Self::JsonPointer => {
                let pointer = "/auth/token".to_owned();
                (String::new(), Placement::Json(JsonPlacement { pointer, value }))
            }
        };
        Server {
            injections: vec![injection(placement)],
            ..server("dev", name, &format!("{url}{path}"), &[])
        }
    }

    /// Returns a request in whose body the place is, if it is one of a body.
    pub(super) fn request(self, path: &str) -> Builder {
        let content_type = match self {
            Self::Query | Self::Path | Self::JsonPointer => "application/json",
            Self::Form => "application/x-www-form-urlencoded",
        };
        Request::post(path).header("content-type", content_type)
    }

    /// Returns a body with a value of the program in the place, if it is one of a body.
    pub(super) fn body(self) -> String {
        match self {
            Self::Query | Self::Path => "{}".to_owned(),
            Self::Form => format!("token={SENT}&a=1"),
            Self::JsonPointer => format!("{{\"auth\":{{\"token\":\"{SENT}\"}}}}"),
        }
    }

    /// Returns true when the upstream got the value in the place, and nothing of what the program sent there.
    fn arrived(self, seen: &Seen) -> bool {
        let body = String::from_utf8_lossy(&seen.body);
        let is_here = match self {
            Self::Query => seen.target.contains(&format!("key=v-{SECRET}")),
            Self::Path => seen.target.contains(&format!("/bot{SECRET}")),
            Self::Form | Self::JsonPointer => body.contains(&format!("v-{SECRET}")),
        };
        is_here && !seen.target.contains(SENT) && !body.contains(SENT)
    }
}

/// Returns the servers that get their secrets.
pub(super) fn servers(url: &str) -> Vec<Server> {
    let http2 = |server: Server| Server {
        protocol: Protocol::Http2.into(),
        ..server
    };
    let mut servers = Vec::new();
    for place in Place::ALL {
        let secret = match place {
            Place::Query | Place::Path => "HEADER",
            Place::Form | Place::JsonPointer => "TEXT",
        };
        servers.push(place.server(&place.server_name("one"), url, secret));
        servers.push(http2(place.server(&place.server_name("two"), url, secret)));
        servers.push(place.server(&place.server_name("illegal"), url, "DATA_BIN"));
        servers.push(Server {
            scrub: Scrub::Off.into(),
            ..place.server(&place.server_name("unscrubbed"), url, secret)
        });
    }
    // The targets of their requests are too short for a placeholder over HTTP/2.
    for place in [Place::Query, Place::Path] {
        servers.push(http2(place.server(&place.server_name("short"), url, "SHORT")));
    }
    servers
}

/// Makes calls that reach the upstream with their secrets.
pub(super) async fn successes(scene: &mut Scene) {
    for place in Place::ALL {
        for of in ["one", "two"] {
            let path = format!("/dev/{}/x", place.server_name(of));
            let taken = format!("{path}?key={SENT}&KEY[]={SENT}");
            let path = if matches!(place, Place::Query) {
                &taken
            } else {
                &path
            };
            assert_eq!(scene.send(place.request(path), place.body()).await, 200, "{path}");
            assert!(place.arrived(&scene.upstream.last()), "{path}");
            assert_eq!(
                scene.http2(place.request(path), place.body()).await,
                200,
                "{path}"
            );
            assert!(place.arrived(&scene.upstream.last()), "{path}");
        }
    }
    for place in [Place::Query, Place::Path] {
        let path = format!("/dev/{}", place.server_name("short"));
        assert_eq!(scene.send(Request::get(&path), "").await, 200, "{path}");
        assert!(place.arrived(&scene.upstream.last()), "{path}");
    }
}

/// Makes calls that the upstream redirects to the URL of the request.
pub(super) async fn redirects(scene: &mut Scene) {
    for place in [Place::Query, Place::Path] {
        for of in ["one", "two", "unscrubbed"] {
            let path = format!("/dev/{}{REDIRECTED}", place.server_name(of));
            assert_eq!(scene.send(Request::get(&path), "").await, 302, "{path}");
            assert!(place.arrived(&scene.upstream.last()), "{path}");
        }
    }
}

/// Makes calls that are refused because of their value.
pub(super) async fn refusals(scene: &mut Scene) {
    for place in Place::ALL {
        let path = format!("/dev/{}/", place.server_name("illegal"));
        assert_eq!(
            scene.send(place.request(&path), place.body()).await,
            502,
            "{path}"
        );
        assert_eq!(
            scene.http2(place.request(&path), place.body()).await,
            502,
            "{path}"
        );
    }
}

/// Answers a request. A path that ends in [`REDIRECTED`] gets its own URL in all fields from which programs take URLs.
pub(super) fn answer(seen: &Seen) -> Response<Full<Bytes>> {
    let response = Response::new(Full::from("ok"));
    let path = seen.target.split('?').next().unwrap_or_default();
    if !path.ends_with(REDIRECTED) {
        return response;
    }
    let url = format!("http://{}{}", seen.host, seen.target);
    let (mut head, body) = response.into_parts();
    head.status = StatusCode::FOUND;
    for (name, value) in [
        ("location", url.clone()),
        ("content-location", seen.target.clone()),
        ("link", format!("<{url}>; rel=\"next\"")),
        ("refresh", format!("0; url={url}")),
        ("x-original-url", url),
    ] {
        head.headers.insert(name, value.parse().unwrap());
    }
    Response::from_parts(head, body)
}
