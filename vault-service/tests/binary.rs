//! The binary as an operator meets it: exit codes, and what it says.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::CommandFactory as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, getrlimit, kill_process, prlimit};
use tempfile::TempDir;
use vault_service::config::{Cli, ENVIRONMENT};

/// `EX_USAGE` of sysexits.h.
const USAGE: i32 = 64;

fn vault() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vault-service"));
    command.env_clear();
    command
}

fn run(args: &[&str]) -> Output {
    vault().args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn keygen(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("root.key");
    let made = vault().arg("keygen").arg(&path).output().unwrap();
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    path
}

#[test]
fn keygen_writes_a_key_of_mode_0600_and_replaces_no_file() {
    let dir = TempDir::new().unwrap();
    let path = keygen(&dir);
    let key = fs::read_to_string(&path).unwrap();
    assert_eq!((key.len(), mode(&path)), (45, 0o600));
    assert!(vault_service::crypto::root_key_file::read(&path).is_ok());

    let again = vault().arg("keygen").arg(&path).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("exists"), "{}", said(&again));
    assert_eq!(fs::read_to_string(&path).unwrap(), key);
    for output in [&again.stdout, &again.stderr] {
        assert!(
            !String::from_utf8_lossy(output).contains(key.trim()),
            "the key itself is printed"
        );
    }
    let other = vault()
        .arg("keygen")
        .arg(dir.path().join("other.key"))
        .output()
        .unwrap();
    assert!(other.status.success());
    assert_ne!(fs::read_to_string(dir.path().join("other.key")).unwrap(), key);
}

#[test]
fn missing_settings_are_all_reported_at_once() {
    let output = run(&["--listen", "nowhere", "--shutdown-grace", "soon"]);
    assert_eq!(output.status.code(), Some(USAGE));
    let report = said(&output);
    for part in [
        "--listen: ",
        "--data-dir: is required",
        "--root-key-file: is required",
        "--tls-cert: is required",
        "--tls-key: is required",
        "--client-ca: is required",
        "--shutdown-grace: ",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
}

#[test]
fn an_unknown_argument_is_a_usage_error() {
    let wrong = [
        &["--no-such-flag"][..],
        &["--listen"],
        &["no-such-command"],
        &["keygen"],
        &["keygen", "a", "b"],
        &["--log-format", "xml"],
        &["--log", "=/="],
    ];
    for args in wrong {
        let output = run(args);
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_go_to_standard_output_and_help_names_every_environment_variable() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for variable in [
        "LISTEN",
        "METRICS_LISTEN",
        "DATA_DIR",
        "CACHE_MIB",
        "ROOT_KEY_FILE",
        "TLS_CERT",
        "TLS_KEY",
        "CLIENT_CA",
        "ADMIN",
        "EDITOR",
        "VIEWER",
        "INJECTOR",
        "NO_REFLECTION",
        "SHUTDOWN_GRACE",
        "LOG",
        "LOG_FORMAT",
    ] {
        assert!(
            text.contains(&format!("[env: AEROSTACK_VAULT_{variable}=")),
            "{variable} in {text}"
        );
    }
    let command = chassis::settings::with_variables(Cli::command(), ENVIRONMENT);
    let settings = command
        .get_arguments()
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()));
    for setting in settings {
        let variable = setting
            .get_env()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let flag = setting.get_long().unwrap_or_default();
        assert_eq!(
            variable,
            format!("AEROSTACK_VAULT_{}", flag.to_uppercase().replace('-', "_"))
        );
    }
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("vault-service {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn environment_variables_are_settings_and_those_of_kubernetes_services_are_ignored() {
    let plain = run(&[]);
    // Kubernetes sets these in every pod for a Service named aerostack-vault.
    let kubernetes = vault()
        .env("AEROSTACK_VAULT_PORT", "tcp://10.0.0.1:7150")
        .env("AEROSTACK_VAULT_SERVICE_HOST", "10.0.0.1")
        .env("AEROSTACK_VAULT_PORT_7150_TCP_PROTO", "tcp")
        .output()
        .unwrap();
    assert_eq!(
        (kubernetes.status.code(), said(&kubernetes)),
        (Some(USAGE), said(&plain))
    );
    // An empty variable counts as not set.
    let empty = vault()
        .env("AEROSTACK_VAULT_LISTEN", "")
        .env("AEROSTACK_VAULT_ERASE_AFTER", "")
        .env("AEROSTACK_VAULT_NO_REFLECTION", "")
        .env("AEROSTACK_VAULT_LOG_FORMAT", "")
        .output()
        .unwrap();
    assert_eq!((empty.status.code(), said(&empty)), (Some(USAGE), said(&plain)));
    // A misspelt variable causes a warning.
    let misspelt = vault().env("AEROSTACK_VAULT_TLSCERT", "x").output().unwrap();
    let log = String::from_utf8_lossy(&misspelt.stdout).into_owned() + &said(&misspelt);
    assert!(log.contains("AEROSTACK_VAULT_TLSCERT"), "{log}");
    let set = vault().env("AEROSTACK_VAULT_LISTEN", "nowhere").output().unwrap();
    assert!(
        said(&set).contains("--listen: ") && !said(&plain).contains("--listen: "),
        "{}",
        said(&set)
    );
}

#[test]
fn a_root_key_that_others_may_read_or_change_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let path = keygen(&dir);
    let key = fs::read_to_string(&path).unwrap();
    let report = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let output = vault().arg("--root-key-file").arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE));
        let report = said(&output);
        assert!(!report.contains(key.trim()), "the key itself is printed");
        report
            .lines()
            .find(|line| line.contains("--root-key-file"))
            .unwrap_or_default()
            .to_owned()
    };
    for mode in [0o644, 0o604, 0o620, 0o602, 0o666] {
        let line = report(mode);
        assert!(
            line.contains(&format!("{mode:04o}")) && line.contains("chmod 600"),
            "{mode:o}: {line}"
        );
    }
    for mode in [0o600, 0o400, 0o440, 0o640] {
        assert_eq!(report(mode), "", "{mode:o}");
    }
}

