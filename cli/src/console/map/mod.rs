//! The map of a workspace as data: which secret goes to which server, and where the parts of the drawing are.

mod graph;
mod layout;
mod reach;

pub(super) use self::{
    graph::{Edge, Graph, SecretNode, SecretState, ServerNode},
    layout::{Layout, ROW},
    reach::{Outcome, Refusal},
};
