//! The pages. A handler asks the services, and renders the answer or the failure.

pub(super) mod backup;
pub(super) mod backup_download;
pub(super) mod backup_restore;
mod frame;
pub(super) mod import;
mod import_form;
pub(super) mod import_preview;
pub(super) mod import_results;
mod key_levels;
pub(super) mod key_progress;
pub(super) mod key_rotation;
mod key_workspaces;
pub(super) mod keys;
pub(super) mod messages;
mod paths;
mod plan;
pub(super) mod secret;
pub(super) mod secret_delete;
mod secret_form;
pub(super) mod secret_put;
pub(super) mod secrets;
pub(super) mod sign_in;
pub(super) mod status;
pub(super) mod workspace_settings;
pub(super) mod workspaces;
