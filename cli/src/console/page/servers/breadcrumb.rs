//! The way back from the pages of a server.

use maud::Markup;

use super::super::frame::breadcrumb;

/// Returns the breadcrumb of a page about servers, or of a page below that of one server.
pub(super) fn server_breadcrumb(workspace: &str, name: Option<&str>) -> Markup {
    let list = format!("/w/{workspace}/servers");
    let of_name = name.map(|name| (name, format!("{list}/{name}")));
    let mut steps = vec![("Workspaces", "/"), (workspace, list.as_str())];
    steps.extend(of_name.as_ref().map(|(name, path)| (*name, path.as_str())));
    breadcrumb(&steps)
}
