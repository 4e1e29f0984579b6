//! The pages of servers: `/w/{workspace}/servers…` and `/w/{workspace}/add-server`.
//!
//! A server may have any DNS label as its name, so no page besides those of one server is below `/servers/`.

mod access;
pub(in crate::console) mod add;
mod answer;
mod answer_view;
mod breadcrumb;
pub(in crate::console) mod call;
mod call_form;
pub(in crate::console) mod catalog;
mod changes;
pub(in crate::console) mod delete;
pub(in crate::console) mod edit;
mod explained;
mod form;
mod form_view;
mod indented_json;
mod json_picture;
pub(in crate::console) mod list;
mod mark;
mod message;
mod more_view;
mod picture;
pub(in crate::console) mod picture_part;
mod place;
mod received;
mod rows;
mod rows_view;
pub(in crate::console) mod show;
mod shown_state;
mod span;
mod step;
mod untouched;
mod url;
