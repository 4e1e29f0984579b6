//! The four levels of keys, drawn from the root key down.

use maud::{Markup, html};
use proto::vault::v1::{GetKeyStatusResponse, KeyState, PendingErasure, RootKey, RootKeyProvider};

use super::key_workspaces::{Hierarchy, number, state, workspaces};
use crate::console::view::{cell, count, icon, moment, now};

const ROOT: &str = "Encrypts the store key. It comes from outside of the store: whoever has it and the files of the vault can \
                    decrypt everything, and without it nobody can.";
const STORE: &str = "Encrypts the keys of all workspaces. It is in the vault's directory, encrypted with the root key. The vault \
                     replaces it by itself, so that deleted data cannot be decrypted any more.";
const WORKSPACE: &str = "Each workspace has its own. It encrypts the keys of the workspace's versions, and is destroyed with the \
                         workspace.";
const VERSION: &str = "Every version of a secret has a key of its own, which encrypts this one value, and is destroyed with it.";

/// Draws the levels with their keys.
pub(super) fn levels(status: &GetKeyStatusResponse, hierarchy: &Hierarchy) -> Markup {
    let secrets = number(hierarchy.secrets);
    let root = html! {
        (root_keys(&status.root_keys))
        (root_rotation(&status.root_keys, status.sealed))
    };
    let versions = html! {
        p.level-count { (count(secrets, "secret")) ", each with a key for every kept version" }
    };
    chain([
        level("Root key", "lock", ROOT, &root),
        level(
            "Store key",
            "store",
            STORE,
            &erasure(status.pending_erasure.as_ref()),
        ),
        level("Workspace keys", "workspace", WORKSPACE, &workspaces(hierarchy)),
        level("Keys of versions", "secret", VERSION, &versions),
    ])
}

/// Draws the levels for a person who may not see the keys.
pub(super) fn levels_without_keys() -> Markup {
    let nothing = html! {};
    chain([
        level("Root key", "lock", ROOT, &nothing),
        level("Store key", "store", STORE, &nothing),
        level("Workspace keys", "workspace", WORKSPACE, &nothing),
        level("Keys of versions", "secret", VERSION, &nothing),
    ])
}

fn chain(levels: [Markup; 4]) -> Markup {
    html! {
        ol.key-chain { @for level in levels { li { (level) } } }
    }
}

fn level(title: &str, symbol: &str, text: &str, content: &Markup) -> Markup {
    html! {
        span.key-mark { (icon(symbol)) }
        section.card {
            h2 { (title) }
            p.quiet { (text) }
            (content)
        }
    }
}

fn root_keys(keys: &[RootKey]) -> Markup {
    html! {
        @if keys.is_empty() { p.level-count { "No root key is loaded." } } @else {
            table {
                thead { tr { th { "Id" } th { "State" } th { "Comes from" } th.number { "Workspaces" } } }
                tbody {
                    @for key in keys {
                        tr {
                            th scope="row" { code.key-id { (key.id) } }
                            (cell("State", &state(key.state())))
                            (cell("Comes from", &provider(key)))
                            td.number data-head="Workspaces" { (key.workspace_count) }
                        }
                    }
                }
            }
        }
    }
}

fn provider(key: &RootKey) -> Markup {
    let from = match key.provider() {
        RootKeyProvider::File => "a key file",
        RootKeyProvider::Passphrase => "a passphrase",
        RootKeyProvider::Kms => "a KMS",
        RootKeyProvider::Unspecified => "",
    };
    html! {
        (from)
        @if !key.kms_key_id.is_empty() { small { "key " (key.kms_key_id) } }
    }
}

/// Offers the rotation of the root key, or says how it is rotated.
fn root_rotation(keys: &[RootKey], is_locked: bool) -> Markup {
    let active = keys.iter().find(|key| key.state() == KeyState::Active);
    let unused = keys
        .iter()
        .filter(|key| key.state() == KeyState::Retired && key.workspace_count == 0)
        .count();
    html! {
        @if unused > 0 {
            p.level-note {
                "A retired root key that 0 workspaces need may be removed from the vault's settings. Keep a copy of it for as \
                 long as you keep backups from before."
            }
        }
        @match active.map(RootKey::provider) {
            Some(RootKeyProvider::Passphrase | RootKeyProvider::Kms) if !is_locked => {
                div.actions { a.button href="/keys/root-key/rotate" { "Rotate root key" } }
            }
            Some(RootKeyProvider::File) => {
                details.level-note {
                    summary { "How a root key from a file is rotated" }
                    p {
                        "Make a file with " code { "vault-service keygen NEW" } ", give it to the vault before the present one, \
                         as " code { "--root-key-file NEW --root-key-file PRESENT" } ", and restart the vault. When 0 \
                         workspaces need the retired key, remove its file from the settings."
                    }
                }
            }
            Some(_) | None => {}
        }
    }
}

fn erasure(pending: Option<&PendingErasure>) -> Markup {
    let (workspaces, oldest) = match pending {
        Some(PendingErasure {
            workspace_count,
            oldest_delete_time,
        }) => (number(*workspace_count), oldest_delete_time.as_ref()),
        None => (0, None),
    };
    html! {
        @if workspaces == 0 {
            p.level-count { span.dot.good {} span { "All deleted data is erased." } }
        } @else {
            p.level-count {
                span.dot.warn {}
                span { "Deleted data of " (count(workspaces, "workspace")) " waits to be erased. The oldest was deleted " (moment(oldest, now())) "." }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(provider: RootKeyProvider) -> RootKey {
        RootKey {
            id: "r1".to_owned(),
            state: KeyState::Active.into(),
            provider: provider.into(),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_root_key_that_the_vault_can_rotate_is_offered_for_rotation() {
        for (provider, is_locked, offered) in [
            (RootKeyProvider::Passphrase, false, true),
            (RootKeyProvider::Kms, false, true),
            (RootKeyProvider::Kms, true, false),
            (RootKeyProvider::File, false, false),
        ] {
            let shown = root_rotation(&[root(provider)], is_locked).into_string();
            assert_eq!(
                shown.contains("/keys/root-key/rotate"),
                offered,
                "{provider:?} {is_locked}"
            );
        }
        let file = root_rotation(&[root(RootKeyProvider::File)], false).into_string();
        assert!(file.contains("vault-service keygen"), "{file}");
    }
}