/// Files with a CA and a certificate for the vault.
fn certificates(dir: &TempDir) -> [PathBuf; 3] {
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI("spiffe://test/vault".try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let pem = leaf
        .signed_by(&key, &Issuer::from_params(&ca, &ca_key))
        .unwrap()
        .pem();
    [
        file("ca.pem", ca_pem),
        file("vault.pem", pem),
        file("vault-key.pem", key.serialize_pem()),
    ]
}

fn serving(dir: &TempDir, root_key: &Path) -> Command {
    serving_probes_on("127.0.0.1:0", dir, root_key)
}

fn serving_probes_on(probes: &str, dir: &TempDir, root_key: &Path) -> Command {
    let [ca, cert, key] = certificates(dir);
    let mut command = vault();
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            probes,
            "--cache-mib",
            "8",
        ])
        .args([
            "--admin",
            "spiffe://test/admin",
            "--injector",
            "spiffe://test/injector=*",
        ])
        .arg("--data-dir")
        .arg(dir.path().join("vault"))
        .arg("--root-key-file")
        .arg(root_key)
        .arg("--client-ca")
        .arg(ca)
        .arg("--tls-cert")
        .arg(cert)
        .arg("--tls-key")
        .arg(key)
        .env("AEROSTACK_VAULT_PORT", "tcp://10.0.0.1:7150")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Reads the log up to the line with the address at which the vault serves.
