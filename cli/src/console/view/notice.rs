//! Remarks on a change, which the next page shows.

/// A remark on a change that was made. It never contains the value of a secret.
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) is_warning: bool,
}

impl Notice {
    /// Says that a change was made.
    pub(crate) fn done(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_warning: false,
        }
    }

    /// Says what to look at after a change.
    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_warning: true,
        }
    }
}
