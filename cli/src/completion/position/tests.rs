#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use clap::CommandFactory as _;

use super::*;
use crate::Cli;

/// Finds the position in a command line whose words are separated by single spaces.
fn find(line: &str) -> Option<Position> {
    let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
    Position::find(&mut Cli::command(), &words)
}

fn subject(line: &str) -> Option<Subject> {
    find(line).map(|position| position.subject)
}

fn candidates(line: &str, names: &[&str]) -> Vec<String> {
    let names = names.iter().map(|name| (*name).to_owned());
    find(line).unwrap().candidates(names.collect())
}

#[test]
fn each_position_has_its_names() {
    let of = |workspace: &str| workspace.to_owned();
    let secrets = Some(Subject::Secrets { workspace: of("w") });
    let servers = Some(Subject::Servers { workspace: of("w") });
    for (line, expected) in [
        ("workspace show ", Some(Subject::Workspaces)),
        ("workspace secret list w", Some(Subject::Workspaces)),
        ("export ", Some(Subject::Workspaces)),
        ("key rotate ", Some(Subject::Workspaces)),
        ("workspace secret set w ", secrets.clone()),
        (
            "workspace secret delete --expected-version 3 w GI",
            secrets.clone(),
        ),
        ("workspace secret versions -o json w ", secrets.clone()),
        ("workspace server add w github --secrets ", secrets.clone()),
        ("workspace server add w github --secrets=A,", secrets.clone()),
        ("workspace server update w github --required ", secrets),
        ("workspace server update w ", servers.clone()),
        ("explain w ", servers.clone()),
        ("call -i w ", servers.clone()),
        ("call --json {} w ", servers.clone()),
        ("--dir d explain w gi", servers.clone()),
        ("explain -- w ", servers),
        ("context use ", Some(Subject::Contexts)),
        ("context show ", Some(Subject::Contexts)),
        ("workspace list --context ", Some(Subject::Contexts)),
        // New names, values, paths and flags are for the user, or for the script of the flags.
        ("workspace create ", None),
        ("workspace server add w ", None),
        ("context add ", None),
        ("workspace secret set w A ", None),
        ("call w s ", None),
        ("workspace list --vault ", None),
        ("workspace show -", None),
        ("workspace ", None),
        ("", None),
    ] {
        assert_eq!(subject(line), expected, "{line}");
    }
}

#[test]
fn every_argument_that_names_something_known_has_its_names() {
    /// Positional arguments that are names of something new.
    const NEW: [(&str, &str); 3] = [
        ("create", "workspace"),
        ("add", "server"),
        ("add", "context_name"),
    ];
    fn walk(command: &Command, line: &str, seen: &mut usize) {
        for subcommand in command.get_subcommands() {
            let line = format!("{line}{} ", subcommand.get_name());
            walk(subcommand, &line, seen);
        }
        let mut line = line.to_owned();
        for positional in command.get_positionals() {
            let id = positional.get_id().as_str();
            let is_name = ["workspace", "server", "context_name"].contains(&id)
                || (id == "name" && line.contains("secret "));
            if is_name && !NEW.contains(&(command.get_name(), id)) {
                assert!(subject(&line).is_some(), "{line}{id}");
                *seen += 1;
            }
            line.push_str("w ");
        }
    }
    let mut seen = 0;
    walk(&Cli::command(), "", &mut seen);
    assert!(seen > 25, "{seen}");
}

#[test]
fn the_connection_is_the_one_of_the_command_line() {
    let line = "--context prod explain --vault a:1 --timeout=3 w ";
    let connect = find(line).unwrap().connect;
    assert_eq!(connect.context.as_deref(), Some("prod"));
    assert_eq!(connect.vault.as_deref(), Some("a:1"));
    assert_eq!(connect.timeout.as_deref(), Some("3"));
}

#[test]
fn the_shell_replaces_the_whole_word() {
    let names = ["GITHUB_TOKEN", "JIRA_TOKEN"];
    for (line, expected) in [
        ("workspace secret set w ", &["GITHUB_TOKEN", "JIRA_TOKEN"][..]),
        ("workspace secret set w github-t", &["GITHUB_TOKEN"]),
        ("workspace secret set w X", &[]),
        (
            "workspace server add w s --secrets JIRA_TOKEN,G",
            &["JIRA_TOKEN,GITHUB_TOKEN"],
        ),
        ("workspace server add w s --secrets=J", &["--secrets=JIRA_TOKEN"]),
        (
            "workspace server add w s --secrets=",
            &["--secrets=GITHUB_TOKEN", "--secrets=JIRA_TOKEN"],
        ),
    ] {
        assert_eq!(candidates(line, &names), expected, "{line}");
    }
}
