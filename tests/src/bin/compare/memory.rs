//! Measures the resident memory of processes that have just been started.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Failure, Options,
    contenders::upstream,
    endpoints::ANSWER,
    envoy::Envoy,
    h2load::Http,
    measure::resident_mib,
    openbao::OpenBao,
    process::raise_open_file_limit,
    run::say,
    services::{Injector, Placement, Vault, WORKSPACE, server_name},
};

/// Number of connections that are being opened at the same time.
const AT_ONCE: usize = 50;

pub(crate) struct ResidentMemory {
    pub(crate) what: Subject,
    pub(crate) mib: f64,
}

/// The measured process, with the number of idle connections if the process has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Injector,
    InjectorWith(u32),
    Envoy,
    EnvoyWith(u32),
    Vault,
    OpenBao,
}

pub(crate) async fn measure(
    options: &Options,
    bin_dir: &Path,
    scratch: &Path,
) -> Result<Vec<ResidentMemory>, Failure> {
    // Benchmark and contender each hold one end of a connection, and both have the same limit of open files. 200 files
    // are left for other uses.
    let most = u32::try_from(raise_open_file_limit()?.saturating_sub(200)).unwrap_or(u32::MAX);
    let connections = options.connections.min(most);
    let (_upstream, address) = upstream(scratch).await?;
    let vault = Vault::start(bin_dir, scratch, "vault-memory").await?;
    vault.put_servers_secrets().await?;
    let injector = Injector::start(bin_dir, scratch, "injector-memory", &vault, address).await?;
    let envoy = Envoy::start(&options.common.peers, scratch, "envoy-memory", address).await?;
    let openbao = OpenBao::start(&options.common.peers, &scratch.join("memory"), 1).await?;
    sleep(Duration::from_secs(1)).await;

    let mut found = Vec::new();
    let mut note = |what, process| -> Result<(), Failure> {
        let mib = resident_mib(process)?;
        say(&format!("{:48} {mib:8.1} MiB\n", what_is(what)))?;
        found.push(ResidentMemory { what, mib });
        Ok(())
    };
    say("\nResident memory\n")?;
    note(Subject::Injector, injector.process.id())?;
    note(Subject::Envoy, envoy.process.id())?;
    note(Subject::Vault, vault.process.id())?;
    note(Subject::OpenBao, openbao.process.id())?;
    let path = format!("/{WORKSPACE}/{}/", server_name(Placement::Bearer, Http::One));
    let open = idle(injector.data_plane, path, connections).await?;
    note(Subject::InjectorWith(connections), injector.process.id())?;
    drop(open);
    let open = idle(envoy.address(Http::One), "/".to_owned(), connections).await?;
    note(Subject::EnvoyWith(connections), envoy.process.id())?;
    drop(open);
    Ok(found)
}

pub(crate) fn what_is(subject: Subject) -> String {
    match subject {
        Subject::Injector => "injector, idle".to_owned(),
        Subject::InjectorWith(connections) => format!("injector, {connections} idle connections"),
        Subject::Envoy => "Envoy, idle".to_owned(),
        Subject::EnvoyWith(connections) => format!("Envoy, {connections} idle connections"),
        Subject::Vault => "vault, idle".to_owned(),
        Subject::OpenBao => "OpenBao, idle".to_owned(),
    }
}

/// Opens connections, and makes one call on each of them.
async fn idle(to: SocketAddr, path: String, connections: u32) -> Result<Vec<TcpStream>, Failure> {
    let request = Arc::new(format!(
        "POST {path} HTTP/1.1\r\nhost: {to}\r\ncontent-length: 2\r\n\r\n{{}}"
    ));
    let (mut opening, mut open) = (JoinSet::new(), Vec::new());
    for _ in 0..connections {
        if opening.len() >= AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            open.push(opened??);
        }
        opening.spawn(called_once(to, request.clone()));
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened??);
    }
    Ok(open)
}

async fn called_once(to: SocketAddr, request: Arc<String>) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(ANSWER.as_bytes()) {
        let count = timeout(Duration::from_secs(10), stream.read(&mut buffer)).await??;
        let read = buffer.get(..count).unwrap_or_default();
        if read.is_empty() {
            return Err(format!("closed after {:?}", String::from_utf8_lossy(&answer)).into());
        }
        answer.extend_from_slice(read);
    }
    Ok(stream)
}
