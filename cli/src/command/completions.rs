//! `aerostack completions`

use clap::{Args, Command};
use clap_complete::Shell;

use crate::output::Report;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. In Bash: `source <(aerostack completions bash)`
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    /// Returns the script for `aerostack`, the whole command line.
    pub(super) fn run(&self, mut aerostack: Command) -> Report {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut aerostack, "aerostack", &mut script);
        Report {
            result: String::from_utf8_lossy(&script).into_owned(),
            ..Report::default()
        }
    }
}
