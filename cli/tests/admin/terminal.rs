//! Commands at a terminal of their own, which `script` of util-linux makes.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Stdio},
};

use crate::shell::{TestServices, clean_command};

/// A command that may ask questions. It is killed when dropped.
pub(crate) struct Terminal {
    child: Child,
    printed: String,
}

impl Terminal {
    /// Runs a line of shell with `aerostack` on the path.
    pub(crate) fn run(services: &TestServices, line: &str) -> Self {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_aerostack"));
        let path = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
        let mut command = clean_command("script", services.home());
        command
            .args(["--quiet", "--return", "--command", line, "/dev/null"])
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Self {
            child: command.spawn().unwrap(),
            printed: String::new(),
        }
    }

    /// Reads what the command prints, up to the end of `text`.
    pub(crate) fn read_until(&mut self, text: &str) {
        let stdout = self.child.stdout.as_mut().unwrap();
        while !self.printed.ends_with(text) {
            let mut byte = [0];
            let read = stdout.read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended without {text:?}: {}", self.printed);
            self.printed.push(char::from(byte[0]));
        }
    }

    /// Types a line. Returns the exit code of the command, and everything that it printed.
    pub(crate) fn answer(mut self, line: &str) -> (i32, String) {
        let mut stdin = self.child.stdin.take().unwrap();
        writeln!(stdin, "{line}").unwrap();
        let mut rest = Vec::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        stdout.read_to_end(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code().unwrap();
        (
            code,
            format!("{}{}", self.printed, String::from_utf8_lossy(&rest)),
        )
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
