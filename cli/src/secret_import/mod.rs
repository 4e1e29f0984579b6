//! Puts the secrets of a file, as the command line and the console do: a plan that a person agrees to, and then the puts.

mod plan;
mod put;

pub(crate) use self::{
    plan::{ImportPlan, LeftOut, PlannedPut},
    put::{ImportOptions, Imported, PutOutcome, put_all},
};
