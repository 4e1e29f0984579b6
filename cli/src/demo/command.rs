//! `aerostack demo`: makes a workspace, a secret, and a server that gets the secret, on running services.

use clap::Args;
use http::Uri;

use super::resources::{DemoAdmin, DemoError, SECRET, SERVER, WORKSPACE, new_value};
use crate::connect::Connection;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack demo --upstream-url http://127.0.0.1:8080")]
pub struct DemoArgs {
    /// The server's URL; the secret may only be sent to the origin of this URL
    #[arg(long, value_name = "URL")]
    pub upstream_url: Uri,
}

/// Makes the resources that are missing, and returns the next step for the user. An existing secret keeps its value.
pub(crate) async fn run(args: &DemoArgs, connection: &Connection) -> Result<String, DemoError> {
    let url = &args.upstream_url;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(DemoError::Url(url.to_string()));
    };
    let admin = DemoAdmin::connect(connection)?;
    admin.ensure_workspace().await?;
    if !admin.has_secret().await? {
        let origin = format!("{scheme}://{authority}");
        admin.put_secret(&new_value(), &origin).await?;
    }
    admin.ensure_server(&url.to_string()).await?;
    admin.check_that_decrypt_is_refused().await?;
    Ok(format!(
        "The secret {SECRET} in workspace {WORKSPACE} goes to the server {SERVER}. Beside the injector:\n\
         \x20   curl http://localhost:7100/{WORKSPACE}/{SERVER}/hello\n"
    ))
}
