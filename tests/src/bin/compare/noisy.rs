//! Measures the calls of one principal while another principal sends the same vault as much load as it can.

use std::{fmt::Write as _, fs, io, path::Path, thread};

use e2e::{
    Pki,
    pki::{ADMIN, NOISY, VAULT},
};
use proto::{
    seal::{RecipientKey, stream_nonce},
    vault::v1::{
        CreateWorkspaceRequest, DecryptCall, DecryptRequest, DecryptStreamRequest, Plan, PutSecretRequest,
        Recipient, Workspace, decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
        secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
    },
};
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    Common, Failure,
    decrypts::{DecryptMode, Decrypts},
    measure::{Spread, Window, peak_mib},
    report::{RunConditions, page_header},
    run::{bin_dir, say},
    services::Vault,
};

/// The load of the quiet principal, which is so low that an otherwise idle vault answers each call at once.
const QUIET: DecryptMode = DecryptMode::Paced { per_second: 500 };
const SECRETS: u32 = 100;
/// The workspace of the noisy principal.
const WORKSPACE: &str = "noisy";
/// The number of the noisy principal's secrets, each of which has the largest size of a value.
const LARGE: usize = 64;
/// The number of connections, each with one stream, for each of the three kinds of noise.
const STREAMS: usize = 8;

pub(crate) async fn all(common: &Common) -> Result<(), Failure> {
    let mut conditions = RunConditions::new(common, &[])?;
    let bin_dir = bin_dir(common)?;
    let scratch = tempfile::tempdir_in(bin_dir.parent().unwrap_or(&bin_dir))?;
    let mut vault = Vault::start(&bin_dir, scratch.path(), "vault").await?;
    vault.fill(SECRETS).await?;
    put_large(&vault).await?;
    let quiet = Decrypts::new(QUIET, &vault, SECRETS);
    let (rounds, seconds) = common.rounds_and_seconds();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        alone.push(quiet.measure(seconds).await?);
        let noise = Noise::start(&vault)?;
        beside.push(quiet.measure(seconds).await?);
        noise.end()?;
        say(&format!("round {round}: {}\n", line(&alone, &beside)?))?;
    }
    conditions.record_load_after()?;
    let peak = peak_mib(vault.process.id())?;
    say(&page(&common.out(true), &conditions, &alone, &beside, peak)?)
}

/// Describes the 99th percentiles of the last round.
fn line(alone: &[Window], beside: &[Window]) -> Result<String, Failure> {
    let (alone, beside) = (alone.last(), beside.last());
    let (alone, beside) = alone.zip(beside).ok_or("no round was measured")?;
    Ok(format!(
        "p99 {:.2} ms alone, {:.2} ms beside noise",
        alone.p99_ms, beside.p99_ms
    ))
}

async fn put_large(vault: &Vault) -> Result<(), Failure> {
    let workspace = Workspace {
        name: WORKSPACE.to_owned(),
        plan: Plan::Enterprise.into(),
        ..Default::default()
    };
    WorkspaceServiceClient::new(vault.channel(ADMIN))
        .create_workspace(CreateWorkspaceRequest {
            workspace: Some(workspace),
        })
        .await?;
    let mut secrets = SecretServiceClient::new(vault.channel(ADMIN));
    for name in names(LARGE) {
        let put = PutSecretRequest {
            workspace: WORKSPACE.to_owned(),
            name,
            value: Some(Value::Data(vec![b'x'; 64 * 1024])),
            ..Default::default()
        };
        secrets.put_secret(put).await?;
    }
    Ok(())
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("S{number}")).collect()
}

/// The request that the noisy principal repeats, as large as one message may be.
#[derive(Clone, Copy)]
enum Demand {
    /// The vault decrypts 64 MiB of values for each message, and sends none.
    Checks,
    /// The vault has 16 MiB of answers for each message, and the noisy principal reads none.
    Unread,
    /// The vault sends 256 short answers for each message.
    Small,
}

impl Demand {
    const ALL: [Self; 3] = [Self::Checks, Self::Unread, Self::Small];

    fn calls(self) -> Vec<DecryptCall> {
        let (calls, names_each) = match self {
            Self::Checks => (16, LARGE),
            Self::Unread => (16, 16),
            Self::Small => (256, 1),
        };
        let request = DecryptRequest {
            workspace: WORKSPACE.to_owned(),
            names: match self {
                Self::Checks | Self::Unread => names(names_each),
                Self::Small => vec!["MISSING".to_owned()],
            },
            check_only: matches!(self, Self::Checks),
            ..Default::default()
        };
        let call = |id| DecryptCall {
            id,
            request: Some(request.clone()),
        };
        (0..calls).map(call).collect()
    }

