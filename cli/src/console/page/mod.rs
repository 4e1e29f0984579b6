//! The pages. A handler asks the services, and renders the answer or the failure.

pub(super) mod activity;
mod frame;
pub(super) mod map;
pub(super) mod messages;
mod paths;
mod plan;
pub(super) mod secret;
pub(super) mod secret_delete;
mod secret_form;
pub(super) mod secret_put;
pub(super) mod secrets;
pub(super) mod servers;
pub(super) mod sign_in;
pub(super) mod status;
pub(super) mod workspace_settings;
pub(super) mod workspaces;
