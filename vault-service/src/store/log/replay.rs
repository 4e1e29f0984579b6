//! Replay of the log's messages, in the order in which they were written, into the history of each key.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
};

use super::{
    frame::MessageKind,
    gaps::Gaps,
    page::{Data, Link, Node},
    scan::{Frame, SEGMENT_BYTES},
    value_location::ValueLocation,
};

/// Number of values that are remembered for one key: the current one and earlier ones.
const REMEMBERED: usize = 16;

/// The history of one key in the log.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct History {
    /// Values of the key, the newest last.
    values: VecDeque<ValueLocation>,
    /// Number of `values` from before the last deletion of the key.
    before_deletion: usize,
    changed_at: u64,
    confirmed_at: u64,
    deleted: bool,
}

impl History {
    /// Returns the LSN at which the key got its current state: a value, or none.
    pub(in crate::store) fn changed_at(&self) -> u64 {
        self.changed_at
    }

    /// Returns the LSN of the last message that confirms the key's current state.
    pub(in crate::store) fn confirmed_at(&self) -> u64 {
        self.confirmed_at
    }

    /// Returns true when the key has no value any more.
    pub(in crate::store) fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Returns the remembered values of the key, the newest first.
    pub(in crate::store) fn values(&self) -> impl Iterator<Item = &ValueLocation> {
        self.values.iter().rev()
    }

    /// Returns the remembered values from after the last deletion of the key, the newest first.
    pub(in crate::store) fn values_since_deletion(&self) -> impl Iterator<Item = &ValueLocation> {
        self.values.iter().skip(self.before_deletion).rev()
    }

    fn set(&mut self, lsn: u64, value: ValueLocation) {
        self.confirmed_at = lsn;
        if !self.deleted && self.values.back().is_some_and(|last| last.equals(&value)) {
            return;
        }
        (self.changed_at, self.deleted) = (lsn, false);
        if self.values.len() == REMEMBERED {
            self.values.pop_front();
            self.before_deletion = self.before_deletion.saturating_sub(1);
        }
        self.values.push_back(value);
    }

    fn delete(&mut self, lsn: u64) {
        (self.changed_at, self.confirmed_at, self.deleted) = (lsn, lsn, true);
        self.before_deletion = self.values.len();
    }
}

/// The range of keys of a page, as the message at the LSN `written_at` gives it.
struct Page {
    written_at: u64,
    low: Vec<u8>,
    /// High key; empty when the page has no upper end.
    high: Vec<u8>,
    prefix: Vec<u8>,
}

impl Page {
    /// Makes a page whose prefix follows from its range: the common prefix of both ends, up to 255 bytes.
    fn between(written_at: u64, low: &[u8], high: &[u8]) -> Self {
        let common = low.iter().zip(high).take_while(|(low, high)| low == high);
        let prefix = low.get(..common.count().min(255)).unwrap_or_default();
        Self {
            written_at,
            low: low.to_vec(),
            high: high.to_vec(),
            prefix: prefix.to_vec(),
        }
    }
}

/// Facts about the whole log that the replay of its first message already needs.
pub(super) struct Survey<'a> {
    pub(super) gaps: &'a Gaps,
    /// LSN of the last message that wrote each page as a whole or freed it.
    last_whole: HashMap<u64, u64>,
    /// First segment number of each run of consecutive segments. The segments between two runs are missing because sled
    /// reused them.
    runs: Vec<u64>,
    /// The tree at the end of the log, if the log has gaps.
    pub(super) tree: Tree,
}

impl<'a> Survey<'a> {
    /// Surveys `frames`, which must be in the log's order.
    pub(super) fn of(frames: &[Frame], gaps: &'a Gaps) -> Self {
        let whole = frames
            .iter()
            .filter(|frame| matches!(frame.kind, MessageKind::Node | MessageKind::Free));
        let mut runs = Vec::new();
        let mut before = None;
        for segment in frames.iter().map(|frame| frame.lsn / SEGMENT_BYTES) {
            if before != Some(segment) && before.is_none_or(|before| before + 1 != segment) {
                runs.push(segment);
            }
            before = Some(segment);
        }
        Self {
            gaps,
            last_whole: whole.map(|frame| (frame.page, frame.lsn)).collect(),
            runs,
            tree: Tree::default(),
        }
    }

