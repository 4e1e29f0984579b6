//! The links for signing in: printed, opened in the browser, and made anew when the person presses Enter.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::getpgrp,
    termios::tcgetpgrp,
};

use super::{
    app::{SharedApp, SignInMethod},
    error::ConsoleError,
    server::Console,
};

/// Interval between two looks at whether the process is in the foreground again, while another process reads the terminal.
const BACKGROUND_INTERVAL: Duration = Duration::from_millis(500);

impl Console {
    /// Makes a link that signs in once, and replaces a link that nobody used.
    pub(crate) fn new_link(&self) -> Result<String, ConsoleError> {
        Ok(link(&self.app)?)
    }

    /// Prints a new link whenever the person at the terminal presses Enter. Returns false when nobody is at the terminal.
    pub(crate) fn renew_links_on_enter(&self) -> bool {
        let is_interactive = is_in_foreground();
        if is_interactive {
            // A thread of its own, because nothing can interrupt a read from a terminal: a task of the runtime would keep the
            // runtime from ending.
            let app = self.app.clone();
            thread::spawn(move || renew_on_enter(&app));
        }
        is_interactive
    }
}

/// Prints the address or a link, and opens the link when `opens_browser` is set and a person is at the terminal.
pub(super) fn invite(console: &Console, opens_browser: bool) -> Result<(), ConsoleError> {
    if let SignInMethod::Certificate { .. } = console.app.sign_in_method {
        say(&format!("{}\n", console.app.site.address()));
        return Ok(());
    }
    let link = console.new_link()?;
    let advice = match console.renew_links_on_enter() {
        true => "\nThe link works once. Press Enter for a new one, and Ctrl-C to stop.",
        false => "",
    };
    say(&format!("{link}{advice}\n"));
    if opens_browser && io::stdout().is_terminal() {
        open(&link);
    }
    Ok(())
}

fn link(app: &SharedApp) -> Result<String, getrandom::Error> {
    Ok(app.site.sign_in_link(&app.sign_ins.new_link()?))
}

/// Returns true when standard input is a terminal that this process may read. The system stops a process that reads the
/// terminal from the background (`aerostack console &`).
fn is_in_foreground() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == getpgrp())
}

/// Prints a new link for every line of standard input.
fn renew_on_enter(app: &SharedApp) {
    let mut line = String::new();
    while has_input() && matches!(io::stdin().read_line(&mut line), Ok(1..)) {
        line.clear();
        if let Ok(link) = link(app) {
            say(&format!("{link}\n"));
        }
    }
}

/// Waits until the terminal has input for this process. Returns false when the terminal is gone. A person may send the process to
/// the background (Ctrl-Z, `bg`), and the system would stop it there if it read the terminal.
fn has_input() -> bool {
    let stdin = io::stdin();
    loop {
        let mut terminal = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut terminal, None) {
            Ok(_) if is_in_foreground() => return true,
            Ok(_) if tcgetpgrp(&stdin).is_err() => return false,
            Ok(_) => thread::sleep(BACKGROUND_INTERVAL),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Opens a link in the browser. A failure is ignored, because the link is printed too.
fn open(link: &str) {
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let started = Command::new(opener)
        .arg(link)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(mut child) = started {
        thread::spawn(move || child.wait());
    }
}

/// Prints to standard output. A closed standard output is ignored.
fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}
