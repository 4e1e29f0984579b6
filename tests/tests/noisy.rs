//! A principal that sends the vault as many requests as it can and reads no responses, beside a principal with few
//! calls.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::{PATIENCE, Pair, Pki, Upstream, Vault, pair::server, pki, pki::NOISY, process};
use futures_util::future::join_all;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use proto::vault::v1::{
    DecryptCall, DecryptRequest, DecryptStatus, DecryptStreamRequest, DecryptStreamResponse,
    ListSecretsRequest, PutSecretRequest, decrypt_answer::Outcome,
    decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
    secret_service_client::SecretServiceClient,
};
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

const QUIET: &str = "spiffe://test/quiet";
/// The size of the largest value.
const LARGE: usize = 64 * 1024;
/// The time that an injector waits for the vault by default.
const VAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Lets one test run at a time, because the tests measure the memory of their common process.
static MEMORY: Mutex<()> = Mutex::const_new(());

/// Starts a vault with 64 large secrets of the noisy principal and 40 small ones of the quiet principal.
async fn vault() -> Vault {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.injector = vec![format!("{QUIET}=quiet"), format!("{NOISY}=noisy")];
    })
    .await;
    for workspace in ["quiet", "noisy"] {
        vault.workspace(workspace).await;
    }
    let noisy = (0..64).map(|number| (number, "noisy", LARGE));
    let quiet = (0..40).map(|number| (number, "quiet", 40));
    let puts = noisy
        .chain(quiet)
        .map(|(number, workspace, size)| PutSecretRequest {
            workspace: workspace.to_owned(),
            name: format!("S{number}"),
            value: Some(Value::Data(vec![b'x'; size])),
            ..Default::default()
        });
    put_all(&vault, puts).await;
    vault
}

/// Puts all secrets at once over one connection.
async fn put_all(vault: &Vault, puts: impl Iterator<Item = PutSecretRequest>) {
    let secrets = vault.secrets();
    let puts = puts.map(|put| {
        let mut secrets = secrets.clone();
        async move { secrets.put_secret(put).await.unwrap() }
    });
    join_all(puts).await;
}

fn ask(workspace: &str, names: usize, check_only: bool) -> DecryptRequest {
    DecryptRequest {
        workspace: workspace.to_owned(),
        names: (0..names).map(|number| format!("S{number}")).collect(),
        check_only,
        ..Default::default()
    }
}

fn message(calls: u64, request: &DecryptRequest) -> DecryptStreamRequest {
    let calls = (0..calls).map(|id| DecryptCall {
        id,
        request: Some(request.clone()),
    });
    DecryptStreamRequest {
        calls: calls.collect(),
        recipient: None,
    }
}

/// Opens a channel whose streams and connection have flow-control windows of `window` bytes.
async fn narrow_channel(vault: &Vault, principal: &str, window: u32) -> Channel {
    let tls = vault.pki.tls(&vault.pki.principal(principal), pki::VAULT);
    let address = vault.address;
    let connect = service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("127.0.0.1").unwrap();
            TlsConnector::from(tls)
                .connect(name, stream)
                .await
                .map(TokioIo::new)
        }
    });
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .origin(Uri::from_static("https://vault"))
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .connect_with_connector(connect)
        .await
        .unwrap()
}

/// A stream on which one message was sent. No response is read before [`SentMessage::read`].
struct SentMessage {
    messages: mpsc::Sender<DecryptStreamRequest>,
    answers: Streaming<DecryptStreamResponse>,
}

async fn send(channel: &Channel, message: DecryptStreamRequest) -> SentMessage {
    let (messages, outbound) = mpsc::channel(4);
    messages.send(message).await.unwrap();
    let mut client = DecryptServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let answers = client.decrypt_stream(ReceiverStream::new(outbound)).await;
    SentMessage {
        messages,
        answers: answers.unwrap().into_inner(),
    }
}

