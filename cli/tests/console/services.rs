//! The services behind a console, for what a test does not do by forms.

use aerostack::pki::{DevPki, INJECTOR_ID};
use chassis::{
    channel::channel,
    tls::{self, Authorities, Identity},
};
use proto::{
    Principal,
    injector::v1::{AddServerRequest, GetServerRequest, Server, server_service_client::ServerServiceClient},
    vault::v1::{PutSecretRequest, put_secret_request, secret_service_client::SecretServiceClient},
};
use tonic::transport::Channel;

use crate::browser::Console;

fn injector(console: &Console) -> Channel {
    let pki = DevPki::ensure(&console.dev.dir).unwrap();
    let identity = Identity::load(&pki.admin.cert, &pki.admin.key).unwrap();
    let authorities = Authorities::load(&pki.ca).unwrap();
    let tls = tls::grpc_client(
        Some(identity),
        &authorities,
        Principal::parse(INJECTOR_ID).unwrap(),
    )
    .unwrap();
    channel(&console.dev.ports["injector"].to_string().parse().unwrap(), tls).unwrap()
}

/// Adds a server to the workspace `w`.
pub(crate) async fn add_server(
    console: &Console,
    name: &str,
    url: &str,
    secrets: &[&str],
    required: &[&str],
) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let server = Server {
        workspace: "w".to_owned(),
        name: name.to_owned(),
        url: url.to_owned(),
        inject_secrets: owned(secrets),
        required_secrets: owned(required),
        ..Default::default()
    };
    add(console, server).await;
}

/// Adds a server, and returns it as it is stored.
pub(crate) async fn add(console: &Console, server: Server) -> Server {
    let request = AddServerRequest {
        server: Some(server),
        ..Default::default()
    };
    let mut client = ServerServiceClient::new(injector(console));
    let added = client.add_server(request).await.unwrap();
    added.into_inner().server.unwrap()
}

/// Returns a server of the workspace `w` as it is stored.
pub(crate) async fn server(console: &Console, name: &str) -> Server {
    let request = GetServerRequest {
        workspace: "w".to_owned(),
        name: name.to_owned(),
    };
    let mut client = ServerServiceClient::new(injector(console));
    let found = client.get_server(request).await.unwrap();
    found.into_inner().server.unwrap()
}

/// Puts secrets named `SECRET_0000` and so on into the workspace `w`, 20 at once.
pub(crate) async fn put_many(console: &Console, number: usize) {
    const AT_ONCE: usize = 20;
    let client = SecretServiceClient::new(console.dev.admin());
    let mut puts = tokio::task::JoinSet::new();
    for first in 0..AT_ONCE {
        let mut client = client.clone();
        puts.spawn(async move {
            for number in (first..number).step_by(AT_ONCE) {
                let request = PutSecretRequest {
                    workspace: "w".to_owned(),
                    name: format!("SECRET_{number:04}"),
                    value: Some(put_secret_request::Value::Text("x".to_owned())),
                    ..Default::default()
                };
                client.put_secret(request).await.unwrap();
            }
        });
    }
    puts.join_all().await;
}
