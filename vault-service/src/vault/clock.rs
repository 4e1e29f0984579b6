//! The time by which secrets expire.

use std::{sync::Arc, time::SystemTime};

/// The current time. Tests replace the function.
pub(super) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;
