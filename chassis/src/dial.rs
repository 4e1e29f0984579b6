//! TCP connections to a host with several addresses.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::keepalive::TcpTimeout;

/// Delay between the attempt at one address and the attempt at the next (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Time for which an address that failed is tried after the others.
const FAILED_FOR: Duration = Duration::from_secs(60);

/// Returns the host of an authority as names are resolved and verified: an IPv6 address loses its brackets (RFC 3986,
/// section 3.2.2).
pub fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// Makes connections to one host and spreads them over its addresses.
///
/// The addresses of one connection race (RFC 8305): the next attempt starts when the last one has failed or has not
/// succeeded within [`ATTEMPT_DELAY`]. An address that failed, or lost against an address with a later start, is tried
/// last for [`FAILED_FOR`].
pub struct Dialer {
    tcp_timeout: TcpTimeout,
    /// Number of connections so far. Each connection starts with the next address.
    turn: AtomicUsize,
    /// Number of addresses without a recent failure at the time of the last connection.
    good: AtomicUsize,
    /// Time of the last failure of each address.
    failed: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Dialer {
    /// Makes a dialer whose connections get `tcp_timeout`.
    pub fn new(tcp_timeout: TcpTimeout) -> Self {
        let mut random = [0];
        // The first address is random, so that many short-lived dialers spread, too. 0 is a fine fallback.
        let _ = getrandom::fill(&mut random);
        Self {
            tcp_timeout,
            turn: AtomicUsize::new(random[0].into()),
            good: AtomicUsize::new(0),
            failed: Mutex::default(),
        }
    }

    /// Returns the number of addresses without a recent failure at the time of the last connection.
    pub fn addresses(&self) -> usize {
        self.good.load(Relaxed)
    }

    /// Connects to the address that answers first. Returns the last error when none does.
    pub async fn connect(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let mut waiting = self.in_order(addresses).into_iter();
        let mut started = Vec::new();
        let mut attempts = FuturesUnordered::new();
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut delay = pin!(sleep(Duration::ZERO));
        let mut is_due = true;
        loop {
            if is_due && let Some(address) = waiting.next() {
                started.push(address);
                attempts.push(async move { (address, TcpStream::connect(address).await) });
                delay.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
            }
            tokio::select! {
                biased;
                Some((address, connected)) = attempts.next() => match connected {
                    Ok(stream) => {
                        self.worked(address, &started);
                        self.tcp_timeout.set(&stream);
                        return Ok(stream);
                    }
                    Err(error) => {
                        self.lock().insert(address, Instant::now());
                        failure = error;
                        is_due = true;
                    }
                },
                () = delay.as_mut(), if waiting.len() > 0 => is_due = true,
                else => return Err(failure),
            }
        }
    }

    /// Returns the addresses in the order in which they are tried.
    fn in_order(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let mut failed = self.lock();
        failed.retain(|_, at| at.elapsed() < FAILED_FOR);
        let (last, mut first): (Vec<_>, Vec<_>) =
            addresses.iter().partition(|address| failed.contains_key(address));
        self.good.store(first.len(), Relaxed);
        let middle = turn.checked_rem(first.len()).unwrap_or_default();
        first.rotate_left(middle);
        first.extend(last);
        first
    }

    /// Notes that `address` won the race, and that the addresses with an earlier start lost it.
    fn worked(&self, address: SocketAddr, started: &[SocketAddr]) {
        let mut failed = self.lock();
        failed.remove(&address);
        let slower = started.iter().take_while(|other| **other != address);
        failed.extend(slower.map(|other| (*other, Instant::now())));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::collections::HashSet;

    use rustix::net::sockopt;
    use tokio::{
        net::{TcpListener, TcpSocket},
        time::timeout,
    };

    use super::*;

    /// An address that answers no attempt to connect, because the queue of its listener is full.
    struct Dead {
        address: SocketAddr,
        _listener: TcpListener,
        _queued: Vec<TcpStream>,
    }

    impl Dead {
        async fn bind() -> Self {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(1).unwrap();
            let address = listener.local_addr().unwrap();
            let mut queued = Vec::new();
            for _ in 0..16 {
                let connecting = timeout(Duration::from_millis(100), TcpStream::connect(address));
                let Ok(stream) = connecting.await else {
                    return Self {
                        address,
                        _listener: listener,
                        _queued: queued,
                    };
                };
                queued.push(stream.unwrap());
            }
            panic!("the queue never fills");
        }
    }

    async fn bind() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn unused() -> SocketAddr {
        bind().await.1
    }

    fn dialer(turn: usize) -> Dialer {
        Dialer {
            turn: AtomicUsize::new(turn),
            ..Dialer::new(TcpTimeout::default())
        }
    }

    #[tokio::test]
    async fn a_dead_address_delays_only_the_first_connection() {
        let (dead, (_listener, alive)) = (Dead::bind().await, bind().await);
        let dialer = dialer(0);
        let addresses = [dead.address, alive];
        for (round, most) in [(1, 1000), (2, 150), (3, 150)] {
            let began = Instant::now();
            let stream = dialer.connect(&addresses).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), alive);
            let took = began.elapsed();
            assert!(took < Duration::from_millis(most), "{round}: {took:?}");
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over_at_once() {
        let (refusing, (_listener, alive)) = (unused().await, bind().await);
        let began = Instant::now();
        let stream = dialer(0).connect(&[refusing, refusing, alive]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        assert!(began.elapsed() < ATTEMPT_DELAY);
    }

    #[tokio::test]
    async fn connections_are_spread_over_all_addresses() {
        let (one, two, three) = (bind().await, bind().await, bind().await);
        let addresses = [one.1, two.1, three.1];
        let dialer = dialer(7);
        let mut reached = HashSet::new();
        for _ in 0..3 {
            reached.insert(dialer.connect(&addresses).await.unwrap().peer_addr().unwrap());
        }
        assert_eq!(reached, addresses.into());
    }

    #[tokio::test]
    async fn an_address_that_works_again_is_not_last_for_ever() {
        let (one, two) = (unused().await, unused().await);
        let dialer = dialer(0);
        dialer.lock().insert(one, Instant::now());
        assert_eq!(dialer.in_order(&[one, two]), [two, one]);
        tokio::time::pause();
        tokio::time::advance(FAILED_FOR).await;
        dialer.turn.store(0, Relaxed);
        assert_eq!(dialer.in_order(&[one, two]), [one, two]);
    }

    #[tokio::test]
    async fn connections_get_the_tcp_timeout() {
        let (_listener, address) = bind().await;
        let stream = dialer(0).connect(&[address]).await.unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 45_000);
    }

    #[tokio::test]
    async fn the_last_failure_is_returned() {
        let error = dialer(0).connect(&[unused().await]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = dialer(0).connect(&[]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
