//! A fake vault whose answers a test decides.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chassis::{
    authz::{Access, AccessTable, AuthzLayer, Binding, Policy, Role, Scope},
    grpc,
    jwt::Issuers,
    keepalive::Ping,
    tls::{self, Authorities, Identity},
    worker_threads::ThreadCount,
};
use e2e::{Pki, pki};
use proto::{
    Principal, Reason,
    seal::{SealContext, SealedCall, Sealer},
    vault::v1::{
        DecryptAnswer, DecryptCall, DecryptError, DecryptRequest, DecryptResponse, DecryptStatus,
        DecryptStreamRequest, DecryptStreamResponse, DecryptedSecret, Recipient,
        decrypt_answer::Outcome,
        decrypt_service_server::{DecryptService, DecryptServiceServer},
    },
};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request as Call, Response as Answer, Status, Streaming, service::Routes};
use tower::Layer as _;

use crate::DEV;

/// Reaction of the fake vault to one request.
pub(crate) enum Act {
    /// Sends these answers in one message.
    Answer(Vec<DecryptAnswer>),
    /// Sends these answers after a delay.
    After(Duration, DecryptAnswer),
    /// Ends the stream.
    Break(Status),
    /// Sends nothing.
    Nothing,
}

type Script = Arc<dyn Fn(DecryptCall) -> Act + Send + Sync>;

/// A fake vault whose answers a test decides.
#[derive(Clone)]
pub(crate) struct Fake {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<DecryptRequest>>>,
    tamper: Arc<Mutex<Tamper>>,
}

/// A change of a message on its way to the injector.
type Tamper = Option<fn(&mut DecryptStreamResponse)>;

/// A [`Fake`] that serves on a socket.
pub(crate) struct Served {
    pub(crate) fake: Fake,
    pub(crate) address: SocketAddr,
    _stop: DropGuard,
}

impl Fake {
    pub(crate) fn new(script: impl Fn(DecryptCall) -> Act + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(Mutex::new(Arc::new(script))),
            asked: Arc::default(),
            tamper: Arc::default(),
        }
    }

    /// Replaces the reaction to all further requests.
    pub(crate) fn set(&self, script: impl Fn(DecryptCall) -> Act + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// Changes all further messages on their way.
    pub(crate) fn tamper(&self, with: fn(&mut DecryptStreamResponse)) {
        *self.tamper.lock().unwrap() = Some(with);
    }

    pub(crate) fn asked(&self) -> Vec<DecryptRequest> {
        self.asked.lock().unwrap().clone()
    }

    fn act(&self, call: DecryptCall) -> Act {
        let script = self.script.lock().unwrap().clone();
        self.asked.lock().unwrap().push(call.request.clone().unwrap());
        script(call)
    }

    /// Serves with the identity that the injectors of the tests expect of their vault.
    pub(crate) async fn serve(self, pki: &Pki) -> Served {
        self.serve_as(pki, pki, pki::VAULT).await
    }

    /// Serves with a certificate of `issuer` for `id`, to clients of `pki`.
    pub(crate) async fn serve_as(self, pki: &Pki, issuer: &Pki, id: &str) -> Served {
        const ROLES: &[Role] = &[Role::Injector];
        let files = issuer.principal(id);
        let identity = Identity::load(&files.cert, &files.key).unwrap();
        let tls = tls::grpc_server(identity, Some(&Authorities::load(&pki.ca_file()).unwrap())).unwrap();
        let principal = Principal::parse(pki::INJECTOR).unwrap();
        let policy = Policy::new([Binding {
            principal,
            role: Role::Injector,
            scope: Scope::All,
        }])
        .unwrap();
        let table: AccessTable = &[("/vault.v1.DecryptService/DecryptStream", Access::Roles(ROLES))];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let routes = Routes::new(DecryptServiceServer::new(self.clone()));
        let authz = AuthzLayer::new(table, Arc::new(policy));
        let server = grpc::start(
            tls,
            authz.layer(routes.prepare()),
            authz,
            Issuers::default(),
            grpc::Options {
                threads: ThreadCount::One,
                ping: Ping {
                    interval: Duration::from_secs(300),
                    timeout: Duration::from_secs(120),
                },
                grace: Duration::ZERO,
            },
            stop.clone(),
        );
        tokio::spawn(server.unwrap().serve(listener));
        Served {
            fake: self,
            address,
            _stop: stop.drop_guard(),
        }
    }
}

/// The answers of one stream, which are sealed in the order in which they are sent.
struct FakeStream {
    answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>,
    sealer: Option<(u64, Sealer)>,
    /// Encapsulated key of the epoch that begins with the next message.
    encapsulated_key: Vec<u8>,
    servers: HashMap<u64, (String, bool)>,
    tamper: Arc<Mutex<Tamper>>,
}

impl FakeStream {
    fn new(answers: mpsc::Sender<Result<DecryptStreamResponse, Status>>, tamper: Arc<Mutex<Tamper>>) -> Self {
        Self {
            answers,
            sealer: None,
            encapsulated_key: Vec::new(),
            servers: HashMap::new(),
            tamper,
        }
    }

