//! `aerostack man`

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Command};
use clap_mangen::Man;

use crate::{
    failure::{Failure, FailureKind},
    output::Report,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack man | man -l -\n\
\x20 aerostack man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// A directory for the pages of all commands, such as `aerostack-backup.1`; it is made if it does not exist. Without one,
    /// the page `aerostack.1` goes to standard output
    directory: Option<PathBuf>,
}

impl ManArgs {
    /// Writes the pages of `aerostack`, the whole command line.
    pub(super) fn run(self, aerostack: Command) -> Result<Report, Failure> {
        let mut aerostack = aerostack.disable_help_subcommand(true);
        // Gives every command its full name and the flags of the commands above it.
        aerostack.build();
        let Some(directory) = self.directory else {
            return Ok(Report {
                result: page(&Man::new(aerostack))?,
                ..Report::default()
            });
        };
        fs::create_dir_all(&directory).map_err(|error| Failure::file(&directory, &error))?;
        let count = write_pages(aerostack, &directory)?;
        Ok(Report {
            result: format!("Made {count} pages in {}\n", directory.display()),
            ..Report::default()
        })
    }
}

/// Writes the page of a command and of every command below it. Returns the number of pages.
fn write_pages(command: Command, directory: &Path) -> Result<usize, Failure> {
    let mut count = 1;
    for subcommand in command.get_subcommands() {
        count += write_pages(subcommand.clone(), directory)?;
    }
    let man = Man::new(command);
    let path = directory.join(man.get_filename());
    fs::write(&path, page(&man)?).map_err(|error| Failure::file(&path, &error))?;
    Ok(count)
}

fn page(man: &Man) -> Result<String, Failure> {
    let mut page = Vec::new();
    man.render(&mut page)
        .map_err(|error| Failure::new(FailureKind::Internal, error))?;
    // The text after the flags consists of examples.
    Ok(String::from_utf8_lossy(&page).replacen("\n.SH EXTRA\n", "\n.SH EXAMPLES\n", 1))
}
