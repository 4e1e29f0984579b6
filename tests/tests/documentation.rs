//! Tests that `docs/configuration.md` lists the settings of both services and of the webhook as `--help` does.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up should say so at once"
)]

use chassis::settings::with_variables;
use clap::{Arg, Args, Command};

const DOCUMENT: &str = include_str!("../../docs/configuration.md");

/// Returns the row of a setting in a table of the document.
fn row(setting: &Arg) -> String {
    let flag = format!("--{}", setting.get_long().unwrap());
    let flag = match setting.get_value_names() {
        Some([value]) if setting.get_action().takes_values() => format!("{flag} {value}"),
        Some(_) | None => flag,
    };
    let variable = setting.get_env().unwrap().to_str().unwrap();
    let default = match setting.get_default_values() {
        [default] if setting.get_action().takes_values() => format!("`{}`", default.to_str().unwrap()),
        _ => String::new(),
    };
    let help = setting
        .get_long_help()
        .or(setting.get_help())
        .unwrap()
        .to_string();
    let paragraphs = help
        .split("\n\n")
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let meaning = paragraphs.collect::<Vec<_>>().join(". ").replace('|', "\\|");
    let values = setting.get_possible_values();
    let meaning = match values.is_empty() || !setting.get_action().takes_values() {
        true => meaning,
        false => {
            let values: Vec<_> = values
                .iter()
                .map(|value| format!("`{}`", value.get_name()))
                .collect();
            format!("{}. One of {}", meaning.trim_end_matches('.'), values.join(", "))
        }
    };
    format!("| `{flag}` | `{variable}` | {default} | {meaning} |").replace("|  |", "| |")
}

/// Fails unless the section of the document has the settings `S`, and no others.
fn check<S: Args>(service: &str, variables: &str) {
    let settings = with_variables(S::augment_args(Command::new("settings")), variables);
    let expected: Vec<_> = settings.get_arguments().map(row).collect();
    let mut sections = DOCUMENT.split("\n## ");
    let section = sections
        .find(|section| section.starts_with(&format!("{service}\n")))
        .unwrap();
    let documented: Vec<_> = section.lines().filter(|line| line.starts_with("| `--")).collect();
    assert!(
        documented == expected,
        "the table below `## {service}` in docs/configuration.md has to be:\n{}",
        expected.join("\n")
    );
}

#[test]
fn the_document_has_every_setting_of_the_vault() {
    check::<vault_service::config::Settings>("vault-service", vault_service::config::ENVIRONMENT);
}

#[test]
fn the_document_has_every_setting_of_the_injector() {
    check::<injector_service::config::Settings>("injector-service", injector_service::config::ENVIRONMENT);
}

#[test]
fn the_document_has_every_setting_of_the_webhook() {
    use injector_service::webhook::{ENVIRONMENT, WebhookSettings};
    check::<WebhookSettings>("injector-service webhook", ENVIRONMENT);
}
