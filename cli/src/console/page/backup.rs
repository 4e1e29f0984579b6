//! `/backup`: what a backup is, the last ones of this session, and the form for a restore.

use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use proto::vault::v1::GetKeyStatusResponse;

use super::{
    frame::{failure_page, render_form},
    keys::locked,
};
use crate::{
    console::{
        guard::PageRequest,
        session_memory::{BackupState, MadeBackup},
        view::{
            FormError, Section, count, error_summary, field, grouped, has_error, hidden, icon, invalid,
            prose, sentence,
        },
    },
    failure::Failure,
};

pub(in crate::console) async fn show(visit: PageRequest) -> Response {
    page(&visit, None).await
}

/// Answers with the states of the last backups alone.
pub(in crate::console) async fn live(visit: PageRequest) -> Response {
    last_backups(&visit.session.memory.backups()).into_response()
}

/// Renders the page, after an error of a backup or a restore with its text.
pub(super) async fn page(visit: &PageRequest, error: Option<FormError>) -> Response {
    let services = &visit.app.services;
    // Whoever may see the keys may make and restore backups.
    let (status, workspaces) = tokio::join!(services.key_status(), services.workspaces());
    let body = match (status, workspaces) {
        (Err(failure), _) if failure.lacks_role() => {
            let error = not_allowed(failure);
            let body = html! { (head()) (error_summary(Some(&error), &[])) (contents()) };
            return render_form(visit, "Backup", Section::Backup, Some(&error), &body);
        }
        (Err(failure), _) | (_, Err(failure)) => return failure_page(visit, Section::Backup, failure),
        (Ok(status), Ok(workspaces)) => html! {
            (head())
            (error_summary(error.as_ref(), shown_fields(workspaces.len(), status.sealed)))
            @if status.sealed { (locked()) }
            (new_backup(visit, &status))
            (restore(visit, workspaces.len(), status.sealed, error.as_ref()))
        },
    };
    render_form(visit, "Backup", Section::Backup, error.as_ref(), &body)
}

/// Returns the fields of the form for a restore, which only an empty vault that is not locked has.
fn shown_fields(workspaces: usize, is_locked: bool) -> &'static [&'static str] {
    match workspaces == 0 && !is_locked {
        true => &["file"],
        false => &[],
    }
}

fn not_allowed(failure: Failure) -> FormError {
    FormError::from(failure).hint(
        "only administrators of all workspaces make and restore backups; the operator of the vault names them with its setting \
         --admin",
    )
}

fn head() -> Markup {
    html! {
        div.heading {
            div {
                h1 { "Backup" }
                p.quiet { "A copy of the whole vault as it is at one moment, made while the vault serves." }
            }
        }
    }
}

fn contents() -> Markup {
    html! {
        ul.points {
            li {
                strong { "In it: " }
                "all workspaces, their secrets with the kept versions, and their keys. Values stay encrypted as they are in the \
                 vault, and the whole is encrypted once more. The servers of the injector are not in it."
            }
            li {
                strong { "To restore it, you need the vault's root key. " }
                "The backup is useless without that key: keep a copy of the key in another place. Whoever has both can read \
                 every value."
            }
        }
    }
}

fn new_backup(visit: &PageRequest, status: &GetKeyStatusResponse) -> Markup {
    html! {
        section.card aria-labelledby="new-backup" {
            h2 #new-backup { "Make a backup" }
            (contents())
            @if !status.sealed {
                form method="post" action="/backup/make" {
                    (hidden(visit.session.csrf.reveal()))
                    div.actions { button.button.primary type="submit" { (icon("download")) "Make and download" } }
                }
            }
            div #last-backups data-live="/backup/live" data-interval="1000" { (last_backups(&visit.session.memory.backups())) }
            details.level-note {
                summary { "How to tell that the file is whole" }
                p {
                    "When a backup cannot be finished, the connection breaks, and the browser reports that the download failed: \
                     throw such a file away. After a whole one, this page shows its size and its SHA-256: "
                    code { "sha256sum FILE" } " must print the same. A restore reads and authenticates every byte before it \
                     writes anything, and refuses a file that was cut off or changed. So try one in an empty vault with the same \
                     root key from time to time."
                }
            }
        }
    }
}

/// Describes the last backups of the session. Each is one element, because scripts replace the elements that have changed.
fn last_backups(backups: &[MadeBackup]) -> Markup {
    html! { @for backup in backups { div { (last_backup(backup)) } } }
}

fn last_backup(backup: &MadeBackup) -> Markup {
    let MadeBackup {
        number: _,
        file_name,
        state,
    } = backup;
    let size = |bytes: u64| format!("{} bytes", grouped(usize::try_from(bytes).unwrap_or(usize::MAX)));
    html! {
        @match state {
            BackupState::Running { bytes } => {
                p.made-backup { span.dot.warn {} span.mono { (file_name) } " is being made: " span.number { (size(*bytes)) } " so far" }
            }
            BackupState::Complete { bytes, sha256 } => {
                p.made-backup role="status" { span.dot.good {} span.mono { (file_name) } " was sent completely: " span.number { (size(*bytes)) } }
                p.made-backup { "SHA-256 " code.key-id { (sha256) } }
                p.made-backup.quiet { "Compare the size and the SHA-256 of your file with these: only then is the file whole." }
            }
            BackupState::Failed { why } => {
                p.made-backup role="status" {
                    span.dot.bad {} span.mono { (file_name) } " is not whole, throw it away. " (prose(&sentence(why)))
                }
            }
        }
    }
}

fn restore(visit: &PageRequest, workspaces: usize, is_locked: bool, error: Option<&FormError>) -> Markup {
    html! {
        section.card aria-labelledby="restore" {
            h2 #restore { "Restore a backup" }
            @if workspaces > 0 {
                p {
                    "A backup is restored into an empty vault only, and this one has " (count(workspaces, "workspace")) "."
                }
                p.quiet {
                    "Start a new vault with the root key that the backup needs, and open its console; or delete the workspaces \
                     of this one first."
                }
            } @else if !is_locked {
                p.quiet {
                    "This vault has no workspaces. It must have the root key that the backup was made with. A restore that is \
                     refused changes nothing; while it runs, all other changes wait."
                }
                (restore_form(visit.session.csrf.reveal(), error))
            }
        }
    }
}

/// The field with the token is the first one, so that it arrives before the file.
fn restore_form(csrf: &str, error: Option<&FormError>) -> Markup {
    let help = html! { "The file is sent to the vault while it is read, whatever its size." };
    let control = html! {
        input #file name="file" type="file" required aria-describedby="file-help" aria-invalid=[invalid("file", error)] autofocus[has_error("file", error)];
    };
    html! {
        form.stack method="post" action="/backup/restore" enctype="multipart/form-data" {
            (hidden(csrf))
            (field("file", "Backup file", &help, error, &control))
            div.actions { button.button.primary type="submit" { "Restore" } }
        }
    }
}
