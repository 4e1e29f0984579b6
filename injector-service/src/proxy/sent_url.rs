//! The URL of a request as it was sent upstream.

use std::sync::OnceLock;

use http::Uri;
use url::Url;

/// The URL of a request as it was sent upstream, with `*` in place of the values in it. References in the response are
/// relative to this URL, which is parsed once: it may have 60 KiB, and a response may have thousands of references.
pub(super) struct SentUrl {
    uri: Uri,
    parsed: OnceLock<Option<Url>>,
}

impl SentUrl {
    pub(super) fn new(uri: Uri) -> Self {
        let parsed = OnceLock::new();
        Self { uri, parsed }
    }

    /// Returns the URL that `reference` leads to, or `None` for a text that is no reference.
    pub(super) fn resolve(&self, reference: &str) -> Option<Url> {
        self.url()?.join(reference).ok()
    }

    pub(super) fn path(&self) -> &str {
        self.url().map_or("", Url::path)
    }

    fn url(&self) -> Option<&Url> {
        let parse = || Url::parse(&self.uri.to_string()).ok();
        self.parsed.get_or_init(parse).as_ref()
    }
}
