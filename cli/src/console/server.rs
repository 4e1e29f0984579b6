//! The listener: accepts a bounded number of connections, and serves HTTP/1.1 on each.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use axum::{Router, body::Body as AnyBody};
use chassis::{
    caller::Peer,
    connection_slots::{Eviction, Holder, Slot, SlotCall, Slots},
    listen,
    tls::{PeerTrust, ServerTls},
};
use http::Request;
use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use proto::Principal;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task, time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    activity::Activity,
    app::{App, SharedApp, SignInMethod, Site},
    error::ConsoleError,
    peer_user::foreign_user,
    router,
    services::Services,
    sign_in::SignIns,
    user_access::UserAccess,
};
use crate::connect::Connection;

/// Maximum number of connections of one person's browsers. A browser opens six to one site. The oldest connection without a running
/// request gives its slot to a newcomer.
const MAX_CONNECTIONS: usize = 64;
/// Maximum number of connections of the users of a console for several. A user with fewer of them than another takes one of the other's.
const MAX_USER_CONNECTIONS: usize = 1024;
/// Maximum number of connections whose certificate names nobody who may use the console. They get only a page that says so.
const MAX_OTHER_CONNECTIONS: usize = 64;
/// Time within which the head of the next request must arrive on a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a request's head in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// Time that running requests get when the console stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A console that listens. It accepts connections when it is served.
pub(crate) struct Console {
    pub(super) app: SharedApp,
    listener: TcpListener,
    tls: Option<ServerTls>,
}

impl Console {
    /// Makes a console for the person who reads its link. No address is dialled. `demo_upstream` is offered as a server.
    pub(crate) fn for_one_person(
        listener: TcpListener,
        connection: Connection,
        demo_upstream: Option<SocketAddr>,
    ) -> Result<Self, ConsoleError> {
        let site = Site::on_loopback(listener.local_addr().map_err(ConsoleError::Listen)?);
        Self::new(
            listener,
            connection,
            site,
            SignInMethod::Link,
            None,
            demo_upstream,
        )
    }

    /// Makes a console for users with certificates.
    pub(super) fn for_users(
        listener: TcpListener,
        connection: Connection,
        access: UserAccess,
    ) -> Result<Self, ConsoleError> {
        let UserAccess {
            tls,
            users,
            hosts,
            allows_calls,
            certificates,
            reloader,
        } = access;
        let port = listener.local_addr().map_err(ConsoleError::Listen)?.port();
        let site = Site::for_users(&hosts, port);
        let sign_in_method = SignInMethod::Certificate { users, allows_calls };
        let console = Self::new(listener, connection, site, sign_in_method, Some(tls), None)?;
        tokio::spawn(certificates.watch());
        // SIGHUP ends a console, so nothing but a change of a file makes the console read it again.
        let (_, never) = watch::channel(());
        tokio::spawn(reloader.run(never));
        Ok(console)
    }

    fn new(
        listener: TcpListener,
        connection: Connection,
        site: Site,
        sign_in_method: SignInMethod,
        tls: Option<ServerTls>,
        demo_upstream: Option<SocketAddr>,
    ) -> Result<Self, ConsoleError> {
        let (vault_metrics, injector_metrics) = connection.metrics().map_err(ConsoleError::Connection)?;
        let app = Arc::new(App {
            services: Services::of(connection).map_err(ConsoleError::Connection)?,
            sign_ins: SignIns::default(),
            site,
            sign_in_method,
            activity: Arc::new(Activity::of(injector_metrics, vault_metrics)),
            live_streams: Arc::default(),
            demo_upstream,
            stopping: CancellationToken::new(),
        });
        Ok(Self { app, listener, tls })
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        let Self { app, listener, tls } = self;
        let (activity, stopping) = (app.activity.clone(), app.stopping.clone());
        let sampler_stop = stopping.clone();
        let sampler = tokio::spawn(async move { activity.run(sampler_stop).await });
        let router = router::router(app.clone());
        let connections = TaskTracker::new();
        match tls {
            None => serve_for_one_person(listener, shutdown, &router, &connections).await,
            Some(tls) => {
                let pools = Arc::new(ConnectionPools::of(&app.sign_in_method));
                serve_for_users(listener, shutdown, &router, &connections, &tls, &pools).await;
            }
        }
        stopping.cancel();
        connections.close();
        // Requests that take longer are given up.
        drop(time::timeout(SHUTDOWN_TIMEOUT, connections.wait()).await);
        // A panic of the sampler ended only the samples.
        drop(sampler.await);
    }
}

/// Accepts connections of processes of the user who started the console, until `shutdown`.
async fn serve_for_one_person(
    listener: TcpListener,
    shutdown: CancellationToken,
    router: &Router,
    connections: &TaskTracker,
) {
    let slots = Slots::new("console", MAX_CONNECTIONS, Eviction::OldestIdle);
    let stop = shutdown.clone();
    listen::accept(listener, slots, shutdown, |stream, peer, slot| {
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            slot.started();
            if is_admitted(&stream, peer).await {
                serve_connection(stream, slot, None, router, stop).await;
            }
        });
    })
    .await;
}