    /// Returns true when the page of `frame` was written as a whole, or freed, after `frame`.
    fn is_replaced_after(&self, frame: &Frame) -> bool {
        self.last_whole
            .get(&frame.page)
            .is_some_and(|last| *last > frame.lsn)
    }

    /// Returns true when no segment between `from` and `to` is missing because sled reused it.
    fn has_all(&self, from: u64, to: u64) -> bool {
        let run = |lsn: u64| self.runs.partition_point(|begin| *begin <= lsn / SEGMENT_BYTES);
        run(from) == run(to)
    }
}

/// Facts about pages that other pages contain.
#[derive(Default)]
pub(super) struct Tree {
    /// LSN at which each leaf was last written, by the leaf's low key.
    leaves: BTreeMap<Vec<u8>, u64>,
    /// Ranges of pages as the index pages above them give them, by page id.
    indexed: HashMap<u64, Page>,
}

impl Tree {
    /// Returns the current prefix of the page `id`, where `page` is the last known state of the page before a gap. The
    /// page may have been split in the gap; the index page above shows that, or a leaf that begins within the page's
    /// range.
    fn newest_prefix(&self, id: u64, page: &Page) -> Vec<u8> {
        let indexed = self
            .indexed
            .get(&id)
            .filter(|indexed| indexed.written_at > page.written_at);
        let known = indexed.unwrap_or(page);
        let behind = (Bound::Excluded(known.low.as_slice()), Bound::Unbounded);
        let is_inside = |low: &[u8]| known.high.is_empty() || low < known.high.as_slice();
        let inside = self
            .leaves
            .range::<[u8], _>(behind)
            .take_while(|(low, _)| is_inside(low));
        let mut newer = inside.filter(|(_, since)| **since > known.written_at);
        match newer.next() {
            Some((low, _)) => Page::between(known.written_at, &known.low, low).prefix,
            None => known.prefix.clone(),
        }
    }
}

/// The state after all messages that were replayed.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) live: BTreeMap<Vec<u8>, History>,
    pub(super) deleted: BTreeMap<Vec<u8>, History>,
    pages: HashMap<u64, Page>,
    pub(super) tree: Tree,
    /// Numbers of changes whose keys are unknown because the page's prefix is unknown, by page id. None of these pages was
    /// written as a whole later.
    unnamed: HashMap<u64, u64>,
    /// Number of messages whose checksum matches but whose content cannot be parsed.
    unparsable: u64,
    /// LSN of the last byte of the last batch.
    pub(super) batch_end: u64,
}

impl Replay {
    /// Applies the message of `frame`, whose body is `body`.
    pub(super) fn apply(&mut self, frame: &Frame, body: &[u8], survey: &Survey<'_>) {
        match frame.kind {
            MessageKind::Node => match Node::parse(body) {
                Some(node) => self.node(frame, body, &node),
                None => self.unparsable += 1,
            },
            MessageKind::Link => match Link::parse(body) {
                Some(Link::Merge) => {}
                Some(Link::Set(key, value)) => {
                    if let Some(key) = self.key(frame, key, survey) {
                        self.set(&key, frame.lsn, ValueLocation::of(frame, body, value));
                    }
                }
                Some(Link::Delete(key)) => {
                    if let Some(key) = self.key(frame, key, survey) {
                        self.delete(&key, frame.lsn);
                    }
                }
                None => self.unparsable += 1,
            },
            MessageKind::Free => self.forget(frame.page),
            MessageKind::Batch => {
                let end = body.try_into().map(u64::from_le_bytes).unwrap_or_default();
                self.batch_end = self.batch_end.max(end);
            }
            MessageKind::Cancelled | MessageKind::Cap | MessageKind::Other => {}
        }
    }

    /// Returns the number of changes whose keys cannot be read.
    pub(super) fn unnamed_changes(&self) -> u64 {
        self.unnamed
            .values()
            .fold(self.unparsable, |sum, count| sum + count)
    }

    fn forget(&mut self, page: u64) {
        self.unnamed.remove(&page);
        self.tree.indexed.remove(&page);
        self.pages.remove(&page);
    }

