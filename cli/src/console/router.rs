//! The paths of the console.

use axum::{
    Router, middleware,
    routing::{get, post},
};

use super::{
    app::SharedApp,
    assets,
    guard::guard,
    page::{
        activity, backup, backup_download, backup_restore, import, import_preview, import_results,
        key_progress, key_rotation, keys, map, messages, secret, secret_delete, secret_put, secret_restore,
        secrets, servers, sign_in, status, workspace_settings, workspaces,
    },
};

pub(super) fn router(app: SharedApp) -> Router {
    Router::new()
        .route("/", get(workspaces::list))
        .route("/workspaces", post(workspaces::create))
        .route("/workspaces/new", get(workspaces::new))
        .route("/workspaces/open", get(workspaces::open))
        .route("/w/{workspace}/secrets", get(secrets::list).post(secret_put::add))
        .route("/w/{workspace}/secrets/new", get(secret_put::new))
        .route("/w/{workspace}/secrets/lookup", get(secret_put::lookup))
        .route(
            "/w/{workspace}/secrets/import",
            get(import::show).post(import::read),
        )
        .route(
            "/w/{workspace}/secrets/import/preview",
            get(import_preview::show).post(import_preview::confirm),
        )
        .route(
            "/w/{workspace}/secrets/import/discard",
            post(import_preview::discard),
        )
        .route("/w/{workspace}/secrets/import/results", get(import_results::show))
        .route(
            "/w/{workspace}/secrets/import/results/live",
            get(import_results::live),
        )
        .route("/w/{workspace}/secrets/{name}", get(secret::show))
        .route(
            "/w/{workspace}/secrets/{name}/restore",
            get(secret_restore::confirm).post(secret_restore::restore),
        )
        .route(
            "/w/{workspace}/secrets/{name}/replace",
            get(secret_put::replace_form).post(secret_put::replace),
        )
        .route(
            "/w/{workspace}/secrets/{name}/delete",
            get(secret_delete::confirm).post(secret_delete::delete),
        )
        .route("/w/{workspace}/servers", get(servers::list::list))
        .route("/w/{workspace}/add-server", get(servers::catalog::choose))
        .route(
            "/w/{workspace}/add-server/form",
            get(servers::add::new).post(servers::add::add),
        )
        .route(
            "/w/{workspace}/add-server/picture",
            post(servers::picture_part::draw),
        )
        .route("/w/{workspace}/servers/{name}", get(servers::show::show))
        .route(
            "/w/{workspace}/servers/{name}/edit",
            get(servers::edit::form).post(servers::edit::save),
        )
        .route(
            "/w/{workspace}/servers/{name}/delete",
            get(servers::delete::confirm).post(servers::delete::delete),
        )
        .route(
            "/w/{workspace}/servers/{name}/call",
            get(servers::call::form).post(servers::call::call),
        )
        .route("/w/{workspace}/map", get(map::show))
        .route("/w/{workspace}/activity", get(activity::show))
        .route("/w/{workspace}/activity/live", get(activity::live))
        .route(
            "/w/{workspace}/settings",
            get(workspace_settings::show).post(workspace_settings::update),
        )
        .route("/w/{workspace}/delete", post(workspace_settings::delete))
        .route("/keys", get(keys::show))
        .route("/keys/live", get(key_progress::live))
        .route(
            "/keys/root-key/rotate",
            get(key_rotation::confirm_root).post(key_rotation::rotate_root),
        )
        .route(
            "/keys/workspaces/{workspace}/rotate",
            get(key_rotation::confirm_workspace).post(key_rotation::rotate_workspace),
        )
        .route("/backup", get(backup::show))
        .route("/backup/live", get(backup::live))
        .route("/backup/make", post(backup_download::make))
        .route("/backup/restore", post(backup_restore::restore))
        .route("/status", get(status::show))
        .route("/status/live", get(status::live))
        .route("/sign-in", get(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/assets/{name}", get(assets::asset))
        .fallback(messages::not_found)
        .method_not_allowed_fallback(messages::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}
