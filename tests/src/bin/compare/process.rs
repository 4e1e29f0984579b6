//! Child processes, which end when the benchmark ends.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, set_parent_process_death_signal, setrlimit,
};
use tokio::{net::TcpStream, time};

use crate::Failure;

/// Time limit for the start of a process.
const STARTUP: Duration = Duration::from_secs(30);
/// Time limit for a vault to close a store of gigabytes.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// A running process, which is killed when this value is dropped.
pub(crate) struct Process {
    child: Child,
    what: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose standard output and standard error go to `log`.
    ///
    /// Call this function from the main thread, because the kernel kills the process when the thread that started it
    /// ends.
    pub(crate) fn start<A: AsRef<OsStr>>(
        what: &'static str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self, Failure> {
        // The process appends to its log, so that the benchmark can empty the file in between.
        drop(File::create(log)?);
        let output = OpenOptions::new().append(true).open(log)?;
        let mut command = Command::new(env::current_exe()?);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("AEROSTACK_") {
                command.env_remove(name);
            }
        }
        command
            .args(["child", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Self {
            child,
            what,
            log: log.to_owned(),
        })
    }

    /// Starts another process of this binary, with a hidden subcommand.
    pub(crate) fn start_role<A: AsRef<OsStr>>(
        what: &'static str,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self, Failure> {
        Self::start(what, &env::current_exe()?, arguments, log)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a server accepts connections at `address`. Fails after [`STARTUP`] or when the process ends.
    pub(crate) async fn wait_until_listening(&mut self, address: SocketAddr) -> Result<(), Failure> {
        let started = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if self.child.try_wait()?.is_some() || started.elapsed() > STARTUP {
                return Err(format!("{} did not come up:\n{}", self.what, self.output()?).into());
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Sends SIGTERM and waits until the process ends.
    pub(crate) async fn terminate(&mut self) -> Result<(), Failure> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        self.wait_for_success(SHUTDOWN).await.map(drop)
    }

    /// Sends SIGKILL, which ends the process like a crash.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until the process ends with status 0, and returns its output.
    pub(crate) async fn wait_for_success(&mut self, within: Duration) -> Result<String, Failure> {
        let started = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return self.output(),
                Some(status) => return Err(format!("{}: {status}\n{}", self.what, self.output()?).into()),
                None if started.elapsed() > within => {
                    return Err(format!("{} did not end within {within:?}", self.what).into());
                }
                None => time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    fn output(&self) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `kill` fails only when the process has already ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Replaces this process by another program, with the highest possible limit of open files. The kernel kills the
/// program when the parent ends. Returns only on failure.
pub(crate) fn become_program(command: &[OsString]) -> Failure {
    let become_it = || -> Result<Failure, Failure> {
        let (program, arguments) = command.split_first().ok_or("no program was named")?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        raise_open_file_limit()?;
        let failed = Command::new(program).args(arguments).exec();
        Ok(format!("{}: {failed}", program.to_string_lossy()).into())
    };
    become_it().unwrap_or_else(|failed| failed)
}

/// Raises this process's soft limit of open files to the hard limit, and returns the limit.
pub(crate) fn raise_open_file_limit() -> Result<u64, Failure> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Returns an address with a free port, for programs that do not report the port that they bound.
pub(crate) fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Empties a log. Access logs grow by megabytes a second.
pub(crate) fn truncate(log: &Path) -> Result<(), Failure> {
    Ok(OpenOptions::new().write(true).open(log)?.set_len(0)?)
}
