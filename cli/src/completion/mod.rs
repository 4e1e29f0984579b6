//! The names that a shell offers for the word at the cursor: workspaces, servers, secrets and contexts.
//!
//! `aerostack completions` prints a script of clap's for commands and flags, and extends it with a call of the hidden command
//! `aerostack __complete` for names. The command reads the words of the command line from standard input and not from its
//! arguments, because other users can see arguments, and a command line may hold a value. The command prints one name a line.
//! On any failure, and after a second, it prints nothing.

mod names;
mod position;
mod script;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::Command;

use self::position::Position;

pub(crate) use script::script;

/// Longest time that the command takes. A shell waits for the answer.
const PATIENCE: Duration = Duration::from_millis(900);

/// The most bytes of a command line that are read.
const MAX_LINE: u64 = 256 * 1024;

/// Returns true for the hidden command. It is no command of clap's, so that no script or manual page shows it.
pub fn is_asked(args: &[OsString]) -> bool {
    matches!(args, [_, command] if command == "__complete")
}

/// Prints the names for the word at the cursor. The words on standard input end with NUL, and the last one is the word at the
/// cursor.
pub fn run(aerostack: Command) -> ExitCode {
    // Without a script at the other end, the command would wait for ever.
    if io::stdin().is_terminal() {
        return ExitCode::SUCCESS;
    }
    // A file that the connection names may be a pipe that nobody writes to, and a read from it cannot be given up. The end of
    // the process ends the thread.
    let (send, found) = mpsc::channel();
    thread::spawn(move || send.send(names_at_cursor(aerostack)));
    for name in found.recv_timeout(PATIENCE).ok().flatten().unwrap_or_default() {
        // A shell that no longer listens needs no names.
        let _ = writeln!(io::stdout(), "{name}");
    }
    ExitCode::SUCCESS
}

fn names_at_cursor(mut aerostack: Command) -> Option<Vec<String>> {
    let words = read_words()?;
    let position = Position::find(&mut aerostack, &words)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let names = names::of(&position.subject, &position.connect, |name| env::var_os(name));
    Some(position.candidates(runtime.block_on(names)?))
}

fn read_words() -> Option<Vec<String>> {
    let mut line = Vec::new();
    io::stdin().lock().take(MAX_LINE).read_to_end(&mut line).ok()?;
    let line = String::from_utf8(line).ok()?;
    Some(line.strip_suffix('\0')?.split('\0').map(str::to_owned).collect())
}