    async fn keep_asking(self, channel: Channel) -> Result<(), Failure> {
        let (messages, outbound) = mpsc::channel(1);
        let mut client = DecryptServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let mut answers = client
            .decrypt_stream(ReceiverStream::new(outbound))
            .await?
            .into_inner();
        let mut recipient = Some(Recipient {
            epoch: 1,
            public_key: RecipientKey::generate()?.public(),
            stream_nonce: stream_nonce()?.to_vec(),
        });
        loop {
            let calls = self.calls();
            let mut unanswered = calls.len();
            let recipient = recipient.take();
            messages.send(DecryptStreamRequest { calls, recipient }).await?;
            if matches!(self, Self::Unread) {
                std::future::pending::<()>().await;
            }
            while unanswered > 0 {
                let message = answers.message().await?.ok_or("the vault ended a stream")?;
                unanswered -= message.answers.len();
            }
        }
    }
}

/// The noisy principal, on a thread of the lowest priority, so that the benchmark measures the vault and not the way in
/// which the benchmark shares the machine's processors with the vault.
struct Noise {
    end: oneshot::Sender<()>,
    thread: thread::JoinHandle<Result<(), Failure>>,
}

impl Noise {
    fn start(vault: &Vault) -> Result<Self, Failure> {
        let (end, ended) = oneshot::channel();
        let (pki, address) = (vault.pki.clone(), vault.address);
        let channels = move |pki: &Pki| pki.channel(&pki.principal(NOISY), address, VAULT);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().spawn(move || {
            // Linux lowers the priority of the calling thread alone.
            rustix::process::setpriority_process(None, 19).map_err(io::Error::from)?;
            runtime.block_on(async {
                let mut streams = JoinSet::new();
                for demand in Demand::ALL {
                    for _ in 0..STREAMS {
                        streams.spawn(demand.keep_asking(channels(&pki)));
                    }
                }
                tokio::select! {
                    _ = ended => Ok(()),
                    Some(stopped) = streams.join_next() => stopped?,
                }
            })
        })?;
        Ok(Self { end, thread })
    }

    /// Ends the noise, and fails when the vault ended one of the streams before.
    fn end(self) -> Result<(), Failure> {
        // `send` fails when the noise has ended by itself. `join` then returns the reason.
        let _ = self.end.send(());
        self.thread.join().map_err(|_| "the noise panicked")?
    }
}

fn page(
    out: &Path,
    conditions: &RunConditions,
    alone: &[Window],
    beside: &[Window],
    peak: f64,
) -> Result<String, Failure> {
    fs::create_dir_all(out)?;
    let mut page = page_header("A quiet principal beside a noisy one, measured", conditions);
    let (rounds, seconds) = conditions.rounds_and_seconds;
    writeln!(
        page,
        "
The quiet principal makes 500 sealed `Decrypt` calls a second, evenly spread over 50 connections. The noisy one has
{} connections with a stream each: {STREAMS} have 64 MiB of values checked by each message, {STREAMS} ask for 16 MiB of answers
and read nothing, {STREAMS} ask for 256 short answers by each message; all ask again as soon as they were answered. Alone and
beside noise take turns, {seconds} s each; rounds: {rounds}. Numbers are medians of the rounds, in brackets the lowest and the
highest. Everything runs on that one machine.

| | calls/s | p50, ms | p99, ms | × alone |
|---|---|---|---|---|",
        3 * STREAMS
    )?;
    let ratios = alone.iter().zip(beside);
    let ratio = Spread::of(ratios.map(|(alone, beside)| beside.p99_ms / alone.p99_ms));
    row(&mut page, "the quiet principal alone", alone, None)?;
    row(&mut page, "beside the noisy one", beside, ratio)?;
    writeln!(page, "\nThe vault held at most {peak:.0} MiB.")?;
    let path = out.join("noisy.md");
    fs::write(&path, &page)?;
    Ok(format!("\n{page}\nwritten to {}\n", path.display()))
}

fn row(page: &mut String, name: &str, windows: &[Window], ratio: Option<Spread>) -> Result<(), Failure> {
    let of = |what: fn(&Window) -> f64| Spread::of(windows.iter().map(what)).ok_or("no round was measured");
    let (calls, p50) = (of(|window| window.per_second)?, of(|window| window.p50_ms)?);
    let p99 = of(|window| window.p99_ms)?;
    let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
    writeln!(page, "| {name} | {calls:.0} | {p50:.2} | {p99:.2} | {ratio} |")?;
    Ok(())
}
