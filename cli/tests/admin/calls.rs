//! `aerostack call`

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    shell::{CommandOutput, TestServices, clean_command},
    upstream,
};

struct Calls {
    services: TestServices,
    go_on: Arc<Notify>,
}

impl Calls {
    /// Starts services with the server `api`, which gets the secret `A`.
    async fn start() -> Self {
        let services = TestServices::with_workspace().await;
        let go_on = Arc::new(Notify::new());
        let url = format!("http://{}", upstream::start(go_on.clone()).await);
        services
            .ok(&["workspace", "secret", "set", "w", "A", "value-of-a"])
            .await;
        services
            .ok(&[
                "workspace",
                "server",
                "add",
                "w",
                "api",
                "--url",
                &url,
                "--secrets",
                "A",
                "--required",
                "A",
            ])
            .await;
        Self { services, go_on }
    }

    async fn call(&self, args: &[&str]) -> CommandOutput {
        self.services
            .aerostack(&[&["call", "w", "api"], args].concat())
            .await
    }

    /// Calls the server, and returns the request as the upstream received it.
    async fn received(&self, args: &[&str]) -> Value {
        let output = self.call(args).await;
        assert_eq!(output.code, 0, "{}", output.err);
        serde_json::from_str(&output.out).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reaches_the_server_with_its_secret() {
    let calls = Calls::start().await;
    for version in [[].as_slice(), &["--http2"]] {
        let args = [&["/v1/users?q=a%20b", "-H", "X-Own: 1"], version].concat();
        let seen = calls.received(&args).await;
        assert_eq!(
            (&seen["method"], &seen["uri"]),
            (&json!("GET"), &json!("/v1/users?q=a%20b"))
        );
        // The answer has a mask in place of the value.
        assert_eq!(seen["headers"]["x-mcp-secret-a"], "**********");
        assert_eq!(seen["headers"]["x-own"], "1");
        assert_eq!(seen["headers"].get("x-aerostack-server"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_sent_as_curl_sends_them() {
    let calls = Calls::start().await;
    fs::write(calls.services.home().join("body"), "line 1\nline 2\n").unwrap();
    const FORM: &str = "application/x-www-form-urlencoded";
    for (args, method, kind, body) in [
        (vec!["-d", "a=1", "-d", "b=2"], "POST", FORM, "a=1&b=2"),
        (vec!["-d", "@body"], "POST", FORM, "line 1line 2"),
        (vec!["--data-binary", "@body"], "POST", FORM, "line 1\nline 2\n"),
        (
            vec!["--json", "{\"a\": 1}"],
            "POST",
            "application/json",
            "{\"a\": 1}",
        ),
        (
            vec!["-X", "PUT", "-d", "x", "-H", "content-type: text/plain"],
            "PUT",
            "text/plain",
            "x",
        ),
    ] {
        let seen = calls.received(&args).await;
        assert_eq!(
            (&seen["method"], &seen["headers"]["content-type"], &seen["body"]),
            (&method.into(), &kind.into(), &body.into()),
            "{args:?}"
        );
    }
    let input = b"from standard input\n";
    let args = ["call", "w", "api", "--data-binary", "@-"];
    let output = calls.services.aerostack_with_input(&args, input).await;
    let seen: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(seen["body"].as_str().unwrap().as_bytes(), input);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_upstream_is_a_failure_only_with_the_flag_fail() {
    let calls = Calls::start().await;
    let answered = calls.call(&["/status/404", "-i"]).await;
    assert_eq!(answered.code, 0, "{}", answered.err);
    assert!(answered.out.starts_with("HTTP/1.1 404"), "{}", answered.out);
    assert!(answered.out.contains("x-upstream: yes\r\n"), "{}", answered.out);
    let failed = calls.call(&["/status/404", "--fail"]).await;
    assert_eq!((failed.code, failed.out.as_str()), (22, ""));
    assert!(failed.err.contains("404"), "{}", failed.err);
    let head = calls.call(&["/status/204", "-I"]).await;
    assert!(head.out.starts_with("HTTP/1.1 204"), "{}", head.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_injector_is_a_failure_with_its_reason() {
    let calls = Calls::start().await;
    let unknown = calls.services.fails(66, &["call", "w", "nosuch"]).await;
    assert!(unknown.contains("SERVER_NOT_FOUND"), "{unknown}");
    calls
        .services
        .ok(&["workspace", "secret", "delete", "w", "A"])
        .await;
    let missing = calls.services.fails(65, &["call", "w", "api"]).await;
    assert!(
        missing.contains("SECRET_REQUIRED_MISSING") && missing.contains("aerostack explain w api"),
        "{missing}"
    );
    calls.services.fails(64, &["call", "w", "api", "/../x"]).await;
    calls.services.fails(64, &["call", "W", "api"]).await;
    calls
        .services
        .fails(69, &["call", "w", "api", "--data-plane", "http://127.0.0.1:1"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_written_to_the_file_that_is_named() {
    let calls = Calls::start().await;
    let output = calls.call(&["/x", "-o", "answer"]).await;
    assert_eq!((output.code, output.out.as_str()), (0, ""));
    let answer = fs::read_to_string(calls.services.home().join("answer")).unwrap();
    assert!(
        answer.contains("\"**********\"") && !answer.contains("value-of-a"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_printed_as_it_arrives() {
    let calls = Calls::start().await;
    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), calls.services.home());
    let mut child = command
        .args(["call", "w", "api", "/stream", "-m", "30"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let go_on = calls.go_on.clone();
    let stdout = child.stdout.take().unwrap();
    let lines = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next().unwrap().unwrap();
        // The upstream waits before it sends the rest.
        go_on.notify_one();
        (first, lines.next().unwrap().unwrap())
    });
    assert_eq!(lines.await.unwrap(), ("first".to_owned(), "second".to_owned()));
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_after_max_time() {
    let calls = Calls::start().await;
    let output = calls.call(&["/stream", "-m", "2"]).await;
    assert_eq!(
        (output.code, output.out.as_str()),
        (69, "first\n"),
        "{}",
        output.err
    );
}
