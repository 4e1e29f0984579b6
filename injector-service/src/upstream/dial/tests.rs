//! Dialling with names that resolve to other addresses later.

use std::{cell::RefCell, collections::VecDeque};

use chassis::{keepalive::TcpTimeout, settings::Problems, tls::Reloading};
use proto::Uid;
use tokio::net::TcpListener;

use super::*;
use crate::{address::OwnListeners, limits::LimitSettings, upstream::PingIntervals};

const REBOUND: &str = "rebound.test";

thread_local! {
    /// The addresses that [`REBOUND`] resolves to, one at each lookup.
    static ANSWERS: RefCell<VecDeque<SocketAddr>> = const { RefCell::new(VecDeque::new()) };
}

/// Resolves every name but [`REBOUND`] as the system does.
pub(super) async fn lookup_host((name, port): (&str, u16)) -> io::Result<impl Iterator<Item = SocketAddr>> {
    if name == REBOUND {
        let answer = ANSWERS.with_borrow_mut(VecDeque::pop_front);
        return Ok(answer.into_iter().collect::<Vec<_>>().into_iter());
    }
    let answers = tokio::net::lookup_host((name, port)).await?;
    Ok(answers.collect::<Vec<_>>().into_iter())
}

/// Returns an endpoint named `localhost`, with `loopback` as the assumption about the host.
fn endpoint(loopback: bool, own: OwnListeners) -> Endpoint {
    let roots = Reloading::fixed(TrustedRoots::load(&[]).unwrap());
    let limits = LimitSettings::default().check(&mut Problems::default()).unwrap();
    let shared = Arc::new(DialContext {
        roots,
        own,
        limits: limits.upstream,
        keepalive: limits.keepalive,
        ping_intervals: PingIntervals::new(limits.keepalive.upstream_ping.interval),
    });
    let ping = PingInterval::new(&shared.ping_intervals, Uid::generate());
    Endpoint {
        host: Host::Domain("localhost".to_owned()),
        port: 1,
        loopback,
        transport: Transport::Http1,
        tls: None,
        client_certificate: None,
        shared,
        placeholders: PlaceholderTable::default(),
        dialer: Dialer::new(TcpTimeout::default()),
        ping,
    }
}

#[tokio::test]
async fn the_resolved_address_is_checked_before_dialling() {
    // `localhost` resolves to this machine. The first endpoint assumes another machine, the second one this machine.
    assert!(matches!(
        endpoint(false, OwnListeners::default()).resolve().await,
        Err(DialError::Address(Forbidden::Rebound))
    ));
    assert!(endpoint(true, OwnListeners::default()).resolve().await.is_ok());
}

#[tokio::test]
async fn a_name_is_checked_again_at_each_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metadata = "169.254.169.254:80".parse().unwrap();
    let to = |loopback, answers: [SocketAddr; 2]| {
        ANSWERS.set(answers.into());
        Endpoint {
            host: Host::Domain(REBOUND.to_owned()),
            ..endpoint(loopback, OwnListeners::default())
        }
    };
    let local = to(true, [listener.local_addr().unwrap(), metadata]);
    assert!(local.connect().await.is_ok());
    let again = local.connect().await;
    assert!(matches!(again, Err(DialError::Address(Forbidden::LinkLocal))));

    let public = "93.184.215.14:443".parse().unwrap();
    for (then, why) in [
        (metadata, Forbidden::LinkLocal),
        ("127.0.0.1:443".parse().unwrap(), Forbidden::Rebound),
    ] {
        let remote = to(false, [public, then]);
        assert_eq!(remote.resolve().await.unwrap(), [public]);
        let again = remote.resolve().await;
        assert!(
            matches!(again, Err(DialError::Address(is)) if is == why),
            "{then}"
        );
    }
}

#[tokio::test]
async fn a_name_of_this_machine_that_resolves_to_another_is_not_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let this = listener.local_addr().unwrap();
    for other in ["10.1.2.3:80", "93.184.215.14:80", "[fd00::1]:80"] {
        ANSWERS.set([this, other.parse().unwrap()].into());
        let endpoint = Endpoint {
            host: Host::Domain(REBOUND.to_owned()),
            ..endpoint(true, OwnListeners::default())
        };
        assert!(endpoint.connect().await.is_ok());
        let again = endpoint.connect().await;
        assert!(
            matches!(again, Err(DialError::Address(Forbidden::NotLoopback))),
            "{other}"
        );
    }
}

#[test]
fn a_host_with_one_forbidden_address_is_not_dialled() {
    let own = "192.168.7.7:7100";
    let endpoint = endpoint(false, OwnListeners::new([own.parse().unwrap()]));
    let allowed = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        endpoint.allowed(addresses.collect())
    };
    let good = ["93.184.215.14:443", "10.1.2.3:443", "[2606:2800:21f::1]:443"];
    assert_eq!(allowed(&good).unwrap().len(), 3);
    for bad in [
        "169.254.169.254:80",
        "[fe80::1]:80",
        "[::ffff:169.254.169.254]:80",
        "127.0.0.1:443",
        "[::1]:443",
        "0.0.0.0:443",
        own,
    ] {
        for addresses in [
            &[bad][..],
            &[bad, good[0]],
            &[good[0], bad],
            &[good[0], good[2], bad, good[1]],
        ] {
            let refused = allowed(addresses);
            assert!(matches!(refused, Err(DialError::Address(_))), "{addresses:?}");
        }
    }
}
