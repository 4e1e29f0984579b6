//! The paths of the console.

use axum::{
    Router, middleware,
    routing::{MethodRouter, get, post},
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
    let routes = routes().into_iter();
    routes
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        })
        .fallback(messages::not_found)
        .method_not_allowed_fallback(messages::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

fn routes() -> Vec<(&'static str, MethodRouter<SharedApp>)> {
    vec![
        ("/", get(workspaces::list)),
        ("/workspaces", post(workspaces::create)),
        ("/workspaces/new", get(workspaces::new)),
        ("/workspaces/open", get(workspaces::open)),
        ("/w/{workspace}/secrets", get(secrets::list).post(secret_put::add)),
        ("/w/{workspace}/secrets/new", get(secret_put::new)),
        ("/w/{workspace}/secrets/lookup", get(secret_put::lookup)),
        (
            "/w/{workspace}/secrets/import",
            get(import::show).post(import::read),
        ),
        (
            "/w/{workspace}/secrets/import/preview",
            get(import_preview::show).post(import_preview::confirm),
        ),
        (
            "/w/{workspace}/secrets/import/discard",
            post(import_preview::discard),
        ),
        ("/w/{workspace}/secrets/import/results", get(import_results::show)),
        (
            "/w/{workspace}/secrets/import/results/live",
            get(import_results::live),
        ),
        ("/w/{workspace}/secrets/{name}", get(secret::show)),
        (
            "/w/{workspace}/secrets/{name}/restore",
            get(secret_restore::confirm).post(secret_restore::restore),
        ),
        (
            "/w/{workspace}/secrets/{name}/replace",
            get(secret_put::replace_form).post(secret_put::replace),
        ),
        (
            "/w/{workspace}/secrets/{name}/delete",
            get(secret_delete::confirm).post(secret_delete::delete),
        ),
        ("/w/{workspace}/servers", get(servers::list::list)),
        ("/w/{workspace}/add-server", get(servers::catalog::choose)),
        (
            "/w/{workspace}/add-server/form",
            get(servers::add::new).post(servers::add::add),
        ),
        (
            "/w/{workspace}/add-server/picture",
            post(servers::picture_part::draw),
        ),
        ("/w/{workspace}/servers/{name}", get(servers::show::show)),
        (
            "/w/{workspace}/servers/{name}/edit",
            get(servers::edit::form).post(servers::edit::save),
        ),
        (
            "/w/{workspace}/servers/{name}/delete",
            get(servers::delete::confirm).post(servers::delete::delete),
        ),
        (
            "/w/{workspace}/servers/{name}/call",
            get(servers::call::form).post(servers::call::call),
        ),
        ("/w/{workspace}/map", get(map::show)),
        ("/w/{workspace}/activity", get(activity::show)),
        ("/w/{workspace}/activity/live", get(activity::live)),
        (
            "/w/{workspace}/settings",
            get(workspace_settings::show).post(workspace_settings::update),
        ),
        ("/w/{workspace}/delete", post(workspace_settings::delete)),
        ("/keys", get(keys::show)),
        ("/keys/live", get(key_progress::live)),
        (
            "/keys/root-key/rotate",
            get(key_rotation::confirm_root).post(key_rotation::rotate_root),
        ),
        (
            "/keys/workspaces/{workspace}/rotate",
            get(key_rotation::confirm_workspace).post(key_rotation::rotate_workspace),
        ),
        ("/backup", get(backup::show)),
        ("/backup/live", get(backup::live)),
        ("/backup/make", post(backup_download::make)),
        ("/backup/restore", post(backup_restore::restore)),
        ("/status", get(status::show)),
        ("/status/live", get(status::live)),
        ("/sign-in", get(sign_in::sign_in)),
        ("/sign-out", post(sign_in::sign_out)),
        ("/assets/{name}", get(assets::asset)),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use axum::{body::Body, extract::Request};
    use http::{StatusCode, header};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::console::{guard::tests::console, sign_in::SignIn};

    #[tokio::test]
    async fn every_form_without_the_token_of_the_session_is_refused() {
        let (app, _home) = console().await;
        let link = app.sign_ins.new_link().unwrap();
        let Ok(SignIn::New(session)) = app.sign_ins.sign_in(&link, &[], true) else {
            panic!("not signed in");
        };
        let forms = [
            ("application/x-www-form-urlencoded", "csrf=x&name=a"),
            (
                "multipart/form-data; boundary=0",
                "--0\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\nx\r\n--0--\r\n",
            ),
        ];
        let mut refused = Vec::new();
        for (path, methods) in routes() {
            let target = path.replace("{workspace}", "w").replace("{name}", "a");
            let router = Router::new().route(path, methods).with_state(app.clone());
            let mut statuses = Vec::new();
            for (media_type, body) in forms {
                let mut request = Request::post(&target)
                    .header(header::CONTENT_TYPE, media_type)
                    .body(Body::from(body))
                    .unwrap();
                request.extensions_mut().insert(session.clone());
                let answer = TowerToHyperService::new(router.clone()).call(request).await;
                statuses.push(answer.unwrap().status());
            }
            if statuses != [StatusCode::METHOD_NOT_ALLOWED; 2] {
                let [form, with_file] = statuses[..] else {
                    unreachable!()
                };
                let expected = [
                    (StatusCode::FORBIDDEN, StatusCode::UNSUPPORTED_MEDIA_TYPE),
                    (StatusCode::UNSUPPORTED_MEDIA_TYPE, StatusCode::FORBIDDEN),
                ];
                assert!(expected.contains(&(form, with_file)), "{path}: {statuses:?}");
                refused.push(path);
            }
        }
        assert!(
            refused.contains(&"/workspaces") && refused.contains(&"/backup/restore"),
            "{refused:?}"
        );
    }
}
