//! Updates of the marker by the commit thread.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    super::{Fault, checkpoint::Checkpoint, error::StoreOpenError, file_sum::FileSum, scan, sled_files::DB},
    FileSums, Marker, MarkerState, PreviewEntries,
};

/// Minimum interval between updates of the marker, and the time after which the last group is noted.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writer of an open store's marker.
///
/// A failed write is logged and ignored: acknowledged data is in `db`, and an outdated marker is still a valid lower bound.
pub(in crate::store) struct MarkerWriter {
    dir: PathBuf,
    checkpoint: Checkpoint,
    /// Files that do not change while the store is open.
    files: FileSums,
    preview_keys: &'static [&'static [u8]],
    written: Instant,
    /// True when a group was committed after the marker was written.
    is_outdated: bool,
    /// [`INTERVAL`], unless a test changes it.
    pub(in crate::store) interval: Duration,
}

impl MarkerWriter {
    /// Writes the marker of a store that was opened with this checkpoint and these files.
    pub(in crate::store) fn start(
        dir: &Path,
        checkpoint: Checkpoint,
        files: FileSums,
        preview_keys: &'static [&'static [u8]],
    ) -> Result<Self, StoreOpenError> {
        let writer = Self {
            dir: dir.to_owned(),
            checkpoint,
            files,
            preview_keys,
            written: Instant::now(),
            is_outdated: false,
            interval: INTERVAL,
        };
        writer.open_marker().write(dir)?;
        Ok(writer)
    }

    /// Returns the checkpoint for a group that adds `added` entries.
    pub(in crate::store) fn next_checkpoint(&self, added: i64) -> Checkpoint {
        self.checkpoint.next(added)
    }

    /// Takes over the checkpoint of a group that is durable now, and writes the marker if it is old enough.
    pub(in crate::store) fn advance(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = checkpoint;
        self.is_outdated = true;
        self.write_if_due();
    }

    /// Returns the time until an outdated marker is to be written.
    pub(in crate::store) fn due_in(&self) -> Option<Duration> {
        self.is_outdated
            .then(|| self.interval.saturating_sub(self.written.elapsed()))
    }

    /// Writes the marker if it is outdated and old enough.
    pub(in crate::store) fn write_if_due(&mut self) {
        if self.due_in() == Some(Duration::ZERO) {
            self.written = Instant::now();
            self.is_outdated = false;
            self.write(&self.open_marker());
        }
    }

    /// Writes the marker of a closed store, whose `db` does not change any more. Reads all of `db` for the checksum.
    pub(in crate::store) fn close(self, db: &sled::Db) {
        let sum = match FileSum::of(&self.dir.join(DB)) {
            Ok(sum) => sum,
            Err(error) => {
                tracing::warn!(%error, "the store was closed without its checksum");
                return;
            }
        };
        let mut files = self.files.clone();
        files.insert(DB.to_owned(), sum);
        self.write(&Marker {
            checkpoint: self.checkpoint,
            state: MarkerState::Closed,
            files,
            // Without preview entries, the next start reads these entries from a copy of the store, which is only slower.
            preview: self.preview(db).unwrap_or_default(),
        });
    }

    fn preview(&self, db: &sled::Db) -> Result<PreviewEntries, Fault> {
        let entries = self.preview_keys.iter().map(|key| {
            let value = scan::read(db, key)?.map(|value| value.to_vec());
            Ok((key.to_vec(), value))
        });
        entries.collect()
    }

    fn open_marker(&self) -> Marker {
        Marker {
            checkpoint: self.checkpoint,
            state: MarkerState::Open,
            files: self.files.clone(),
            preview: PreviewEntries::new(),
        }
    }

    fn write(&self, marker: &Marker) {
        if let Err(error) = marker.write(&self.dir) {
            tracing::warn!(%error, "the store's marker was not written");
        }
    }
}
