//! The addresses to which the injector connects, and those to which it never connects.

use std::net::IpAddr;

use bytes::Bytes;
use e2e::{PATIENCE, Pair, Upstream, pair::server};
use http::{HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{GetServerRequest, Server, UpdateServerRequest};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Untouched, call, dev, refusal};

#[tokio::test]
async fn an_unreachable_upstream_is_502() {
    let pair = dev().await;
    let (closed, address) = Untouched::bind();
    drop(closed);
    pair.injector
        .add(server("dev", "api", &format!("http://{address}"), &["TOKEN"]))
        .await;
    assert_eq!(
        refusal(&call(&pair, Version::HTTP_11).await),
        (502, "UPSTREAM_UNREACHABLE")
    );
    pair.stop().await;
}

#[tokio::test]
async fn cleartext_over_a_network_requires_allow_plaintext() {
    let pair = dev().await;
    for url in [
        "http://10.0.0.1",
        "http://[fd00::1]:80/x",
        "http://api.example.com",
        "http://localhost.example.com",
    ] {
        let refused = pair
            .injector
            .try_add(server("dev", "api", url, &["TOKEN"]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{url}");
        assert!(
            refused.message().contains("allow_plaintext"),
            "{}",
            refused.message()
        );
        let allowed = Server {
            allow_plaintext: true,
            ..server("dev", "api", url, &["TOKEN"])
        };
        pair.injector.add(allowed).await;
        let request = |paths: &[&str]| UpdateServerRequest {
            server: Some(server("dev", "api", url, &[])),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }),
        };
        let refused = pair
            .injector
            .servers()
            .update_server(request(&["allow_plaintext"]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{url}");
        pair.injector.remove("dev", "api").await;
    }
    for url in [
        "https://10.0.0.1",
        "https://api.example.com",
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://localhost:1",
    ] {
        pair.injector.add(server("dev", "api", url, &["TOKEN"])).await;
        pair.injector.remove("dev", "api").await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_server_at_a_forbidden_address_is_not_stored() {
    let dedicated = |settings: &mut injector_service::config::Settings| {
        settings.listen_server = vec!["127.0.0.1:0=dev/api".into()];
    };
    let pair = Pair::start_with(|_| {}, dedicated).await;
    pair.vault.workspace("dev").await;
    let mut urls: Vec<String> = [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254",
        "http://169.254.0.1",
        "http://0xa9fea9fe",
        "http://2852039166/",
        "http://0251.0376.0251.0376",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://[fd00:ec2::254]",
        "http://[fd00:ec2::23]",
        "http://[fd00:42::42]",
        "http://100.100.100.200",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://[64:ff9b:1::a9fe:a9fe]",
        "http://[2001:0:a9fe:a9fe::]",
        "http://[2001:db8::5efe:169.254.169.254]",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://0.0.0.0:80",
        "http://[::]:80",
        "http://0:80",
        "http://224.0.0.1",
        "http://255.255.255.255",
    ]
    .map(str::to_owned)
    .into();
    let injector = &pair.injector;
    for own in [
        injector.data_plane,
        injector.metrics,
        injector.address,
        injector.dedicated[0],
    ] {
        let port = own.port();
        for host in [
            "127.0.0.1",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1.",
            "0x7f000001",
            "[::ffff:127.0.0.1]",
        ] {
            urls.extend([
                format!("http://{host}:{port}"),
                format!("https://{host}:{port}/x"),
            ]);
        }
    }
    for url in &urls {
        let api = Server {
            allow_plaintext: true,
            ..server("dev", "api", url, &[])
        };
        let refused = pair.injector.try_add(api).await.unwrap_err();
        let reason = refused.get_details_error_info().unwrap().reason;
        assert_eq!(
            (refused.code(), reason.as_str()),
            (Code::FailedPrecondition, "UPSTREAM_ADDRESS_REFUSED"),
            "{url}"
        );
    }
    let request = GetServerRequest {
        workspace: "dev".into(),
        name: "api".into(),
    };
    assert_eq!(
        pair.injector
            .servers()
            .get_server(request)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );

    // An existing server cannot be moved to such an address either.
    pair.injector
        .add(server("dev", "api", "https://api.example.com", &[]))
        .await;
    for url in &urls {
        let moved = Server {
            allow_plaintext: true,
            ..server("dev", "api", url, &[])
        };
        let paths = vec!["url".into(), "allow_plaintext".into()];
        let request = UpdateServerRequest {
            server: Some(moved),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let refused = pair.injector.servers().update_server(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{url}");
    }
    pair.stop().await;
}

/// Returns names other than localhost that this machine resolves to a loopback address. A name of an attacker may do
/// so, too.
fn names_of_loopback() -> Vec<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let loopback = lines.filter(|line| line.starts_with("127.0.0.1"));
    let names = loopback.flat_map(|line| {
        line.split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    names
        .filter(|name| !name.ends_with("localhost") && name.parse::<IpAddr>().is_err())
        .collect()
}

/// Makes a gRPC call to the server `api`, and returns the status in the head of its trailers-only response.
async fn grpc_status(pair: &Pair) -> Status {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let request = Request::post(pair.injector.url("/package.Service/Method"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "api");
    let sent = client.request(request.body(Full::from("\0\0\0\0\0")).unwrap());
    let answer = timeout(PATIENCE, sent).await.expect("no answer").unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &HeaderValue::from_static("application/grpc"))
    );
    let status = Status::from_header_map(answer.headers()).unwrap();
    let rest = answer.into_body().collect().await.unwrap();
    assert!(rest.trailers().is_none() && rest.to_bytes().is_empty());
    status
}

/// On a machine without such a name, only the unit tests of `address` cover the check.
#[tokio::test]
async fn a_name_that_resolves_to_a_loopback_address_is_not_dialled() {
    let pair = dev().await;
    let (untouched, address) = Untouched::bind();
    for name in names_of_loopback() {
        for port in [
            address.port(),
            pair.injector.metrics.port(),
            pair.injector.data_plane.port(),
        ] {
            let url = format!("http://{name}:{port}");
            let api = Server {
                allow_plaintext: true,
                ..server("dev", "api", &url, &["TOKEN"])
            };
            pair.injector.add(api).await;
            let response = call(&pair, Version::HTTP_11).await;
            assert_eq!(refusal(&response), (502, "UPSTREAM_ADDRESS_REFUSED"), "{url}");
            let status = grpc_status(&pair).await;
            let reason = status.get_details_error_info().unwrap().reason;
            assert_eq!(
                (status.code(), reason.as_str()),
                (Code::FailedPrecondition, "UPSTREAM_ADDRESS_REFUSED"),
                "{url}"
            );
            pair.injector.remove("dev", "api").await;
        }
    }
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_redirect_is_passed_back_and_not_followed() {
    let (untouched, elsewhere) = Untouched::bind();
    let location = format!("http://{elsewhere}/steal");
    let moved = location.clone();
    let upstream = Upstream::answering(move |_| {
        Response::builder()
            .status(307)
            .header("location", moved.as_str())
            .body(Full::from("moved"))
            .unwrap()
    })
    .await;
    let pair = dev().await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let response = call(&pair, version).await;
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (307, &b"moved"[..])
        );
        assert_eq!(response.headers()["location"], location);
    }
    assert_eq!(upstream.seen().len(), 2);
    untouched.check();
    pair.stop().await;
}
