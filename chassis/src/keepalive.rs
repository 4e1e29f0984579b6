//! Detection of dead peers: TCP keepalive notices dead machines and networks, HTTP/2 PING notices programs that hang.

use std::{os::fd::AsFd, time::Duration};

use rustix::{io, net::sockopt};

use super::settings::Problems;

/// PING frames on HTTP/2 connections (RFC 9113, section 6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Time without a frame after which a PING is sent.
    pub interval: Duration,
    /// Time that the peer has to answer before the connection is closed.
    pub timeout: Duration,
}

impl Ping {
    /// Reads both settings, each given as its name and its text.
    pub fn check(problems: &mut Problems, interval: (&str, &str), timeout: (&str, &str)) -> Option<Self> {
        let range = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
        let interval = problems.duration_in(interval.0, interval.1, range.clone());
        let timeout = problems.duration_in(timeout.0, timeout.1, range);
        Some(Self {
            interval: interval?,
            timeout: timeout?,
        })
    }
}

/// The time after which a TCP connection whose peer acknowledges nothing is closed.
///
/// With the default of 50 seconds: on a connection that carries nothing, the kernel sends a keepalive probe after 20 seconds
/// (two fifths, `TCP_KEEPIDLE`), and further ones every 10 seconds (one fifth, `TCP_KEEPINTVL`). It closes the connection when
/// data was not acknowledged for 45 seconds (nine tenths, `TCP_USER_TIMEOUT`), and one that carries nothing when the probe of
/// the 50th second is due. The peer's kernel acknowledges probes also when the peer's program hangs, which [`Ping`] notices. A
/// peer whose receive buffer stays full counts as dead, because `TCP_USER_TIMEOUT` includes unsent data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpTimeout(pub Duration);

impl TcpTimeout {
    /// Reads the setting. The minimum of 5 seconds leaves a whole second for a fifth: the kernel's options are in seconds.
    pub fn check(problems: &mut Problems, setting: &str, text: &str) -> Option<Self> {
        let range = Duration::from_secs(5)..=Duration::from_secs(60 * 60);
        problems.duration_in(setting, text, range).map(Self)
    }

    /// Sets the socket options. Connections inherit them from the listening socket that accepts them.
    pub fn set(self, socket: impl AsFd) {
        if let Err(error) = self.try_set(socket.as_fd()) {
            // Fails for a connection that is already closed, and on systems without one of the options.
            tracing::debug!(%error, "keepalive of a socket not set");
        }
    }

    fn try_set(self, socket: impl AsFd) -> io::Result<()> {
        let fifth = self.0 / 5;
        let user_timeout = u32::try_from((self.0 * 9 / 10).as_millis()).unwrap_or(u32::MAX);
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, fifth * 2)?;
        sockopt::set_tcp_keepintvl(&socket, fifth)?;
        sockopt::set_tcp_keepcnt(&socket, 3)?;
        sockopt::set_tcp_user_timeout(&socket, user_timeout)
    }
}

impl Default for TcpTimeout {
    fn default() -> Self {
        Self(Duration::from_secs(50))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn accepted_connections_have_the_options_of_their_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpTimeout::default().set(&listener);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), Duration::from_secs(20));
        assert_eq!(
            sockopt::tcp_keepintvl(&accepted).unwrap(),
            Duration::from_secs(10)
        );
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), 3);
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 45_000);
    }
}
