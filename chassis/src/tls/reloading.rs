//! A value that its source replaces while the service runs.

use std::sync::Arc;

use tokio::sync::watch;

/// A value that its source replaces while the service runs, such as the contents of a file. Clones share the value; each
/// clone remembers which value it has seen.
#[derive(Debug)]
pub struct Reloading<T>(watch::Receiver<Option<Arc<T>>>);

/// The end of a [`Reloading`] that replaces the value.
#[derive(Debug)]
pub struct ReloadingSender<T>(watch::Sender<Option<Arc<T>>>);

impl<T> Clone for Reloading<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Reloading<T> {
    /// Returns a value that nothing replaces.
    pub fn fixed(value: T) -> Self {
        ReloadingSender::new(Some(value)).1
    }

    /// Returns the value in use, or `None` when the source has none yet. The value of a file is there from the start.
    pub fn current(&self) -> Option<Arc<T>> {
        self.0.borrow().clone()
    }

    /// Returns the value in use, and remembers that this clone has seen it.
    pub(crate) fn see(&mut self) -> Option<Arc<T>> {
        self.0.borrow_and_update().clone()
    }

    /// Completes when there is a value that this clone has not seen, and sees it.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The source is gone, so that the value stays.
            std::future::pending::<()>().await;
        }
    }
}

impl<T> ReloadingSender<T> {
    /// Makes both ends. Without a `value`, the source has none yet.
    pub fn new(value: Option<T>) -> (Self, Reloading<T>) {
        let (sender, receiver) = watch::channel(value.map(Arc::new));
        (Self(sender), Reloading(receiver))
    }

    /// Returns the value in use, or `None` when the source has none yet.
    pub fn current(&self) -> Option<Arc<T>> {
        self.0.borrow().clone()
    }

    /// Replaces the value in use.
    pub fn replace(&self, value: T) {
        self.0.send_replace(Some(Arc::new(value)));
    }
}
