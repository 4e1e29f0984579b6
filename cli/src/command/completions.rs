//! `aerostack completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{Cli, output::Report};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. In Bash: `source <(aerostack completions bash)`
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(&self) -> Report {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "aerostack", &mut script);
        Report {
            result: String::from_utf8_lossy(&script).into_owned(),
            ..Report::default()
        }
    }
}