fn address(log: &mut impl std::io::BufRead) -> String {
    let mut all = String::new();
    for line in log.lines() {
        let line = line.unwrap();
        all.push_str(&line);
        // Escape sequences for colours are between the name and the value.
        let Some((_, rest)) = line.split_once("serving") else {
            continue;
        };
        let from = rest
            .find("127.0.0.1:")
            .unwrap_or_else(|| panic!("no address in {line}"));
        return rest[from..]
            .split(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ':'))
            .next()
            .unwrap_or_default()
            .to_owned();
    }
    panic!("it did not serve: {all}");
}

/// A running vault, which is killed on drop.
struct Serving {
    child: Child,
    log: BufReader<ChildStderr>,
    address: String,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = address(&mut log);
        Self { child, log, address }
    }

    fn answers(&self) -> bool {
        TcpStream::connect(&self.address).is_ok()
    }

    /// Sends SIGTERM. Returns the exit code and the rest of the log.
    fn terminate(mut self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn healthcheck_succeeds_while_the_vault_is_ready() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let everywhere = format!("0.0.0.0:{}", free.local_addr().unwrap().port());
    drop(free);
    let dir = TempDir::new().unwrap();
    // In a container, the vault and the check have the same environment.
    let check = || {
        let output = vault()
            .arg("healthcheck")
            .env("AEROSTACK_VAULT_METRICS_LISTEN", &everywhere)
            .env("AEROSTACK_VAULT_DATA_DIR", dir.path())
            .output()
            .unwrap();
        (output.status.code(), said(&output).lines().count())
    };
    assert_eq!(check(), (Some(1), 1));
    let root_key = keygen(&dir);
    let vault = Serving::start(serving_probes_on(&everywhere, &dir, &root_key));
    assert_eq!(check(), (Some(0), 0));
    let live = run(&["healthcheck", "--live", "--metrics-listen", &everywhere]);
    assert_eq!(
        (live.status.code(), live.stdout.as_slice()),
        (Some(0), &b"live\n"[..])
    );
    assert_eq!(vault.terminate().0, Some(0));
    assert_eq!(check(), (Some(1), 1));

    let wrong = run(&["healthcheck", "--metrics-listen", "nowhere"]);
    assert_eq!(wrong.status.code(), Some(USAGE), "{}", said(&wrong));
}

