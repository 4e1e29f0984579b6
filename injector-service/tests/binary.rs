//! The binary as an operator meets it: exit codes, and what it says.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// `EX_USAGE` of sysexits.h.
const USAGE: i32 = 64;
/// Longest time that a line of the log may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

fn injector(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_injector-service"));
    command.env_clear().envs(environment.iter().copied());
    command.args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Probes that give each caller of `/readyz` this answer.
fn probes(answer: &'static str) -> SocketAddr {
    probes_at("/readyz", answer)
}

/// Probes that expect this page, and give each caller this answer.
fn probes_at(page: &'static str, answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(format!("GET {page} HTTP/1.1\r\n").as_bytes()));
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn healthcheck_asks_where_the_injector_was_told_to_answer() {
    let ready = probes("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
    let everywhere = format!("0.0.0.0:{}", ready.port());
    // As in a container: one environment for the injector and for the check, other settings in it too.
    let environment = [
        ("AEROSTACK_INJECTOR_METRICS_LISTEN", everywhere.as_str()),
        ("AEROSTACK_INJECTOR_LISTEN", "0.0.0.0:7151"),
    ];
    let output = injector(&["healthcheck"], &environment);
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
}

#[test]
fn healthcheck_asks_the_page_of_each_probe_of_kubernetes() {
    for (flag, page) in [("--startup", "/startupz"), ("--live", "/livez")] {
        let address = probes_at(page, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
        let output = injector(
            &["healthcheck", flag, "--metrics-listen", &address.to_string()],
            &[],
        );
        assert_eq!(
            (output.status.code(), said(&output)),
            (Some(0), String::new()),
            "{flag}"
        );
    }
}

#[test]
fn healthcheck_fails_with_what_the_injector_says() {
    let waiting = probes(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 37\r\n\r\nnot ready: the vault does not answer\n",
    );
    let output = injector(&["healthcheck", "--metrics-listen", &waiting.to_string()], &[]);
    assert_eq!(
        (output.status.code(), said(&output).as_str()),
        (Some(1), "not ready: the vault does not answer\n")
    );
}

#[test]
fn what_the_command_line_does_not_know_is_a_usage_error() {
    let wrong = [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["healthcheck", "now"],
        &["healthcheck", "--startup", "--live"],
        &["healthcheck", "--metrics-listen", "nowhere"],
        &["--listen", "127.0.0.1:0", "healthcheck"],
    ];
    for args in wrong {
        let output = injector(args, &[]);
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_webhook_reports_its_mistakes_at_once_and_has_variables_of_its_own() {
    let environment = [
        ("AEROSTACK_WEBHOOK_IMAGE", "registry.example.org/injector:1"),
        ("AEROSTACK_WEBHOOK_CPU", "much"),
        ("AEROSTACK_INJECTOR_VAULT", "127.0.0.1:7150"),
    ];
    let output = injector(&["webhook", "--memory", "64"], &environment);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(USAGE), "{said}");
    for part in [
        "--vault: is required",
        "--vault-id: is required",
        "--vault-ca: is required",
        "--tls-cert: is required",
        "--cpu: \"much\" is not a quantity",
        "--memory: \"64\" is less than 16Mi",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("--image"), "{said}");
}

/// Returns the user ID of this process, or the ID of `nobody` when the process runs as root.
fn user() -> u32 {
    match geteuid().as_raw() {
        0 => 65_534,
        user => user,
    }
}

/// Returns a folder with the injector's binary and the files that it needs to start, all readable by [`user`].
fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(user()), None).unwrap();
    };
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_key = KeyPair::generate().unwrap();
    file("ca.pem", ca.self_signed(&ca_key).unwrap().pem());
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI("spiffe://test/injector".try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
    file("injector.pem", leaf.pem());
    file("injector-key.pem", key.serialize_pem());
    // A link where possible: while a copy is written, another test's child process may inherit the open file, and a file that
    // is open for writing cannot be executed.
    let (built, here) = (
        env!("CARGO_BIN_EXE_injector-service"),
        dir.path().join("injector-service"),
    );
    fs::hard_link(built, &here)
        .or_else(|_| fs::copy(built, &here).map(drop))
        .unwrap();
    chown(dir.path(), Some(user()), None).unwrap();
    dir
}

/// An injector that serves, though its vault does not answer. Killed when dropped.
struct Serving {
    process: Child,
    /// The lines of its log.
    log: Receiver<String>,
}

impl Serving {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let serving = Self::spawn(dir, more);
        serving.says("is serving");
        serving
    }

    /// Starts the injector, and leaves its whole log to the test.
    fn spawn(dir: &Path, more: &[&str]) -> Self {
        let file = |name: &str| dir.join(name).into_os_string();
        let mut command = Command::new(file("injector-service"));
        for flag in ["--listen", "--data-plane-listen", "--metrics-listen"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        for (flag, name) in [
            ("--servers", "servers.yaml"),
            ("--vault-ca", "ca.pem"),
            ("--client-ca", "ca.pem"),
            ("--vault-cert", "injector.pem"),
            ("--vault-key", "injector-key.pem"),
            ("--tls-cert", "injector.pem"),
            ("--tls-key", "injector-key.pem"),
        ] {
            command.arg(flag).arg(file(name));
        }
        command
            .args(["--vault", "127.0.0.1:9", "--vault-id", "spiffe://test/vault"])
            .args(["--admin", "spiffe://test/admin"])
            .args(more)
            .env_clear()
            .uid(user())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, log }
    }

    /// Waits for a line of the log with this text.
    fn says(&self, text: &str) -> String {
        let mut said = String::new();
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {text:?}: {said}"));
            if line.contains(text) {
                return line;
            }
            said += &line;
        }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn its_memory_is_roots_alone_and_no_core_is_dumped_unless_debugging_is_allowed() {
    let dir = folder();
    let protection = |more: &[&str]| {
        let injector = Serving::start(dir.path(), more);
        let memory = fs::metadata(format!("/proc/{}/mem", injector.process.id())).unwrap();
        let limits = fs::read_to_string(format!("/proc/{}/limits", injector.process.id())).unwrap();
        (memory.uid(), core_limit(&limits))
    };
    let ours = fs::read_to_string("/proc/self/limits").unwrap();
    assert_eq!(protection(&[]), (0, ["0".to_owned(), "0".to_owned()]));
    assert_eq!(protection(&["--allow-debugging"]), (user(), core_limit(&ours)));
}

/// The soft and the hard limit of core files, in what /proc says of limits.
fn core_limit(limits: &str) -> [String; 2] {
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let words: Vec<_> = line.split_whitespace().skip(4).take(2).collect();
    [words[0].to_owned(), words[1].to_owned()]
}

/// The attempts go on in the meantime, on every thread of the data plane.
#[test]
fn a_vault_that_cannot_be_reached_takes_one_line_of_the_log() {
    let dir = folder();
    let injector = Serving::spawn(dir.path(), &[]);
    let line = injector.says("the vault cannot be used");
    for part in [
        " WARN ",
        "; trying again",
        "vault=\"127.0.0.1:9\"",
        "expected=spiffe://test/vault",
        "presented=spiffe://test/injector",
        "Connection refused",
        "check that the vault runs and that --vault is its gRPC address",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    while let Ok(line) = injector.log.recv_timeout(Duration::from_secs(3)) {
        // The first attempt may fail before the service is serving.
        assert!(line.contains("is serving"), "{line}");
    }
}

#[test]
fn sighup_reads_servers_and_the_log_filter_again_and_ends_nothing() {
    let dir = folder();
    let filter = dir.path().join("filter");
    fs::write(&filter, "info\n").unwrap();
    let catalog = dir.path().join("catalog.yaml");
    fs::write(&catalog, include_str!("../../deploy/catalog.yaml")).unwrap();
    let files = [
        "--log-filter-file",
        filter.to_str().unwrap(),
        "--catalog",
        catalog.to_str().unwrap(),
    ];
    let mut injector = Serving::start(dir.path(), &files);
    fs::write(&filter, "info,injector_service=debug\n").unwrap();
    injector.signal(Signal::HUP);
    let line = injector.says("SIGHUP: the log filter was read again");
    assert!(line.contains("injector_service=debug"), "{line}");
    injector.says("SIGHUP: the servers file was read again");
    injector.says("SIGHUP: the catalog was read again");
    fs::write(&filter, "warning").unwrap();
    injector.signal(Signal::HUP);
    let line = injector.says("SIGHUP: the log filter stays as it was");
    assert!(line.contains("\"warning\" is not a level"), "{line}");
    injector.says("SIGHUP: the servers file was read again");
    // The filter is in force.
    fs::write(&filter, "warn").unwrap();
    injector.signal(Signal::HUP);
    injector.signal(Signal::HUP);
    while let Ok(line) = injector.log.recv_timeout(Duration::from_secs(1)) {
        assert!(!line.contains("the servers file was read again"), "{line}");
    }
    assert!(injector.process.try_wait().unwrap().is_none(), "it ended");
}

#[test]
fn a_servers_file_without_servers_causes_a_warning_at_the_start_and_at_each_reload() {
    const NO_SERVERS: &str = "the servers file names no servers";
    let dir = folder();
    let file = dir.path().join("servers.yaml");
    let injector = Serving::spawn(dir.path(), &["--no-admin"]);
    let line = injector.says(NO_SERVERS);
    assert!(line.contains(" WARN "), "{line}");
    let server = "{workspace: dev, name: api, url: 'https://api.example', injections: [{secret: TOKEN}]}";
    fs::write(&file, format!("version: 1\nservers: [{server}]\n")).unwrap();
    injector.signal(Signal::HUP);
    injector.says("added=1");
    fs::write(&file, "version: 1\nservers: []\n").unwrap();
    injector.signal(Signal::HUP);
    injector.says(NO_SERVERS);
}

#[test]
fn a_word_that_is_no_level_of_the_log_is_refused_at_the_start() {
    for args in [&[][..], &["webhook"]] {
        let environment = ["AEROSTACK_INJECTOR_LOG", "AEROSTACK_WEBHOOK_LOG"].map(|name| (name, "warning"));
        let output = injector(args, &environment);
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}");
        assert!(
            said(&output).starts_with("--log: \"warning\" is not a level"),
            "{}",
            said(&output)
        );
    }
}
