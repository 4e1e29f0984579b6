//! The links for signing in: printed, opened in the browser, and made anew when the person presses Enter.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::{Command, Stdio},
    thread,
};

use rustix::{process::getpgrp, termios::tcgetpgrp};

use super::{app::SharedApp, error::ConsoleError};

/// Prints a link, and opens it when `opens_browser` is set and a person is at the terminal.
pub(super) fn invite(app: &SharedApp, opens_browser: bool) -> Result<(), ConsoleError> {
    let link = app.site.sign_in_link(&app.sign_ins.new_link()?);
    let is_interactive = is_in_foreground();
    let advice = match is_interactive {
        true => "\nThe link works once. Press Enter for a new one, and Ctrl-C to stop.",
        false => "",
    };
    say(&format!("{link}{advice}\n"));
    if opens_browser && io::stdout().is_terminal() {
        open(&link);
    }
    if is_interactive {
        // A thread of its own, because nothing can interrupt a read from a terminal: a task of the runtime would keep the
        // runtime from ending.
        let app = app.clone();
        thread::spawn(move || renew_on_enter(&app));
    }
    Ok(())
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
    while matches!(io::stdin().read_line(&mut line), Ok(1..)) {
        line.clear();
        if let Ok(token) = app.sign_ins.new_link() {
            say(&format!("{}\n", app.site.sign_in_link(&token)));
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
