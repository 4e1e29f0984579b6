//! What the messages of the log, in their order, say of each key.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
};

use super::{
    Gaps, SEGMENT_BYTES, Value,
    frame::Kind,
    page::{Data, Link, Node},
    scan::Frame,
};

/// Values that are remembered of one key: the present one and those before it.
const REMEMBERED: usize = 16;

/// What the log says of one key.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Trace {
    /// Its values, the newest last.
    values: VecDeque<Value>,
    /// How many of them it had before it was deleted for the last time.
    outlived: usize,
    since: u64,
    confirmed: u64,
    deleted: bool,
}

impl Trace {
    /// When the key got its present state: a value, or none.
    pub(in crate::store) fn since(&self) -> u64 {
        self.since
    }

    /// When the log said for the last time that this is the key's state.
    pub(in crate::store) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Whether the key has no value any more.
    pub(in crate::store) fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// The key's values, the newest first, as far as they are remembered.
    pub(in crate::store) fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter().rev()
    }

    /// The same, of those that it got after it was deleted for the last time.
    pub(in crate::store) fn values_since_deletion(&self) -> impl Iterator<Item = &Value> {
        self.values.iter().skip(self.outlived).rev()
    }

    fn set(&mut self, lsn: u64, value: Value) {
        self.confirmed = lsn;
        if !self.deleted && self.values.back().is_some_and(|last| last.equals(&value)) {
            return;
        }
        (self.since, self.deleted) = (lsn, false);
        if self.values.len() == REMEMBERED {
            self.values.pop_front();
            self.outlived = self.outlived.saturating_sub(1);
        }
        self.values.push_back(value);
    }

    fn delete(&mut self, lsn: u64) {
        (self.since, self.confirmed, self.deleted) = (lsn, lsn, true);
        self.outlived = self.values.len();
    }
}

/// A page's range of keys, as of a place in the log.
struct Page {
    since: u64,
    low: Vec<u8>,
    /// Empty for no end.
    high: Vec<u8>,
    prefix: Vec<u8>,
}

impl Page {
    /// With the prefix that follows from the range: what both ends begin with, up to 255 bytes.
    fn between(since: u64, low: &[u8], high: &[u8]) -> Self {
        let same = low.iter().zip(high).take_while(|(low, high)| low == high);
        let prefix = low.get(..same.count().min(255)).unwrap_or_default();
        Self {
            since,
            low: low.to_vec(),
            high: high.to_vec(),
            prefix: prefix.to_vec(),
        }
    }
}

/// What has to be known of the whole log before any of it is replayed.
pub(super) struct Survey<'a> {
    pub(super) gaps: &'a Gaps,
    /// Of each page, where it was written as a whole, or freed, for the last time.
    last_whole: HashMap<u64, u64>,
    /// The segment numbers with which runs of segments begin. Between two runs segments are missing: they were used again.
    runs: Vec<u64>,
    /// The tree at the end of the log, if the log has gaps.
    pub(super) tree: Tree,
}

impl<'a> Survey<'a> {
    /// Of messages in the log's order.
    pub(super) fn of(frames: &[Frame], gaps: &'a Gaps) -> Self {
        let whole = frames
            .iter()
            .filter(|frame| matches!(frame.kind, Kind::Node | Kind::Free));
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

    /// Whether the page was written as a whole after this.
    fn is_replaced_after(&self, frame: &Frame) -> bool {
        self.last_whole
            .get(&frame.page)
            .is_some_and(|last| *last > frame.lsn)
    }

    /// Whether nothing that was written from `from` to `to` is missing because its segment was used again.
    fn has_all(&self, from: u64, to: u64) -> bool {
        let run = |lsn: u64| self.runs.partition_point(|begin| *begin <= lsn / SEGMENT_BYTES);
        run(from) == run(to)
    }
}

/// What pages say of other pages.
#[derive(Default)]
pub(super) struct Tree {
    /// By their low keys: when leaves were written for the last time.
    leaves: BTreeMap<Vec<u8>, u64>,
    /// Pages by what the index pages above them say.
    indexed: HashMap<u64, Page>,
}

impl Tree {
    /// The prefix that a page has, of which `page` is what it was when it was written for the last time before a gap. It may
    /// have been split in the gap: the index above tells, or a leaf that begins within the page's range.
    fn newest_prefix(&self, id: u64, page: &Page) -> Vec<u8> {
        let indexed = self.indexed.get(&id).filter(|indexed| indexed.since > page.since);
        let known = indexed.unwrap_or(page);
        let behind = (Bound::Excluded(known.low.as_slice()), Bound::Unbounded);
        let is_inside = |low: &[u8]| known.high.is_empty() || low < known.high.as_slice();
        let inside = self
            .leaves
            .range::<[u8], _>(behind)
            .take_while(|(low, _)| is_inside(low));
        let mut newer = inside.filter(|(_, since)| **since > known.since);
        match newer.next() {
            Some((low, _)) => Page::between(known.since, &known.low, low).prefix,
            None => known.prefix.clone(),
        }
    }
}

/// The state after all messages that were replayed.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) live: BTreeMap<Vec<u8>, Trace>,
    pub(super) deleted: BTreeMap<Vec<u8>, Trace>,
    pages: HashMap<u64, Page>,
    pub(super) tree: Tree,
    /// Changes of which the page, and so the key, is not known, by page; none of these was written as a whole since.
    nameless: HashMap<u64, u64>,
    /// Messages that authenticate and mean nothing.
    senseless: u64,
    /// The LSN of the last byte of the last batch.
    pub(super) batch_end: u64,
}