#[test]
fn a_probe_is_answered_while_idle_connections_use_all_descriptors() {
    const MOST: u64 = 64;
    const CONNECTIONS: usize = 100;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let probes = free.local_addr().unwrap().to_string();
    drop(free);
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    let vault = Serving::start(serving_probes_on(&probes, &dir, &root_key));
    let ready = || {
        let mut probe = TcpStream::connect(&probes).unwrap();
        probe.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let asked = probe.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut answer = [0; 15];
        asked.and_then(|()| probe.read_exact(&mut answer)).is_ok() && &answer == b"HTTP/1.1 200 OK"
    };
    let limit = Rlimit {
        current: Some(MOST),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    prlimit(Some(Pid::from_child(&vault.child)), Resource::Nofile, limit).unwrap();
    assert!(ready());
    for listener in [&vault.address, &probes] {
        let idle: Vec<_> = (0..CONNECTIONS)
            .map(|_| TcpStream::connect(listener).unwrap())
            .collect();
        eventually("it answers although they stay", ready);
        drop(idle);
        eventually("it answers", ready);
    }
    assert_eq!(vault.terminate().0, Some(0));
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let started = Instant::now();
    while !check() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "never happened: {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// The default soft limit of 1,024 is for programs that use `select`.
#[test]
fn the_vault_raises_its_limit_of_descriptors_and_uses_no_huge_pages() {
    let dir = TempDir::new().unwrap();
    let plain = serving(&dir, &keygen(&dir));
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"ulimit -Sn 200 && exec "$0" "$@""#])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .stderr(Stdio::piped());
    let vault = Serving::start(command);
    let about = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", vault.child.id())).unwrap();
    let limits = about("limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let files: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(files[0], files[1], "{limits}");
    assert!(about("status").contains("\nTHP_enabled:\t0\n"));
    assert_eq!(vault.terminate().0, Some(0));
}

#[test]
fn it_serves_until_sigterm_and_exits_with_0() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    for _ in 0..2 {
        let vault = Serving::start(serving(&dir, &root_key));
        assert!(vault.answers());
        let (code, rest) = vault.terminate();
        assert_eq!(code, Some(0), "{rest}");
    }
    assert_eq!(mode(&dir.path().join("vault")), 0o700);
}

#[test]
fn no_core_is_dumped_unless_debugging_is_allowed() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    let core_limit = |more: &[&str]| {
        let vault = Serving::start({
            let mut command = serving(&dir, &root_key);
            command.args(more);
            command
        });
        let limits = fs::read_to_string(format!("/proc/{}/limits", vault.child.id())).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let limit: Vec<String> = line
            .split_whitespace()
            .skip(4)
            .take(2)
            .map(str::to_owned)
            .collect();
        vault.terminate();
        limit
    };
    let ours = fs::read_to_string("/proc/self/limits").unwrap();
    let ours = ours
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let ours: Vec<String> = ours
        .split_whitespace()
        .skip(4)
        .take(2)
        .map(str::to_owned)
        .collect();
    assert_eq!(core_limit(&[]), ["0", "0"]);
    assert_eq!(core_limit(&["--allow-debugging"]), ours);
}

/// Returns a user who is not root: the user of the test, or `nobody`.
fn user() -> u32 {
    match geteuid().as_raw() {
        0 => 65_534,
        user => user,
    }
}

/// Makes [`user`] the owner of a directory and its content.
fn give(path: &Path) {
    chown(path, Some(user()), None).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

#[test]
fn only_root_can_read_the_vaults_memory_unless_debugging_is_allowed() {
    let dir = TempDir::new().unwrap();
    // Every user can reach this directory.
    let binary = dir.path().join("vault-service");
    fs::copy(env!("CARGO_BIN_EXE_vault-service"), &binary).unwrap();
    let root_key = keygen(&dir);
    let owner = |more: &[&str]| {
        let serving = serving(&dir, &root_key);
        give(dir.path());
        let mut command = Command::new(&binary);
        command
            .env_clear()
            .args(serving.get_args())
            .args(more)
            .uid(user())
            .stderr(Stdio::piped());
        let vault = Serving::start(command);
        let memory = fs::metadata(format!("/proc/{}/mem", vault.child.id())).unwrap();
        assert_eq!(vault.terminate().0, Some(0));
        memory.uid()
    };
    assert_eq!(owner(&[]), 0);
    assert_eq!(owner(&["--allow-debugging"]), user());
}

#[test]
fn a_second_vault_on_the_same_store_exits_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    let first = Serving::start(serving(&dir, &root_key));
    let second = serving(&dir, &root_key).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        said(&second).contains("already open in another process"),
        "{}",
        said(&second)
    );
    assert!(first.answers());
    assert_eq!(first.terminate().0, Some(0));
}

#[test]
fn a_store_of_another_root_key_is_refused_with_the_id_of_that_key() {
    let dir = TempDir::new().unwrap();
    Serving::start(serving(&dir, &keygen(&dir))).terminate();
    let other = TempDir::new().unwrap();
    let refused = serving(&dir, &keygen(&other)).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("this store needs the root key"),
        "{}",
        said(&refused)
    );
}

/// Returns the command `verify` for the store of [`serving`].
fn verify(dir: &TempDir, root_key: &Path) -> Command {
    let mut verify = offline("verify", dir, root_key);
    verify.arg("--scratch").arg(dir.path());
    verify
}

/// Returns the command `repair` for the store of [`serving`], into the directory `new`.
fn repair(dir: &TempDir, root_key: &Path) -> Command {
    let mut repair = offline("repair", dir, root_key);
    repair.arg("--to").arg(dir.path().join("new"));
    repair
}

