//! `aerostack demo`: gives a running pair something to show: a workspace, a secret, and a server that gets it.

use clap::Args;
use http::Uri;

use super::{DemoError, SECRET, SERVER, WORKSPACE, admin::Admin};
use crate::connect::Connection;

/// What `aerostack demo` is told.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// The server's URL; the secret is bound to its origin
    #[arg(long, value_name = "URL")]
    pub upstream_url: Uri,
}

/// Makes what is missing, leaves the secret alone that is there, and answers what to do next.
///
/// # Errors
/// [`DemoError`].
pub async fn run(args: &DemoArgs, connection: &Connection) -> Result<String, DemoError> {
    let url = &args.upstream_url;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(DemoError::Url(url.to_string()));
    };
    let admin = Admin::connect(connection)?;
    admin.workspace().await?;
    if !admin.has_secret().await? {
        let value = format!("demo-{}", proto::Uid::generate());
        admin
            .put_secret(&value, &format!("{scheme}://{authority}"))
            .await?;
    }
    admin.server(&url.to_string()).await?;
    admin.cannot_read().await?;
    Ok(format!(
        "The secret {SECRET} in workspace {WORKSPACE} goes to the server {SERVER}. Beside the injector:\n\
         \x20   curl http://localhost:7100/{WORKSPACE}/{SERVER}/hello\n"
    ))
}