impl SentMessage {
    /// Reads the answers to `calls` calls, and checks that each answer has all its secrets.
    async fn read(&mut self, calls: usize) -> Result<(), Status> {
        let mut answered = 0;
        while answered < calls {
            let message = timeout(PATIENCE, self.answers.message()).await.unwrap()?;
            for answer in message.expect("the stream ended").answers {
                let Some(Outcome::Response(response)) = answer.outcome else {
                    panic!("{:?}", answer.outcome);
                };
                let is_ok = |secret: &proto::vault::v1::DecryptedSecret| secret.status() == DecryptStatus::Ok;
                assert!(response.secrets.iter().all(is_ok));
                answered += 1;
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_checks_only_allocates_no_values() {
    let _alone = MEMORY.lock().await;
    let vault = vault().await;
    let channel = vault.channel(NOISY);
    let all = ask("noisy", 64, true);
    let mut stream = send(&channel, message(1, &all)).await;
    stream.read(1).await.unwrap();
    let before = process::reset_peak();
    stream.messages.send(message(4, &all)).await.unwrap();
    stream.read(4).await.unwrap();
    let grown = process::peak().saturating_sub(before);
    // The message's values have 16 MiB. A vault that kept values grew by 235 MB with four times as many calls.
    assert!(grown < 24 << 20, "it took {grown} bytes");
    vault.stop().await;
}

/// Clients that ask for 128 MiB of answers and read none of them cost the vault little memory.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_stream_takes_little_memory() {
    let _alone = MEMORY.lock().await;
    let vault = vault().await;
    let channel = narrow_channel(&vault, NOISY, 64 << 10).await;
    let megabyte = ask("noisy", 16, false);
    // A stream that is read allocates the memory that the vault then keeps for later streams.
    send(&channel, message(2, &megabyte)).await.read(2).await.unwrap();
    let before = process::reset_peak();
    let streams = (0..8).map(|_| send(&channel, message(16, &megabyte)));
    let mut streams = join_all(streams).await;
    let quiet = vault.channel(QUIET);
    for _ in 0..20 {
        quiet_call(&quiet, 40).await;
    }
    let grown = process::peak().saturating_sub(before);
    assert!(grown < 64 << 20, "they took {grown} bytes");
    // No waiting answer is lost. The streams are read together, because they share their connection's window.
    for read in join_all(streams.iter_mut().map(|stream| stream.read(16))).await {
        read.unwrap();
    }
    vault.stop().await;
}

/// Clients that ask for lists of 1 MiB and read none of them cost the vault little memory.
#[tokio::test(flavor = "multi_thread")]
async fn unread_lists_take_little_memory() {
    let _alone = MEMORY.lock().await;
    let vault = vault().await;
    let labelled = (0..90).map(|number| {
        let labels = (10..42).map(|label| {
            let prefix = ["p".repeat(62).as_str(); 4].join(".");
            (format!("{prefix}/{label}{}", "k".repeat(61)), "v".repeat(63))
        });
        PutSecretRequest {
            workspace: "noisy".to_owned(),
            name: format!("LABELLED{number}"),
            value: Some(Value::Text("x".to_owned())),
            labels: labels.collect(),
            ..Default::default()
        }
    });
    put_all(&vault, labelled).await;
    let secrets = vault.secrets();
    let list = ListSecretsRequest {
        workspace: "noisy".to_owned(),
        page_size: 1_000,
        ..Default::default()
    };
    secrets.clone().list_secrets(list.clone()).await.unwrap();
    let channel = narrow_channel(&vault, pki::ADMIN, 64 << 10).await;
    let before = process::reset_peak();
    let mut lists = JoinSet::new();
    for _ in 0..300 {
        let (mut secrets, list) = (SecretServiceClient::new(channel.clone()), list.clone());
        lists.spawn(async move { secrets.list_secrets(list).await.unwrap() });
    }
    let quiet = vault.channel(QUIET);
    for _ in 0..20 {
        quiet_call(&quiet, 40).await;
    }
    let grown = process::peak().saturating_sub(before);
    assert!(grown < 160 << 20, "they took {grown} bytes");
    // After the unread lists end, the same principal can list again.
    lists.shutdown().await;
    timeout(PATIENCE, secrets.clone().list_secrets(list))
        .await
        .unwrap()
        .unwrap();
    vault.stop().await;
}

/// Makes a call of the quiet principal, and returns the time that the call took.
async fn quiet_call(channel: &Channel, names: usize) -> Duration {
    let mut client = DecryptServiceClient::new(channel.clone());
    let began = Instant::now();
    let call = client.decrypt(ask("quiet", names, false));
    let answer = timeout(PATIENCE, call).await.unwrap().unwrap();
    assert_eq!(answer.get_ref().secrets.len(), names);
    began.elapsed()
}

/// The injector gets more concurrent calls than fit into one message, each with as many names as a server may have.
#[tokio::test(flavor = "multi_thread")]
async fn an_injector_splits_requests_into_messages_that_the_vault_accepts() {
    let _alone = MEMORY.lock().await;
    let (pair, upstream) = (Pair::start().await, Upstream::start().await);
    pair.vault.workspace("dev").await;
    let names: Vec<_> = (0..64).map(|number| format!("{number:0>100}_N")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let url = format!("http://{}", upstream.address);
    pair.injector.add(server("dev", "s", &url, &names)).await;
    let url = pair.injector.url("/dev/s/");
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Empty<Bytes>>();
    let calls = (0..100).map(|_| {
        let request = Request::get(&url).body(Empty::new()).unwrap();
        client.request(request)
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_with_many_requests_does_not_delay_another_principal() {
    let _alone = MEMORY.lock().await;
    let vault = vault().await;
    let channel = vault.channel(NOISY);
    let checks = message(16, &ask("noisy", 64, true));
    let values = message(16, &ask("noisy", 16, false));
    let unread = join_all((0..8).map(|_| send(&channel, values.clone()))).await;
    let busy = (0..8).map(|_| {
        let (channel, checks) = (channel.clone(), checks.clone());
        tokio::spawn(async move {
            let mut stream = send(&channel, checks.clone()).await;
            loop {
                stream.messages.send(checks.clone()).await.unwrap();
                stream.read(16).await.unwrap();
            }
        })
    });
    let busy: Vec<_> = busy.collect();
    let quiet = vault.channel(QUIET);
    let mut longest = Duration::ZERO;
    for _ in 0..25 {
        // The vault answers a call with 1 name at once, and leaves a call with 40 names to a reading thread.
        for names in [1, 40] {
            longest = longest.max(quiet_call(&quiet, names).await);
        }
    }
    assert!(longest < VAULT_TIMEOUT, "{longest:?}");
    for task in busy {
        assert!(!task.is_finished(), "the noisy principal was not noisy");
        task.abort();
    }
    drop(unread);
    vault.stop().await;
}
