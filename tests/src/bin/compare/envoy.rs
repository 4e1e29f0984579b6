//! Runs Envoy with its `credential_injector` filter, which keeps the credential in memory.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    Failure,
    h2load::Http,
    process::{Process, free_address},
    services::TOKEN,
};

/// A running Envoy with two listeners, because each listener calls the upstream over one version of HTTP.
pub(crate) struct Envoy {
    pub(crate) process: Process,
    to_http1: SocketAddr,
    to_http2: SocketAddr,
    /// The access log, with one line for each call.
    pub(crate) log: PathBuf,
}

impl Envoy {
    pub(crate) async fn start(
        peers: &Path,
        scratch: &Path,
        name: &str,
        upstream: SocketAddr,
    ) -> Result<Self, Failure> {
        let (to_http1, to_http2) = (free_address()?, free_address()?);
        let log = scratch.join(format!("{name}.access"));
        let file = scratch.join(format!("{name}.json"));
        let listeners = [(Http::One, to_http1), (Http::Two, to_http2)];
        fs::write(&file, config(listeners, upstream, &log).to_string())?;
        // Envoy gets one worker for each of the two cores that such a sidecar may expect. All other settings are
        // defaults.
        let arguments = [
            "--concurrency",
            "2",
            "--use-dynamic-base-id",
            "--log-level",
            "warn",
            "--config-path",
        ];
        let arguments = arguments.iter().map(AsRef::as_ref).chain([file.as_os_str()]);
        let said = scratch.join(format!("{name}.log"));
        let mut process = Process::start("envoy", &peers.join("envoy"), arguments, &said)?;
        process.wait_until_listening(to_http1).await?;
        process.wait_until_listening(to_http2).await?;
        Ok(Self {
            process,
            to_http1,
            to_http2,
            log,
        })
    }

    /// Returns the address of the listener that calls the upstream over `http`.
    pub(crate) fn address(&self, http: Http) -> SocketAddr {
        match http {
            Http::One => self.to_http1,
            Http::Two => self.to_http2,
        }
    }
}

fn config(listeners: [(Http, SocketAddr); 2], upstream: SocketAddr, log: &Path) -> Value {
    let credential = json!({"name": "credential", "generic_secret": {
        "secret": {"inline_string": format!("Bearer {TOKEN}")}}});
    json!({"static_resources": {
        "secrets": [credential],
        "listeners": listeners.map(|(http, address)| listener(http, address, log)),
        "clusters": Http::BOTH.map(|http| cluster(http, upstream)),
    }})
}

fn listener(http: Http, address: SocketAddr, log: &Path) -> Value {
    let injector = json!({"name": "envoy.filters.http.credential_injector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        "overwrite": true,
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
            "credential": {"name": "credential"}}}}});
    let router = json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    let access_log = json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": log}});
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster_name(http)}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster_name(http),
        "codec_type": "AUTO",
        "access_log": [access_log],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [injector, router],
    });
    json!({"name": cluster_name(http), "address": socket(address), "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]})
}

fn cluster(http: Http, upstream: SocketAddr) -> Value {
    let protocol = match http {
        Http::One => json!({"http_protocol_options": {}}),
        Http::Two => json!({"http2_protocol_options": {}}),
    };
    let name = cluster_name(http);
    json!({
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": protocol}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": socket(upstream)}}]}]},
    })
}

fn cluster_name(http: Http) -> &'static str {
    match http {
        Http::One => "http1",
        Http::Two => "http2",
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}
