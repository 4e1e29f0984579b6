//! The console of `aerostack dev`.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    browser::Browser,
    support::{run, text},
};

/// A running `aerostack dev` with a console, killed when dropped.
struct DevWithConsole {
    child: Child,
    link: String,
    /// The line after the link, which says that the wanted port was taken.
    note: String,
}

impl DevWithConsole {
    fn start(dir: &Path, console: &str) -> Self {
        Self::start_with(dir, console, &[])
    }

    fn start_with(dir: &Path, console: &str, flags: &[&str]) -> Self {
        let log = std::fs::File::create(dir.with_extension("log")).unwrap();
        let mut child = command(dir)
            .args(["--console-addr", console])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed when the test fails below.
        let mut dev = Self {
            child,
            link: String::new(),
            note: String::new(),
        };
        let mut next = || lines.next().expect("it ended").unwrap();
        while !dev.link.contains("/sign-in?token=") {
            dev.link = next().trim().to_owned();
        }
        if console != "127.0.0.1:0" {
            dev.note = next();
        }
        dev
    }

    fn host(&self) -> String {
        let uri: http::Uri = self.link.parse().unwrap();
        uri.authority().unwrap().to_string()
    }
}

impl Drop for DevWithConsole {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the command `aerostack dev` with free ports for the services.
fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
    command.args(["dev", "--dir"]).arg(dir);
    for listener in ["--vault-addr", "--injector-addr", "--data-plane-addr"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command.stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_prints_a_link_to_a_console_with_the_rights_of_its_administrator() {
    let home = tempfile::tempdir().unwrap();
    let dev = DevWithConsole::start(&home.path().join("dev"), "127.0.0.1:0");
    let mut browser = Browser::signed_in(&dev.link).await;
    let status = browser.get("/status").await;
    assert!(status.has("Everything is in order."), "{}", status.text);
    assert!(
        status.has("spiffe://aerostack.localhost/admin"),
        "{}",
        status.text
    );
    let made = browser.change("/workspaces", &[("name", "w")]).await;
    assert!(made.has("The workspace"), "{}", made.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_whose_port_is_taken_has_another_one() {
    let home = tempfile::tempdir().unwrap();
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = occupied.local_addr().unwrap().to_string();
    let dev = DevWithConsole::start(&home.path().join("dev"), &taken);
    assert_ne!(dev.host(), taken);
    assert!(dev.note.contains("has port"), "{}", dev.note);
    let second = run(crate::browser::command(&home.path().join("dev"), &taken)).await;
    let message = text(&second.stderr);
    assert_eq!(second.status.code(), Some(78), "{message}");
    assert!(message.starts_with("error: cannot listen on"), "{message}");
    assert!(
        message.contains("`--listen 127.0.0.1:0` takes any free port"),
        "{message}"
    );
    let mut browser = Browser::signed_in(&dev.link).await;
    assert_eq!(browser.get("/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_upstream_is_offered_as_a_server_and_keeps_its_port() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dev");
    let mut urls = Vec::new();
    for _ in 0..2 {
        let dev = DevWithConsole::start_with(&dir, "127.0.0.1:0", &["--demo"]);
        let mut browser = Browser::signed_in(&dev.link).await;
        let choice = browser.get("/w/demo/add-server").await;
        assert!(choice.has("The demo upstream"), "{}", choice.text);
        let form = browser.get("/w/demo/add-server/form?demo=yes").await;
        let url = crate::browser::between(&form.text, "value=\"http://127.0.0.1:", "\"");
        urls.push(url.to_owned());
        // The demo has a server `echo` already.
        assert!(form.has("value=\"echo-2\""), "{}", form.text);
        let choice = browser.get("/w/demo/add-server?secret=DEMO_TOKEN").await;
        let path = "/w/demo/add-server/form?secret=DEMO_TOKEN&amp;demo=yes";
        assert!(choice.has(&format!("href=\"{path}\"")), "{}", choice.text);
        let form = browser.get(&path.replace("&amp;", "&")).await;
        assert!(
            form.has("name=\"bearer\" type=\"text\" value=\"DEMO_TOKEN\""),
            "{}",
            form.text
        );
    }
    assert_eq!(urls[0], urls[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_dev_while_browsers_are_connected() {
    /// Less than the time that the console gives a request, and than that of a connection without one.
    const SOON: Duration = Duration::from_secs(3);
    let home = tempfile::tempdir().unwrap();
    let mut dev = DevWithConsole::start(&home.path().join("dev"), "127.0.0.1:0");
    let mut browser = Browser::signed_in(&dev.link).await;
    let idle = TcpStream::connect(dev.host()).await.unwrap();
    assert_eq!(browser.get("/").await.status, StatusCode::OK);
    let asked = Instant::now();
    kill_process(Pid::from_child(&dev.child), Signal::INT).unwrap();
    assert!(dev.child.wait().unwrap().success());
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    drop((browser, idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_dev_while_a_request_is_running() {
    /// The time that the console gives a request, and that of the services.
    const SOON: Duration = Duration::from_secs(10);
    let home = tempfile::tempdir().unwrap();
    let mut dev = DevWithConsole::start(&home.path().join("dev"), "127.0.0.1:0");
    let browser = Browser::signed_in(&dev.link).await;
    // The rest of the form never comes.
    let mut running = TcpStream::connect(dev.host()).await.unwrap();
    let head = format!(
        "POST /workspaces HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\nexpect: 100-continue\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: 9\r\n\r\n",
        dev.host(),
        browser.cookie.as_ref().unwrap(),
    );
    running.write_all(head.as_bytes()).await.unwrap();
    let mut reads_the_form = [0; 12];
    running.read_exact(&mut reads_the_form).await.unwrap();
    assert_eq!(reads_the_form, *b"HTTP/1.1 100");
    let asked = Instant::now();
    kill_process(Pid::from_child(&dev.child), Signal::INT).unwrap();
    assert!(dev.child.wait().unwrap().success());
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_is_printed_without_a_console() {
    for flags in [&["--demo", "--once"][..], &["--no-console"][..]] {
        let home = tempfile::tempdir().unwrap();
        let mut child = command(&home.path().join("dev"))
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        if flags.contains(&"--once") {
            printed.read_to_string(&mut text).unwrap();
        } else {
            while !text.contains("grpcurl") {
                assert_ne!(printed.read_line(&mut text).unwrap(), 0, "it ended: {text}");
            }
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            // The link would come after the next steps.
            printed.read_to_string(&mut text).unwrap();
        }
        assert!(child.wait().unwrap().success(), "{text}");
        assert!(!text.is_empty() && !text.contains("sign-in"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_serves_the_console_on_this_machine_only() {
    let home = tempfile::tempdir().unwrap();
    let mut reachable = command(&home.path().join("dev"));
    reachable.args(["--console-addr", "0.0.0.0:0"]);
    let output = run(reachable).await;
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("--console-addr"),
        "{}",
        text(&output.stderr)
    );
}