    fn node(&mut self, frame: &Frame, body: &[u8], node: &Node<'_>) {
        self.unnamed.remove(&frame.page);
        let page = Page {
            prefix: node.prefix.to_vec(),
            ..Page::between(frame.lsn, node.low, node.high)
        };
        self.pages.insert(frame.page, page);
        match &node.data {
            Data::Leaf(entries) => {
                self.tree.leaves.insert(node.low.to_vec(), frame.lsn);
                self.leaf(frame, body, node, entries);
            }
            Data::Index(children) => {
                let lows: Vec<_> = children
                    .iter()
                    .map(|(key, _)| [node.prefix, key].concat())
                    .collect();
                let highs = lows.iter().skip(1).map(Vec::as_slice).chain([node.high]);
                for ((low, high), (_, child)) in lows.iter().zip(highs).zip(children) {
                    self.tree
                        .indexed
                        .insert(*child, Page::between(frame.lsn, low, high));
                }
            }
        }
    }

    /// Applies a leaf, which has all entries of its range: keys in the range without an entry are deleted.
    fn leaf(&mut self, frame: &Frame, body: &[u8], node: &Node<'_>, entries: &[(&[u8], &[u8])]) {
        let entries: BTreeMap<_, _> = entries
            .iter()
            .map(|(key, value)| ([node.prefix, key].concat(), *value))
            .collect();
        let high = match node.high {
            [] => Bound::Unbounded,
            high => Bound::Excluded(high),
        };
        // Bounds that damage put in the wrong order would make `range` panic.
        if node.high.is_empty() || node.low < node.high {
            let before = self.live.range::<[u8], _>((Bound::Included(node.low), high));
            let missing: Vec<_> = before
                .map(|(key, _)| key)
                .filter(|key| !entries.contains_key(*key))
                .cloned()
                .collect();
            for key in missing {
                self.delete(&key, frame.lsn);
            }
        }
        for (key, value) in entries {
            self.set(&key, frame.lsn, ValueLocation::of(frame, body, value));
        }
    }

    /// Returns the whole key of a change, including the prefix of the change's page. Returns `None` when the prefix is
    /// unknown or a later state of the page supersedes the change.
    fn key(&mut self, frame: &Frame, key: &[u8], survey: &Survey<'_>) -> Option<Vec<u8>> {
        let page = self.pages.get(&frame.page);
        let is_certain = page.is_some_and(|page| {
            survey.has_all(page.written_at, frame.lsn) && !survey.gaps.any_between(page.written_at, frame.lsn)
        });
        let prefix = match page {
            Some(page) if is_certain => Some(page.prefix.clone()),
            // The page's state at the time of this change is lost or was moved. The page was written as a whole later,
            // and that state includes this change.
            Some(_) | None if survey.is_replaced_after(frame) => return None,
            Some(page) => Some(self.prefix_after_gap(frame, page, survey)),
            None => self.indexed_prefix(frame, survey),
        };
        match prefix {
            Some(prefix) => Some([prefix.as_slice(), key].concat()),
            None => {
                *self.unnamed.entry(frame.page).or_default() += 1;
                None
            }
        }
    }

    /// Returns the prefix of a page after a gap, in which the page may have been rewritten. Only a split or merge of a
    /// page changes its prefix. The page is not rewritten after this change, so the prefix at the end of the log is
    /// valid here.
    fn prefix_after_gap(&self, frame: &Frame, page: &Page, survey: &Survey<'_>) -> Vec<u8> {
        match survey.gaps.any_between(page.written_at, frame.lsn) {
            true => survey.tree.newest_prefix(frame.page, page),
            false => page.prefix.clone(),
        }
    }

    /// Returns the prefix of a page whose own content is lost, from the index page above it.
    fn indexed_prefix(&self, frame: &Frame, survey: &Survey<'_>) -> Option<Vec<u8>> {
        let indexed = self.tree.indexed.get(&frame.page)?;
        let is_known = survey.has_all(indexed.written_at, frame.lsn) && survey.gaps.any_between(0, frame.lsn);
        is_known.then(|| survey.tree.newest_prefix(frame.page, indexed))
    }

    fn set(&mut self, key: &[u8], lsn: u64, value: ValueLocation) {
        if let Some(history) = self.live.get_mut(key) {
            return history.set(lsn, value);
        }
        let mut history = self.deleted.remove(key).unwrap_or_default();
        history.set(lsn, value);
        self.live.insert(key.to_vec(), history);
    }

    fn delete(&mut self, key: &[u8], lsn: u64) {
        let Some(mut history) = self.live.remove(key).or_else(|| self.deleted.remove(key)) else {
            return;
        };
        history.delete(lsn);
        self.deleted.insert(key.to_vec(), history);
    }
}
