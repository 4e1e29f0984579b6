//! Remarks on a change, which the next page shows.

/// A remark on a change that was made. It never contains the value of a secret.
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) is_warning: bool,
    /// The path and the text of a link to the next step.
    pub(crate) link: Option<(String, String)>,
}

impl Notice {
    /// Says that a change was made.
    pub(crate) fn done(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_warning: false,
            link: None,
        }
    }

    /// Says what to look at after a change.
    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_warning: true,
            link: None,
        }
    }

    /// Adds a link to the next step.
    #[must_use]
    pub(crate) fn link(self, path: String, text: impl Into<String>) -> Self {
        Self {
            link: Some((path, text.into())),
            ..self
        }
    }
}