    fn note_calls(&mut self, recipient: Option<Recipient>, calls: &[DecryptCall]) {
        for call in calls {
            let request = call.request.as_ref().unwrap();
            self.servers
                .insert(call.id, (request.server.clone(), request.check_only));
        }
        let Some(recipient) = recipient else { return };
        let between = SealContext {
            vault: &Principal::parse(pki::VAULT).unwrap(),
            injector: &Principal::parse(pki::INJECTOR).unwrap(),
            nonce: &recipient.stream_nonce,
            epoch: recipient.epoch,
        };
        let sealer = Sealer::new(&recipient.public_key, between).unwrap();
        self.encapsulated_key = sealer.encapsulated_key().to_vec();
        self.sealer = Some((recipient.epoch, sealer));
    }

    async fn send_answers(&mut self, mut answers: Vec<DecryptAnswer>) {
        for DecryptAnswer { id, outcome } in &mut answers {
            if let Some(Outcome::Response(response)) = outcome {
                self.seal(*id, response);
            }
        }
        let mut message = DecryptStreamResponse {
            answers,
            epoch: self.sealer.as_ref().map_or(0, |(epoch, _)| *epoch),
            encapsulated_key: std::mem::take(&mut self.encapsulated_key),
        };
        if let Some(tamper) = *self.tamper.lock().unwrap() {
            tamper(&mut message);
        }
        drop(self.answers.send(Ok(message)).await);
    }

    /// Moves the values of an answer into its sealed part.
    fn seal(&mut self, id: u64, response: &mut DecryptResponse) {
        let (server, check_only) = self.servers.get(&id).cloned().unwrap_or_default();
        let (epoch, sealer) = self.sealer.as_mut().unwrap();
        let values: Vec<Vec<u8>> = response
            .secrets
            .iter_mut()
            .filter(|secret| !check_only && secret.status() == DecryptStatus::Ok || !secret.value.is_empty())
            .map(|secret| std::mem::take(&mut secret.value))
            .collect();
        let answering = SealedCall {
            epoch: *epoch,
            id,
            server: &server,
        };
        let values = values.iter().map(Vec::as_slice);
        response.sealed = sealer.seal(answering, response, values).unwrap();
    }

    async fn end(&mut self, status: Status) {
        drop(self.answers.send(Err(status)).await);
    }
}

#[tonic::async_trait]
impl DecryptService for Fake {
    async fn decrypt(&self, _: Call<DecryptRequest>) -> Result<Answer<DecryptResponse>, Status> {
        Err(Status::unimplemented("the injector uses the stream"))
    }

    type DecryptStreamStream = ReceiverStream<Result<DecryptStreamResponse, Status>>;

    async fn decrypt_stream(
        &self,
        request: Call<Streaming<DecryptStreamRequest>>,
    ) -> Result<Answer<Self::DecryptStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(16);
        let (fake, mut messages) = (self.clone(), request.into_inner());
        let sender = Arc::new(tokio::sync::Mutex::new(FakeStream::new(
            answers,
            self.tamper.clone(),
        )));
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let DecryptStreamRequest { calls, recipient } = message;
                let is_new_epoch = recipient.is_some();
                sender.lock().await.note_calls(recipient, &calls);
                if is_new_epoch {
                    sender.lock().await.send_answers(Vec::new()).await;
                }
                for call in calls {
                    match fake.act(call) {
                        Act::Answer(some) => sender.lock().await.send_answers(some).await,
                        Act::After(time, answer) => {
                            let sender = sender.clone();
                            tokio::spawn(async move {
                                sleep(time).await;
                                sender.lock().await.send_answers(vec![answer]).await;
                            });
                        }
                        Act::Break(status) => return sender.lock().await.end(status).await,
                        Act::Nothing => {}
                    }
                }
            }
        });
        Ok(Answer::new(ReceiverStream::new(stream)))
    }
}

/// Returns the value that an honest vault has for a name.
pub(crate) fn value_of(name: &str) -> Vec<u8> {
    format!("canary-{name}").into_bytes()
}

pub(crate) fn ok(name: &str) -> DecryptedSecret {
    let status = DecryptStatus::Ok.into();
    DecryptedSecret {
        name: name.into(),
        status,
        version: 1,
        value: value_of(name),
        ..Default::default()
    }
}

pub(crate) fn status(name: &str, status: DecryptStatus) -> DecryptedSecret {
    DecryptedSecret {
        name: name.into(),
        status: status.into(),
        ..Default::default()
    }
}

pub(crate) fn honest(call: &DecryptCall) -> DecryptAnswer {
    let request = call.request.as_ref().unwrap();
    with(call, request.names.iter().map(|name| ok(name)).collect())
}

pub(crate) fn with(call: &DecryptCall, secrets: Vec<DecryptedSecret>) -> DecryptAnswer {
    let response = DecryptResponse {
        workspace_uid: DEV.into(),
        secrets,
        ..Default::default()
    };
    DecryptAnswer {
        id: call.id,
        outcome: Some(Outcome::Response(response)),
    }
}

pub(crate) fn error(call: &DecryptCall, reason: Reason) -> DecryptAnswer {
    let error = DecryptError {
        code: reason.code().into(),
        reason: reason.into(),
        message: "no".into(),
    };
    DecryptAnswer {
        id: call.id,
        outcome: Some(Outcome::Error(error)),
    }
}