/// Accepts connections of users with certificates, until `shutdown`.
async fn serve_for_users(
    listener: TcpListener,
    shutdown: CancellationToken,
    router: &Router,
    connections: &TaskTracker,
    tls: &ServerTls,
    pools: &Arc<ConnectionPools>,
) {
    let (slots, stop) = (listen::handshake_slots(), shutdown.clone());
    listen::accept(listener, slots, shutdown, |stream, peer, handshake| {
        let secured = secure(tls.clone(), stream, peer, handshake, pools.clone());
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let secured = stop.run_until_cancelled(secured).await.flatten();
            if let Some((stream, slot, user, trust)) = secured {
                tokio::select! {
                    () = serve_connection(stream, slot, Some(user), router, stop) => {}
                    () = trust.lost() => {}
                }
            }
        });
    })
    .await;
}

/// Completes the TLS handshake, and takes a connection slot. The connection keeps its handshake slot until then.
async fn secure(
    tls: ServerTls,
    stream: TcpStream,
    peer: SocketAddr,
    handshake: Slot,
    pools: Arc<ConnectionPools>,
) -> Option<(impl AsyncRead + AsyncWrite + Unpin, Slot, Arc<Peer>, PeerTrust)> {
    let (stream, trust) = listen::handshake(&tls, stream, peer, &handshake).await?;
    let chain = stream.get_ref().1.peer_certificates();
    let user = Arc::new(Peer::of_client(chain, |principal| {
        pools.users.contains(principal)
    }));
    let slot = pools.take(&user, peer)?;
    slot.started();
    Some((stream, slot, user, trust))
}

/// The connection slots of a console for several users. A certificate of `--client-ca` completes the handshake, and may be that of
/// somebody who may not use the console: such connections take no slot of a user.
struct ConnectionPools {
    users: Vec<Principal>,
    of_users: Slots,
    of_others: Slots,
}

impl ConnectionPools {
    fn of(sign_in_method: &SignInMethod) -> Self {
        let users = match sign_in_method {
            SignInMethod::Link => Vec::new(),
            SignInMethod::Certificate {
                users,
                allows_calls: _,
            } => users.clone(),
        };
        let pool = |limit| Slots::new("console", limit, Eviction::FromLargerHolder);
        Self {
            users,
            of_users: pool(MAX_USER_CONNECTIONS),
            of_others: pool(MAX_OTHER_CONNECTIONS),
        }
    }

    /// Returns a slot, unless all are taken and the client has as many as any other.
    fn take(&self, peer: &Peer, address: SocketAddr) -> Option<Slot> {
        let principal = peer.principal_at(SystemTime::now());
        match principal.filter(|principal| self.users.contains(principal)) {
            Some(user) => self.of_users.try_take(&Holder::Principal(user.clone())),
            None => self.of_others.try_take(&Holder::network(address)),
        }
    }
}

/// Returns false for a connection of another user of the machine.
async fn is_admitted(stream: &TcpStream, peer: SocketAddr) -> bool {
    let Ok(local) = stream.local_addr() else {
        return false;
    };
    let foreign = task::spawn_blocking(move || foreign_user(peer, local)).await;
    match foreign {
        Ok(Some(uid)) => {
            tracing::warn!(uid, "connection of another user closed");
            false
        }
        Ok(None) => true,
        // The lookup panicked, or the runtime is shutting down.
        Err(_) => false,
    }
}

/// Serves one connection. `user` is the identity in the certificate of a client that presented one.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    slot: Slot,
    user: Option<Arc<Peer>>,
    router: Router,
    stop: CancellationToken,
) {
    let slot = Arc::new(slot);
    let evicted = slot.evicted();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let running = slot.begin_call();
        if let Some(user) = &user {
            request.extensions_mut().insert(user.clone());
        }
        let answer = router.call(request);
        async move {
            let Ok(answer) = answer.await;
            Ok::<_, Infallible>(answer.map(|body| RunningBody {
                body,
                _running: running,
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        // A newer connection needs the slot of this one. A request is running only when its user has more connections than others.
        () = evicted => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A browser that goes away is the usual cause.
        tracing::debug!(%error, "connection ended");
    }
}

/// The body of an answer. A backup or an event stream is sent long after its handler has returned, and the request runs until then.
struct RunningBody {
    body: AnyBody,
    _running: SlotCall,
}

impl Body for RunningBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn neither_a_user_nor_anybody_else_takes_all_connections_of_the_users() {
        let principal = |name: &str| Principal::parse(&format!("spiffe://test/{name}")).unwrap();
        let pools = ConnectionPools::of(&SignInMethod::Certificate {
            users: vec![principal("alice"), principal("carol")],
            allows_calls: false,
        });
        let take = |name: &str, port| {
            let peer = Peer::Known {
                principal: principal(name),
                not_after: SystemTime::now() + Duration::from_hours(1),
            };
            pools.take(&peer, ([192, 0, 2, 1], port).into())
        };
        let of_bob: Vec<_> = (0..MAX_OTHER_CONNECTIONS)
            .map(|_| take("bob", 1).unwrap())
            .collect();
        assert!(take("bob", 2).is_none());
        assert!(pools.take(&Peer::Anonymous, ([192, 0, 2, 1], 3).into()).is_none());
        let of_alice: Vec<_> = (0..MAX_USER_CONNECTIONS)
            .map(|_| take("alice", 1).unwrap())
            .collect();
        assert!(take("alice", 2).is_none());
        let of_carol = take("carol", 1).unwrap();
        assert!(of_alice.iter().any(Slot::is_evicted));
        assert!(!of_bob.iter().chain([&of_carol]).any(Slot::is_evicted));
    }
}
