//! The names that a shell offers, and the manual pages.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::shell::{CommandOutput, TestServices, clean_command, run_command};

/// Asks for the names at the end of a command line, in the directory of the services.
async fn names(home: &Path, words: &[&str]) -> CommandOutput {
    let input = home.join("words");
    let mut file = fs::File::create(&input).unwrap();
    for word in words {
        write!(file, "{word}\0").unwrap();
    }
    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), home);
    command.arg("__complete").stdin(fs::File::open(&input).unwrap());
    run_command(command).await
}

async fn services() -> TestServices {
    let services = TestServices::with_workspace().await;
    services.ok(&["workspace", "create", "web"]).await;
    for name in ["GITHUB_TOKEN", "GITLAB_TOKEN", "JIRA_TOKEN"] {
        let set = ["workspace", "secret", "set", "w", name, "x", "--anywhere"];
        services.ok(&set).await;
    }
    let server = [
        "github",
        "--url",
        "https://a.example",
        "--secrets",
        "GITHUB_TOKEN",
    ];
    let add = ["workspace", "server", "add", "w"];
    services.ok(&[&add[..], &server].concat()).await;
    let off = ["--vault", "127.0.0.1:1", "--injector", "127.0.0.1:1"];
    services
        .ok(&[&["context", "add", "prod"][..], &off].concat())
        .await;
    services
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_the_services_are_offered() {
    let services = services().await;
    for (words, expected) in [
        (&["workspace", "show", ""][..], "w\nweb\n"),
        (&["workspace", "show", "we"], "web\n"),
        (&["explain", "w", ""], "github\n"),
        (
            &["workspace", "secret", "delete", "w", "git"],
            "GITHUB_TOKEN\nGITLAB_TOKEN\n",
        ),
        (
            &[
                "workspace",
                "server",
                "update",
                "w",
                "github",
                "--secrets",
                "JIRA_TOKEN,GITH",
            ],
            "JIRA_TOKEN,GITHUB_TOKEN\n",
        ),
        (&["context", "use", ""], "prod\n"),
    ] {
        let words = [&["--dir", ".aerostack"], words].concat();
        let found = names(services.home(), &words).await;
        assert_eq!((found.code, found.err.as_str()), (0, ""), "{words:?}");
        assert_eq!(found.out, expected, "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_offers_nothing_and_says_nothing() {
    let services = services().await;
    for words in [
        // A vault that cannot be reached, files that do not exist, a context that does not exist, nothing to complete.
        &["--context", "prod", "workspace", "show", ""][..],
        &["--dir", "nosuch", "workspace", "show", ""],
        &["--context", "nosuch", "workspace", "show", ""],
        &["--dir", ".aerostack", "explain", "nosuch", ""],
        &["nosuch", ""],
        &[],
    ] {
        let found = names(services.home(), words).await;
        let printed = (found.code, found.out.as_str(), found.err.as_str());
        assert_eq!(printed, (0, "", ""), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_the_working_directory_is_used_while_its_services_are_on_this_machine() {
    let services = services().await;
    let words = ["workspace", "show", ""];
    assert_eq!(names(services.home(), &words).await.out, "w\nweb\n");
    // The directory may have come with a folder of somebody else.
    let ports = services.home().join(".aerostack/ports.json");
    let local = fs::read_to_string(&ports).unwrap();
    let port = services.address("vault").rsplit_once(':').unwrap().1.to_owned();
    fs::write(
        &ports,
        local.replace(&format!("127.0.0.1:{port}"), &format!("localhost:{port}")),
    )
    .unwrap();
    assert_eq!(names(services.home(), &words).await.out, "");
    assert_eq!(
        names(services.home(), &[&["--dir", ".aerostack"], &words[..]].concat())
            .await
            .out,
        "w\nweb\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_answer_is_given_up_soon() {
    let services = services().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let started = Instant::now();
    let dir = ["--dir", ".aerostack", "--vault", &address];
    let found = names(services.home(), &[&dir[..], &["workspace", "show", ""]].concat()).await;
    assert_eq!((found.out.as_str(), found.err.as_str()), ("", ""));
    let elapsed = started.elapsed();
    // Without the limit of the command, the limit of a connection ends the wait after 2 s.
    assert!(
        elapsed > Duration::from_millis(500) && elapsed < Duration::from_millis(1900),
        "{elapsed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_never_ends_does_not_hold_up_the_shell() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join("dir/pki")).unwrap();
    let pipe = home.path().join("dir/pki/ca.pem");
    mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    let started = Instant::now();
    let found = names(home.path(), &["--dir", "dir", "workspace", "show", ""]).await;
    assert_eq!((found.code, found.out.as_str(), found.err.as_str()), (0, "", ""));
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

/// Splits a line at white space and at `:` and `=`, as Bash splits it for a completion.
fn split_as_bash_does(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for scalar in line.chars() {
        let is_break = |scalar: char| ":=".contains(scalar);
        if scalar == ' ' || (before != ' ' && is_break(before) != is_break(scalar)) {
            words.push(String::new());
        }
        if scalar != ' ' {
            words.last_mut().unwrap().push(scalar);
        }
        before = scalar;
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_offers_names_and_otherwise_commands_and_flags() {
    let services = services().await;
    let dir = services.home().join(".aerostack");
    let offered = async |line: &str| {
        let script = r#"
            source <(aerostack completions bash)
            COMP_LINE=$1
            shift
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            function_name=$(complete -p aerostack | sed 's/.*-F \([^ ]*\).*/\1/')
            "$function_name" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let binary = Path::new(env!("CARGO_BIN_EXE_aerostack"));
        let path = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
        let mut command: Command = clean_command("bash", services.home());
        command
            .args(["-c", script, "bash", line])
            .args(split_as_bash_does(line))
            .env("AEROSTACK_DIR", &dir)
            .env("PATH", path)
            .stdin(Stdio::null());
        let done = run_command(command).await;
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{line}");
        done.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offered("aerostack workspace show w").await, ["w", "web"]);
    let update = "aerostack workspace server update w github";
    for (flags, expected) in [
        ("--required=GITH", &["GITHUB_TOKEN"][..]),
        ("--required=", &["GITHUB_TOKEN", "GITLAB_TOKEN", "JIRA_TOKEN"]),
        (
            "--url https://a.example:1/x --required=JIRA_TOKEN,GITH",
            &["JIRA_TOKEN,GITHUB_TOKEN"],
        ),
    ] {
        assert_eq!(offered(&format!("{update} {flags}")).await, expected, "{flags}");
    }
    let vault = services.address("vault");
    for flag in [format!("--vault {vault}"), format!("--vault={vault}")] {
        let line =
            format!("aerostack {flag} --vault-id spiffe://aerostack.localhost/vault workspace show we");
        assert_eq!(offered(&line).await, ["web"], "{line}");
    }
    // The first word of the line may be any program, which a press of the tab key must not run.
    let trap = services.home().join("aerostack");
    fs::write(&trap, "#!/bin/sh\ntouch ran\n").unwrap();
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(offered("./aerostack workspace show we").await, ["web"]);
    assert!(!services.home().join("ran").exists());
    assert_eq!(offered("aerostack work").await, ["workspace"]);
    assert_eq!(offered("aerostack workspace secret s").await, ["set"]);
    let flags = offered("aerostack workspace secret set --").await;
    assert!(flags.iter().any(|flag| flag == "--only-to"), "{flags:?}");
    // The hidden command is for the scripts alone.
    assert!(offered("aerostack __").await.iter().all(|word| word.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_a_manual_page() {
    let home = tempfile::tempdir().unwrap();
    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), home.path());
    command.args(["man", "share/man1"]).stdin(Stdio::null());
    let made = run_command(command).await;
    assert_eq!(made.code, 0, "{}", made.err);
    let pages = home.path().join("share/man1");
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    let set = page("aerostack-workspace-secret-set.1");
    assert!(set.contains(".TH aerostack-workspace-secret-set 1"), "{set}");
    for part in [
        ".SH NAME",
        ".SH SYNOPSIS",
        ".SH OPTIONS",
        r"\-\-only\-to",
        r"\-\-vault",
    ] {
        assert!(set.contains(part), "{part} is not in {set}");
    }
    assert!(
        set.contains(r"aerostack workspace secret set my\-workspace GITHUB_TOKEN"),
        "{set}"
    );
    let main = page("aerostack.1");
    assert!(main.contains("aerostack\\-workspace(1)"), "{main}");
    let names: Vec<_> = fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.len() > 40, "{names:?}");
    assert!(!names.iter().any(|name| name.contains("__complete")), "{names:?}");

    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), home.path());
    command.arg("man").stdin(Stdio::null());
    assert_eq!(run_command(command).await.out, main);
}
