//! Every command has examples in its `--help`, and the examples are command lines that are accepted.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use clap::{Command, CommandFactory as _, Parser as _};

use crate::Cli;

/// Calls `visit` for every command, with its words, such as `aerostack workspace list`.
fn walk(command: &Command, words: &str, visit: &mut impl FnMut(&Command, &str)) {
    visit(command, words);
    for subcommand in command.get_subcommands() {
        walk(subcommand, &format!("{words} {}", subcommand.get_name()), visit);
    }
}

/// Returns the examples of a command, each from `aerostack` to the end of the line. Every indented line must be one, so that no
/// example escapes the tests.
fn examples(command: &Command) -> Vec<String> {
    let help = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let lines = help.lines().filter(|line| line.starts_with("  "));
    lines
        .map(|line| match line.find("aerostack ") {
            Some(at) => line.split_at(at).1.to_owned(),
            None => panic!("an example without `aerostack`: {line:?}"),
        })
        .collect()
}

/// Returns the words of the first command in a line of shell.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for scalar in line.chars() {
        match (scalar, quote) {
            (_, Some(open)) if scalar == open => quote = None,
            ('\'' | '"', None) => quote = Some(scalar),
            (' ', None) => words.push(String::new()),
            ('|' | '>' | ')', None) => break,
            _ => words.last_mut().unwrap().push(scalar),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_has_an_example_of_its_own() {
    let mut count = 0;
    walk(&Cli::command(), "aerostack", &mut |command, words| {
        let examples = examples(command);
        let own = |example: &String| example == words || example.starts_with(&format!("{words} "));
        assert!(examples.iter().any(own), "{words}: {examples:?}");
        count += 1;
    });
    assert!(count > 45, "{count}");
}

#[test]
fn every_example_is_accepted_by_the_command_line() {
    walk(&Cli::command(), "aerostack", &mut |command, _| {
        for example in examples(command) {
            if let Err(error) = Cli::try_parse_from(words(&example)) {
                panic!("{example}: {error}");
            }
        }
    });
}

#[test]
fn only_the_help_of_the_whole_command_line_lists_the_flags_of_the_connection() {
    walk(
        &Cli::command_with_short_help(),
        "aerostack",
        &mut |command, words| {
            let help = command.clone().render_long_help().to_string();
            let lists_flags =
                words == "aerostack" || words.starts_with("aerostack context") && !words.contains(" help");
            assert_eq!(
                help.contains("--injector-token-file"),
                lists_flags,
                "{words}: {help}"
            );
            let is_local = words
                .split(' ')
                .nth(1)
                .is_some_and(|name| crate::LOCAL_COMMANDS.contains(&name));
            let is_below = !lists_flags && !is_local && !words.contains(" help");
            assert_eq!(
                help.contains(crate::CONNECTION_FLAGS),
                is_below,
                "{words}: {help}"
            );
        },
    );
    // The flags of the command itself stay.
    let dev = Cli::command_with_short_help().find_subcommand("dev").cloned();
    assert!(
        dev.unwrap()
            .render_long_help()
            .to_string()
            .contains("--dir <DIR>")
    );
    let parsed = Cli::try_parse_from(["aerostack", "workspace", "list", "--injector-token-file", "x"]);
    assert!(parsed.is_ok());
}

#[test]
fn an_example_with_a_flag_that_does_not_exist_is_found() {
    let example = "aerostack workspace list --no-such-flag";
    assert!(Cli::try_parse_from(words(example)).is_err());
    let quoted = words("aerostack call w s --json '{\"a b\": 1}' | jq");
    assert_eq!(quoted.last().unwrap(), "{\"a b\": 1}");
}
