//! The user of the program at the other end of a connection.
//!
//! Browsers send a cookie to every port of a host. Another user of the machine who listens on a loopback port can therefore
//! receive the session cookie of the console, and must not be able to use the cookie.

use std::net::SocketAddr;

use procfs::net::{TcpNetEntry, tcp, tcp6};
use rustix::process::getuid;

/// Returns the user of `peer` when the user is neither root nor the user of this process. `local` is the console's end of the
/// connection. Reads files of `/proc`, and so blocks.
///
/// Returns `None` also when nothing is known: when the tables cannot be read, or do not have the socket of `peer`, because the
/// program has closed it. The kernel gives a closed socket without a process to root. Nobody receives the answer on such a
/// socket, and a change needs the CSRF token of an earlier answer.
pub(super) fn foreign_user(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    // The second attempt is for a socket that the first one missed, because other sockets were closed during the read.
    let user = user_of(peer, local).or_else(|| user_of(peer, local))?;
    is_foreign(user, getuid().as_raw()).then_some(user)
}

fn is_foreign(user: u32, own: u32) -> bool {
    user != 0 && user != own
}

/// Looks in both tables, because a client may connect to an IPv4 address with an IPv6 socket.
fn user_of(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let in_table = |table: Vec<TcpNetEntry>| find(&table, peer, local);
    let in_tcp = tcp().ok().and_then(in_table);
    in_tcp.or_else(|| tcp6().ok().and_then(in_table))
}

/// Returns the user of the client's socket. Both ends of a connection on one machine are in the table.
fn find(table: &[TcpNetEntry], peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let is_client =
        |entry: &&TcpNetEntry| is_same(entry.local_address, peer) && is_same(entry.remote_address, local);
    table.iter().find(is_client).map(|entry| entry.uid)
}

/// Compares addresses. An IPv4 address in an IPv6 socket has the form `::ffff:127.0.0.1`.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use procfs::{FromBufReadSI as _, net::TcpNetEntries};

    use super::*;

    /// `/proc/net/tcp` on a little-endian machine: the client's end of a connection from port 40000 to port 7180, and the
    /// console's end.
    const TCP: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:9C40 0100007F:1C0C 01 00000000:00000000 00:00000000 00000000  1001        0 11 1
   1: 0100007F:1C0C 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 12 1
";
    /// `/proc/net/tcp6`: the same client with an IPv6 socket.
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:9C40 0000000000000000FFFF00000100007F:1C0C 01 00000000:00000000 00:00000000 00000000  1001        0 13 1
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_user_of_a_connection_is_that_of_the_clients_socket() {
        let (peer, local) = (
            "127.0.0.1:40000".parse().unwrap(),
            "127.0.0.1:7180".parse().unwrap(),
        );
        for table in [TCP, TCP6] {
            let table =
                TcpNetEntries::from_buf_read(table.as_bytes(), procfs::current_system_info()).unwrap();
            assert_eq!(find(&table.0, peer, local), Some(1001));
            assert_eq!(find(&table.0, "127.0.0.1:40001".parse().unwrap(), local), None);
        }
    }

    #[test]
    fn only_other_users_than_root_and_oneself_are_foreign() {
        assert!(is_foreign(1001, 1000));
        assert!(is_foreign(1001, 0));
        assert!(!is_foreign(1000, 1000));
        assert!(!is_foreign(0, 1000));
    }

    #[test]
    fn a_connection_of_the_same_user_is_not_foreign() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            // Some machines have no IPv6.
            let Ok(listener) = TcpListener::bind(listen) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert_eq!(foreign_user(peer, server.local_addr().unwrap()), None);
            drop(client);
        }
    }
}