impl Replay {
    /// `body` is what stands at `frame`.
    pub(super) fn apply(&mut self, frame: &Frame, body: &[u8], survey: &Survey<'_>) {
        match frame.kind {
            Kind::Node => match Node::parse(body) {
                Some(node) => self.node(frame, body, &node),
                None => self.senseless += 1,
            },
            Kind::Link => match Link::parse(body) {
                Some(Link::Merge) => {}
                Some(Link::Set(key, value)) => {
                    if let Some(key) = self.key(frame, key, survey) {
                        self.set(&key, frame.lsn, Value::of(frame, body, value));
                    }
                }
                Some(Link::Delete(key)) => {
                    if let Some(key) = self.key(frame, key, survey) {
                        self.delete(&key, frame.lsn);
                    }
                }
                None => self.senseless += 1,
            },
            Kind::Free => self.forget(frame.page),
            Kind::Batch => {
                let end = body.try_into().map(u64::from_le_bytes).unwrap_or_default();
                self.batch_end = self.batch_end.max(end);
            }
            Kind::Cancelled | Kind::Cap | Kind::Other => {}
        }
    }

    /// Changes whose keys cannot be read.
    pub(super) fn nameless(&self) -> u64 {
        self.nameless
            .values()
            .fold(self.senseless, |sum, of_page| sum + of_page)
    }

    fn forget(&mut self, page: u64) {
        self.nameless.remove(&page);
        self.tree.indexed.remove(&page);
        self.pages.remove(&page);
    }

    fn node(&mut self, frame: &Frame, body: &[u8], node: &Node<'_>) {
        self.nameless.remove(&frame.page);
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

    /// All entries of a part of the keys: what is not among them is not there.
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
            let gone: Vec<_> = before
                .map(|(key, _)| key)
                .filter(|key| !entries.contains_key(*key))
                .cloned()
                .collect();
            for key in gone {
                self.delete(&key, frame.lsn);
            }
        }
        for (key, value) in entries {
            self.set(&key, frame.lsn, Value::of(frame, body, value));
        }
    }

    /// The whole key of a change, with the prefix of the page that it belongs to. None when that is not known, or the change
    /// does not count.
    fn key(&mut self, frame: &Frame, key: &[u8], survey: &Survey<'_>) -> Option<Vec<u8>> {
        let page = self.pages.get(&frame.page);
        let is_certain = page.is_some_and(|page| {
            survey.has_all(page.since, frame.lsn) && !survey.gaps.any_between(page.since, frame.lsn)
        });
        let prefix = match page {
            Some(page) if is_certain => Some(page.prefix.clone()),
            // The page itself, as it was when this change was made, is lost or was moved. As it was written later it has this
            // change.
            Some(_) | None if survey.is_replaced_after(frame) => return None,
            Some(page) => Some(self.prefix_now(frame, page, survey)),
            None => self.indexed_prefix(frame, survey),
        };
        match prefix {
            Some(prefix) => Some([prefix.as_slice(), key].concat()),
            None => {
                *self.nameless.entry(frame.page).or_default() += 1;
                None
            }
        }
    }

    /// The page's prefix after a gap, in which the page may have been written anew. Prefixes change only when a page is split
    /// or merged. The page is not written anew after this change, so what the end of the log says of it holds here.
    fn prefix_now(&self, frame: &Frame, page: &Page, survey: &Survey<'_>) -> Vec<u8> {
        match survey.gaps.any_between(page.since, frame.lsn) {
            true => survey.tree.newest_prefix(frame.page, page),
            false => page.prefix.clone(),
        }
    }

    /// The prefix of a page that is lost itself.
    fn indexed_prefix(&self, frame: &Frame, survey: &Survey<'_>) -> Option<Vec<u8>> {
        let indexed = self.tree.indexed.get(&frame.page)?;
        let is_known = survey.has_all(indexed.since, frame.lsn) && survey.gaps.any_between(0, frame.lsn);
        is_known.then(|| survey.tree.newest_prefix(frame.page, indexed))
    }

    fn set(&mut self, key: &[u8], lsn: u64, value: Value) {
        if let Some(trace) = self.live.get_mut(key) {
            return trace.set(lsn, value);
        }
        let mut trace = self.deleted.remove(key).unwrap_or_default();
        trace.set(lsn, value);
        self.live.insert(key.to_vec(), trace);
    }

    fn delete(&mut self, key: &[u8], lsn: u64) {
        let Some(mut trace) = self.live.remove(key).or_else(|| self.deleted.remove(key)) else {
            return;
        };
        trace.delete(lsn);
        self.deleted.insert(key.to_vec(), trace);
    }
}