fn offline(command: &str, dir: &TempDir, root_key: &Path) -> Command {
    let mut offline = vault();
    offline
        .arg(command)
        .arg("--data-dir")
        .arg(dir.path().join("vault"))
        .arg("--root-key-file")
        .arg(root_key);
    offline
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns the contents of the store's files.
fn files(dir: &TempDir) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let entries = fs::read_dir(dir.path().join("vault")).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).ok()))
        .collect();
    files.sort();
    files
}

type Damage = fn(&Path);

#[test]
fn a_damaged_store_is_refused_without_a_panic_and_unchanged() {
    let damages: [(&str, Damage); 5] = [
        ("db is empty", |dir| fs::write(dir.join("db"), "").unwrap()),
        ("db is cut short", |dir| {
            let db = fs::File::options().write(true).open(dir.join("db")).unwrap();
            db.set_len(db.metadata().unwrap().len() / 100).unwrap();
        }),
        ("db is overwritten", |dir| {
            let mut bytes = fs::read(dir.join("db")).unwrap();
            let end = bytes.len().min(400);
            bytes[20..end].fill(0xA5);
            fs::write(dir.join("db"), bytes).unwrap();
        }),
        ("conf is empty", |dir| fs::write(dir.join("conf"), "").unwrap()),
        ("marker is gone", |dir| {
            fs::remove_file(dir.join("marker")).unwrap()
        }),
    ];
    for (what, damage) in damages {
        let dir = TempDir::new().unwrap();
        let root_key = keygen(&dir);
        Serving::start(serving(&dir, &root_key)).terminate();
        damage(&dir.path().join("vault"));
        let before = files(&dir);
        let refused = serving(&dir, &root_key).output().unwrap();
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert!(
            said.contains("vault-service restore") && said.contains("vault-service repair"),
            "{what}: {said}"
        );
        assert!(files(&dir) == before, "{what}: it was changed");
    }
}

#[test]
fn a_damaged_key_file_is_reported_as_damaged() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    Serving::start(serving(&dir, &root_key)).terminate();
    fs::write(dir.path().join("vault/keys"), "aerostack keys 1\n").unwrap();
    let before = files(&dir);
    let refused = serving(&dir, &root_key).output().unwrap();
    let said = said(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let expected = "the store's keys could not be read: the store's file `keys` is damaged: restore a backup";
    assert!(said.contains(expected), "{said}");
    assert!(files(&dir) == before, "it was changed");
}

#[test]
fn verify_and_repair_report_damage_and_leave_the_store_unchanged() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    Serving::start(serving(&dir, &root_key)).terminate();
    let before = files(&dir);
    // The next `verify` removes the copy of a killed one.
    let at = fs::metadata(dir.path().join("vault")).unwrap();
    let copy = format!("aerostack-check-{:x}-{:x}", at.dev(), at.ino());
    fs::create_dir(dir.path().join(&copy)).unwrap();
    fs::write(dir.path().join(&copy).join("db"), "a part").unwrap();
    let sound = verify(&dir, &root_key).output().unwrap();
    assert_eq!(
        (sound.status.code(), printed(&sound).as_str()),
        (
            Some(0),
            "0 workspaces, 0 secrets and 0 older versions sound; 0 damaged: 0 lost, 0 older than acknowledged, 0 in doubt; \
             0 parts of the store unreadable\n"
        ),
        "{}",
        said(&sound)
    );
    assert!(files(&dir) == before, "verify changed the store");
    assert!(!dir.path().join(&copy).exists(), "the copy stayed");

    fs::remove_file(dir.path().join("vault/marker")).unwrap();
    let before = files(&dir);
    let damaged = verify(&dir, &root_key).output().unwrap();
    assert_eq!(damaged.status.code(), Some(2));
    assert!(
        printed(&damaged).contains("the vault would not start: the file `marker`"),
        "{damaged:?}"
    );

    let new = dir.path().join("new");
    let mut repair = repair(&dir, &root_key);
    let repaired = repair.output().unwrap();
    // The repaired store has everything.
    assert_eq!(repaired.status.code(), Some(0), "{}", said(&repaired));
    assert!(
        printed(&repaired).contains("0 secrets and 0 older versions salvaged"),
        "{}",
        printed(&repaired)
    );
    assert!(files(&dir) == before, "repair changed the store");
    let again = repair.output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("is not empty"), "{}", said(&again));

    fs::remove_dir_all(dir.path().join("vault")).unwrap();
    fs::rename(&new, dir.path().join("vault")).unwrap();
    assert_eq!(Serving::start(serving(&dir, &root_key)).terminate().0, Some(0));
}

