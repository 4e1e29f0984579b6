//! The metrics of both services are those of `docs/metrics.md`, and no client can add series.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use e2e::{
    Pair, Upstream, eventually,
    pair::{get, server},
    pki,
};
use proto::{
    injector::v1::{GetServerRequest, Server},
    vault::v1::{DecryptRequest, RotateWorkspaceKeyRequest},
};
use tonic::Code;

const DOCUMENT: &str = include_str!("../../docs/metrics.md");

/// The metrics without series in this test, with the test that covers their series.
const WITHOUT_SERIES: [&str; 3] = [
    // injection: `a_malformed_later_message_breaks_the_call_and_is_not_sent`
    "aerostack_injector_broken_off_calls_total",
    // echoes: `echoes_are_counted_by_part`
    "aerostack_injector_echoes_total",
    // tokens: `an_injector_renews_its_token_and_no_call_fails`
    "aerostack_token_expiration_timestamp_seconds",
];

/// The type and the labels of a metric.
#[derive(Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

/// Returns the metrics that the tables below these headings list, by name.
fn documented(headings: &[&str]) -> BTreeMap<String, Metric> {
    let sections = DOCUMENT.split("\n## ");
    let wanted = sections.filter(|section| headings.iter().any(|heading| section.starts_with(heading)));
    let rows = wanted.flat_map(str::lines).filter(|line| line.starts_with("| `"));
    let code = |text: &str| text.trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        let labels = cells[3].split(',').map(code).filter(|label| !label.is_empty());
        let metric = Metric {
            kind: cells[2].trim().to_owned(),
            labels: labels.collect(),
        };
        (code(cells[1]), metric)
    })
    .collect()
}

/// Returns the metrics of a page, by the name that a query uses, with the labels of their series.
fn served(page: &str) -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::<_, Metric>::new();
    let mut names = BTreeMap::new();
    for line in page.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (family, kind) = described.split_once(' ').unwrap();
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "info" => &["_info"],
                "histogram" => &["", "_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let name = format!("{family}{}", suffixes[0]);
            for suffix in suffixes {
                names.insert(format!("{family}{suffix}"), name.clone());
            }
            let metric = Metric {
                kind: kind.to_owned(),
                ..Metric::default()
            };
            assert!(metrics.insert(name, metric).is_none(), "twice: {family}");
        } else if !line.starts_with('#') {
            let series = line.split([' ', '{']).next().unwrap();
            let metric = metrics.get_mut(&names[series]).unwrap();
            metric
                .labels
                .extend(labels(line).into_keys().filter(|label| label != "le"));
        }
    }
    metrics
}

