//! `aerostack completions`

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{completion::script, output::Report};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 source <(aerostack completions bash)\n\
\x20 aerostack completions zsh > _aerostack")]
pub struct CompletionsArgs {
    /// The shell. In Bash: `source <(aerostack completions bash)`
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    /// Returns the script for `aerostack`, the whole command line.
    pub(super) fn run(&self, aerostack: Command) -> Report {
        Report {
            result: script(self.shell, aerostack),
            ..Report::default()
        }
    }
}