#[test]
fn a_store_in_use_is_neither_verified_nor_repaired() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    let vault = Serving::start(serving(&dir, &root_key));
    for mut command in [verify(&dir, &root_key), repair(&dir, &root_key)] {
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            said(&refused).contains("already open in another process"),
            "{}",
            said(&refused)
        );
    }
    assert_eq!(vault.terminate().0, Some(0));
}

#[test]
fn a_store_is_compacted_while_no_vault_has_it_open_and_is_served_afterwards() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    let compact = || {
        let mut compact = vault();
        compact
            .arg("compact")
            .arg("--data-dir")
            .arg(dir.path().join("vault"));
        compact.output().unwrap()
    };
    let none = compact();
    assert_eq!(none.status.code(), Some(1));
    assert!(said(&none).contains("there is no store in"), "{}", said(&none));
    let serving_one = Serving::start(serving(&dir, &root_key));
    let open = compact();
    assert_eq!(open.status.code(), Some(1));
    assert!(
        said(&open).contains("already open in another process"),
        "{}",
        said(&open)
    );
    serving_one.terminate();
    let compacted = compact();
    assert_eq!(compacted.status.code(), Some(0), "{}", said(&compacted));
    assert!(said(&compacted).contains("entries; "), "{}", said(&compacted));
    assert_eq!(Serving::start(serving(&dir, &root_key)).terminate().0, Some(0));
}

/// Kills the vault at different moments of its first start. Each store then opens with its root key and no other.
#[test]
fn a_store_whose_first_start_was_killed_can_be_started() {
    let (mut served, mut cut_off) = (0, 0);
    for round in 0..25u64 {
        let dir = TempDir::new().unwrap();
        let root_key = keygen(&dir);
        let mut child = serving(&dir, &root_key).spawn().unwrap();
        thread::sleep(Duration::from_millis(round * 4));
        child.kill().unwrap();
        child.wait().unwrap();
        let marker = fs::read_to_string(dir.path().join("vault/marker"));
        let made = marker.as_ref().is_ok_and(|marker| !marker.contains("\nmaking\n"));
        *(if made { &mut served } else { &mut cut_off }) += 1;
        // An initialised store is refused with another key.
        let vault = Serving::start(serving(&dir, &root_key));
        assert_eq!(vault.terminate().0, Some(0), "round {round}: {marker:?}");
        let other = TempDir::new().unwrap();
        let refused = serving(&dir, &keygen(&other)).output().unwrap();
        assert!(
            said(&refused).contains("this store needs the root key"),
            "{}",
            said(&refused)
        );
    }
    assert!(
        cut_off > 0 && served > 0,
        "all were killed at the same moment: {served} and {cut_off}"
    );
}

/// Limits the size of files, so that writes fail as on a full disk.
#[test]
fn a_store_that_cannot_be_created_for_lack_of_room_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let root_key = keygen(&dir);
    let plain = serving(&dir, &root_key);
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"trap '' XFSZ; ulimit -f 0 && exec "$0" "$@""#])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("File too large"), "{}", said(&refused));
    // The vault starts once there is room.
    assert_eq!(Serving::start(serving(&dir, &root_key)).terminate().0, Some(0));
}