/// Returns the labels of a line. No label of a test has a comma or a quote in its value.
fn labels(line: &str) -> BTreeMap<String, String> {
    let Some((_, rest)) = line.split_once('{') else {
        return BTreeMap::new();
    };
    let (labels, _) = rest.split_once('}').unwrap();
    let pairs = labels.split(',').map(|label| label.split_once('=').unwrap());
    pairs
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

async fn page(address: SocketAddr) -> String {
    let answer = get(&format!("http://{address}/metrics")).await;
    String::from_utf8(answer.body().to_vec()).unwrap()
}

/// Returns the number in the line that starts with this text.
async fn value(address: SocketAddr, line: &str) -> Option<f64> {
    let page = page(address).await;
    page.lines()
        .find_map(|shown| shown.strip_prefix(line)?.trim().parse().ok())
}

/// Starts a pair with the server `dev/api`, which names a secret that exists and one that does not.
async fn scene(upstream: &Upstream) -> Pair {
    // An issuer whose key set does not exist: its metrics count from 0.
    let issuer = || vec!["https://issuer.example=aerostack,jwks=/nonexistent/keys.json".to_owned()];
    let pair = Pair::start_with(
        |vault| vault.jwt.jwt_issuer = issuer(),
        |injector| {
            injector.jwt.jwt_issuer = issuer();
            let viewer = "jwt:https://issuer.example#somebody=dev";
            injector.roles.viewer.push(viewer.to_owned());
        },
    )
    .await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "HERE", "here-1").await;
    let api = server("dev", "api", &upstream.url(), &["HERE", "GONE"]);
    pair.injector.add(api).await;
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_exactly_the_metrics_that_are_served() {
    let upstream = Upstream::start().await;
    let pair = scene(&upstream).await;
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
    let rotate = RotateWorkspaceKeyRequest {
        workspace: "dev".into(),
    };
    pair.vault.keys().rotate_workspace_key(rotate).await.unwrap();
    eventually("the key is rotated", async || {
        value(
            pair.vault.metrics,
            "aerostack_vault_rewrapped_total{level=\"record\"}",
        )
        .await
        .is_some()
    })
    .await;

    for (address, headings) in [
        (pair.vault.metrics, ["vault-service", "Both services"]),
        (pair.injector.metrics, ["injector-service", "Both services"]),
    ] {
        let (served, documented) = (served(&page(address).await), documented(&headings));
        assert!(served.len() > 15, "{served:?}");
        let missing: Vec<_> = documented
            .iter()
            .filter(|(name, _)| !served.contains_key(*name))
            .collect();
        assert!(missing.is_empty(), "documented, and not served: {missing:?}");
        for (name, metric) in &served {
            let promised = documented
                .get(name)
                .unwrap_or_else(|| panic!("{name} is not documented"));
            assert_eq!(metric.kind, promised.kind, "{name}");
            if !WITHOUT_SERIES.contains(&name.as_str()) {
                assert_eq!(metric.labels, promised.labels, "{name}");
            }
        }
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_by_server_outcome_and_status_class() {
    let upstream = Upstream::answering(|seen| {
        let status: u16 = seen.target.trim_start_matches('/').parse().unwrap();
        let answer = http::Response::builder().status(status);
        answer.body(http_body_util::Full::default()).unwrap()
    })
    .await;
    let pair = scene(&upstream).await;
    let required = Server {
        required_secrets: vec!["GONE".into()],
        ..server("dev", "strict", &upstream.url(), &["GONE"])
    };
    pair.injector.add(required).await;
    for status in [200, 204, 302, 404, 503] {
        let answer = pair.injector.get(&format!("/dev/api/{status}")).await;
        assert_eq!(answer.status(), status);
    }
    assert_eq!(pair.injector.get("/dev/strict/200").await.status(), 502);
    let calls = async |server: &str, outcome: &str, class: &str| {
        let labels = format!(
            "{{workspace=\"dev\",server=\"{server}\",outcome=\"{outcome}\",status_class=\"{class}\"}}"
        );
        value(
            pair.injector.metrics,
            &format!("aerostack_injector_calls_total{labels}"),
        )
        .await
    };
    assert_eq!(calls("api", "FORWARDED", "2xx").await, Some(2.0));
    for class in ["3xx", "4xx", "5xx"] {
        assert_eq!(calls("api", "FORWARDED", class).await, Some(1.0), "{class}");
    }
    assert_eq!(calls("strict", "SECRET_REQUIRED_MISSING", "5xx").await, Some(1.0));
    let of_api = "{workspace=\"dev\",server=\"api\"}";
    for (metric, expected) in [
        ("aerostack_injector_call_duration_seconds_count", 5.0),
        ("aerostack_injector_injected_secrets_total", 5.0),
        ("aerostack_injector_missed_secrets_total", 5.0),
    ] {
        let shown = value(pair.injector.metrics, &format!("{metric}{of_api}")).await;
        assert_eq!(shown, Some(expected), "{metric}");
    }
    let decrypts = "aerostack_injector_decrypt_duration_seconds_count ";
    assert_eq!(value(pair.injector.metrics, decrypts).await, Some(6.0));
    let answered = "aerostack_vault_decrypt_duration_seconds_count ";
    assert!(value(pair.vault.metrics, answered).await >= Some(6.0));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_invented_by_a_client_add_no_series() {
    let upstream = Upstream::start().await;
    let pair = scene(&upstream).await;
    for made_up in 0..5 {
        let answer = pair.injector.get(&format!("/made-up-{made_up}/api/")).await;
        assert_eq!(answer.status(), 404);
        let mut client = tonic::client::Grpc::new(pair.vault.channel(pki::ADMIN));
        client.ready().await.unwrap();
        let path = format!("/made.up/Method{made_up}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<DecryptRequest, DecryptRequest>::default();
        let request = tonic::Request::new(DecryptRequest::default());
        let refused = client.unary(request, path, codec).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let of_nobody = "aerostack_injector_calls_total{workspace=\"\",server=\"\",outcome=\"SERVER_NOT_FOUND\",status_class=\"4xx\"}";
    assert_eq!(value(pair.injector.metrics, of_nobody).await, Some(5.0));
    let unknown = "grpc_server_handled_total{grpc_service=\"unknown\",grpc_method=\"unknown\",grpc_code=\"PermissionDenied\"}";
    eventually("the RPCs are counted", async || {
        value(pair.vault.metrics, unknown).await == Some(5.0)
    })
    .await;
    for address in [pair.injector.metrics, pair.vault.metrics] {
        let page = page(address).await;
        assert!(!page.contains("made"), "{page}");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_removed_server_disappear() {
    let upstream = Upstream::start().await;
    let pair = scene(&upstream).await;
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
    assert!(page(pair.injector.metrics).await.contains("server=\"api\""));
    pair.injector.remove("dev", "api").await;
    let page = page(pair.injector.metrics).await;
    assert!(!page.contains("server=\"api\""), "{page}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rpcs_are_counted_by_their_code_even_in_trailers() {
    let upstream = Upstream::start().await;
    let pair = scene(&upstream).await;
    let get = |name: &str| GetServerRequest {
        workspace: "dev".into(),
        name: name.into(),
    };
    pair.injector.servers().get_server(get("api")).await.unwrap();
    pair.injector.servers().get_server(get("none")).await.unwrap_err();
    for code in ["OK", "NotFound"] {
        let of = format!(
            "grpc_server_handled_total{{grpc_service=\"injector.v1.ServerService\",grpc_method=\"GetServer\",grpc_code=\"{code}\"}}"
        );
        eventually(code, async || {
            value(pair.injector.metrics, &of).await == Some(1.0)
        })
        .await;
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_and_the_store_are_measured() {
    let upstream = Upstream::start().await;
    let pair = scene(&upstream).await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    for address in [pair.vault.metrics, pair.injector.metrics] {
        for (metric, least, most) in [
            ("process_cpu_seconds_total", 0.0, 3600.0),
            ("process_start_time_seconds", now - 3600.0, now + 2.0),
            ("process_resident_memory_bytes", 1e6, 1e11),
            ("process_virtual_memory_bytes", 1e6, 1e14),
            ("process_threads", 2.0, 1e4),
            ("process_open_fds", 8.0, 1e6),
            ("process_max_fds", 64.0, 1e19),
        ] {
            let shown = value(address, &format!("{metric} ")).await.unwrap();
            assert!((least..=most).contains(&shown), "{metric} {shown}");
        }
    }
    eventually("the store is measured", async || {
        value(pair.vault.metrics, "aerostack_vault_store_bytes ").await > Some(8e6)
    })
    .await;
    let free = value(pair.vault.metrics, "aerostack_vault_store_free_bytes ")
        .await
        .unwrap();
    assert!(free > 1e6, "{free}");
    pair.stop().await;
}
