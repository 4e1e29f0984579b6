//! The binary as an operator meets it: exit codes, and what it says.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Command, Output},
    thread,
};

/// `EX_USAGE` of sysexits.h.
const USAGE: i32 = 64;

fn injector(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_injector-service"));
    command.env_clear().envs(environment.iter().copied());
    command.args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Probes that give each caller this answer.
fn probes(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
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
        ("AEROSTACK_INJECTOR_LISTEN", "0.0.0.0:50052"),
    ];
    let output = injector(&["healthcheck"], &environment);
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
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
        &["healthcheck", "--metrics-listen", "nowhere"],
        &["--listen", "127.0.0.1:0", "healthcheck"],
    ];
    for args in wrong {
        let output = injector(args, &[]);
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}
