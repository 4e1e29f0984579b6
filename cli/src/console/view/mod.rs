//! The parts that pages are made of. Every function returns escaped HTML.

mod form;
mod layout;
mod notice;
mod parts;
mod text;

pub(super) use self::{
    form::{
        FormError, Submit, error_at, error_summary, error_summary_without_focus, field, has_error, hidden,
        invalid, submit,
    },
    layout::{Frame, HOW_TO_GET_A_LINK, Head, Section, message_page, page, signed_in_page},
    notice::Notice,
    parts::{bar, cell, chips, empty, facts, icon, link_chips, pager},
    text::{count, date, day_of, expiry, grouped, moment, now, prose, sentence, time_of_day, with_full_time},
};
