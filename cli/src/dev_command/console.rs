//! The web console of `aerostack dev`.

use std::{io, net::SocketAddr, time::Duration};

use chassis::{keepalive::TcpTimeout, listen, telemetry::chain};
use tokio::{net::TcpListener, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

use crate::{
    console::{Console, ConsoleError},
    dev::DevServices,
};

/// Time that the console's requests get once the services have stopped, which they need. Pages that keep a request open must not
/// delay the end of `aerostack dev`.
const GRACE: Duration = Duration::from_millis(500);

/// A console that runs as a task of this process, or the reason why none does.
pub(super) struct DevConsole {
    /// The text that invites the developer to open the console.
    pub(super) invitation: String,
    task: Option<JoinHandle<()>>,
}

impl DevConsole {
    /// Starts a console that runs until `stop`. A console that cannot start does not end `aerostack dev`.
    pub(super) fn start(
        address: SocketAddr,
        services: &DevServices,
        demo_upstream: Option<SocketAddr>,
        stop: CancellationToken,
    ) -> Self {
        match bind(address, services, demo_upstream) {
            Ok((console, invitation)) => Self {
                invitation,
                task: Some(tokio::spawn(console.serve(stop))),
            },
            Err(error) => Self {
                invitation: format!("There is no web console: {}\n", chain(&error)),
                task: None,
            },
        }
    }

    /// Waits for the console's last requests.
    pub(super) async fn end(self) {
        if let Some(task) = self.task {
            drop(time::timeout(GRACE, task).await);
        }
    }
}

fn bind(
    address: SocketAddr,
    services: &DevServices,
    demo_upstream: Option<SocketAddr>,
) -> Result<(Console, String), ConsoleError> {
    let connection = services.connection().map_err(ConsoleError::Connection)?;
    let (listener, note) = listen(address).map_err(ConsoleError::Listen)?;
    let console = Console::for_one_person(listener, connection, demo_upstream)?;
    let link = console.new_link()?;
    let new_one = match console.renew_links_on_enter() {
        true => "Enter prints",
        false => "`aerostack console --listen 127.0.0.1:0` prints",
    };
    let invitation =
        format!("\nOpen the web console; the link signs in once ({new_one} a new one):\n    {link}\n{note}");
    Ok((console, invitation))
}

/// Listens on `address`, or on another port when another program has that port. Also returns what to say about the port.
fn listen(address: SocketAddr) -> io::Result<(TcpListener, String)> {
    match listen::bind(address, TcpTimeout::default()) {
        Ok(listener) => Ok((listener, String::new())),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let any_port = SocketAddr::new(address.ip(), 0);
            let listener = listen::bind(any_port, TcpTimeout::default())?;
            let note = format!(
                "    Another program has port {} (--console-addr).\n",
                address.port()
            );
            Ok((listener, note))
        }
        Err(error) => Err(error),
    }
}
