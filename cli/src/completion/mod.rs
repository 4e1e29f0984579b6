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
    time::Duration,
};

use clap::Command;

use self::position::Position;

pub(crate) use script::script;

/// Longest time that the services may take. A shell waits for the answer.
const PATIENCE: Duration = Duration::from_millis(900);

/// The most bytes of a command line that are read.
const MAX_LINE: u64 = 256 * 1024;

/// Returns true for the hidden command. It is no command of clap's, so that no script or manual page shows it.
pub fn is_asked(args: &[OsString]) -> bool {
    matches!(args, [_, command] if command == "__complete")
}

/// Prints the names for the word at the cursor. The words on standard input end with NUL, and the last one is the word at the
/// cursor.
pub fn run(mut aerostack: Command) -> ExitCode {
    // Without a script at the other end, the command would wait for ever.
    if !io::stdin().is_terminal()
        && let Some(words) = read_words()
        && let Some(position) = Position::find(&mut aerostack, &words)
    {
        for name in names_at(&position) {
            // A shell that no longer listens needs no names.
            let _ = writeln!(io::stdout(), "{name}");
        }
    }
    ExitCode::SUCCESS
}

fn read_words() -> Option<Vec<String>> {
    let mut line = Vec::new();
    io::stdin().lock().take(MAX_LINE).read_to_end(&mut line).ok()?;
    let line = String::from_utf8(line).ok()?;
    Some(line.strip_suffix('\0')?.split('\0').map(str::to_owned).collect())
}

fn names_at(position: &Position) -> Vec<String> {
    let env = |name: &str| env::var_os(name);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let names = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, names::of(&position.subject, &position.connect, env)).await
    });
    // A name server that does not answer would hold up an ordinary shutdown.
    runtime.shutdown_background();
    match names {
        Ok(Some(names)) => position.candidates(names),
        Ok(None) | Err(_) => Vec::new(),
    }
}
