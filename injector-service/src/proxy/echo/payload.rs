//! The payload of a stream, in which values are masked.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::Refusal;

use super::EchoFilter;
use crate::{
    registry::EchoPart,
    scrub::{Scanned, Scanner, SecretSet, mask_text},
};

/// The most pieces of framing that wait for held bytes. An upstream can send framing without end, such as PING frames inside
/// a fragmented WebSocket message.
const MAX_WAITING: usize = 1024;

/// The payload of a stream, and the framing between its bytes, in order.
pub(super) struct MaskedPayload {
    filter: EchoFilter,
    scanner: Scanner,
    /// Bytes of the payload that the scanner holds.
    held: usize,
    /// Framing that has to wait until as many bytes of the payload were given out.
    waiting: VecDeque<(usize, Bytes)>,
    output: Vec<Bytes>,
    /// The values that were reported.
    reported: SecretSet,
}

impl MaskedPayload {
    pub(super) fn new(filter: EchoFilter) -> Self {
        Self {
            scanner: Scanner::new(filter.call.fingerprints.clone()),
            filter,
            held: 0,
            waiting: VecDeque::new(),
            output: Vec::new(),
            reported: SecretSet::default(),
        }
    }

    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), Refusal> {
        self.held += piece.len();
        let Scanned { output, found } = self.scanner.scan(piece);
        self.give_out(output);
        self.report(found)
    }

    /// Adds bytes that are not searched.
    pub(super) fn push_framing(&mut self, framing: Bytes) {
        if framing.is_empty() {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            // The rest of a value whose beginning is given out will be masked.
            self.release_all();
        }
        match self.held {
            0 => self.output.push(framing),
            held => self.waiting.push_back((held, framing)),
        }
    }

    /// Masks a text that is no part of the payload, such as the reason in a WebSocket close frame.
    pub(super) fn masked(&mut self, text: Bytes) -> Result<Bytes, Refusal> {
        match mask_text(&self.filter.call.fingerprints, &text) {
            None => Ok(text),
            Some(Scanned { output, found }) => {
                self.report(found)?;
                Ok(output)
            }
        }
    }

    pub(super) fn release_tail(&mut self) {
        let released = self.scanner.release_tail();
        self.give_out(released);
    }

    pub(super) fn release_all(&mut self) {
        let released = self.scanner.release_all();
        self.give_out(released);
    }

    pub(super) fn holds_bytes(&self) -> bool {
        self.scanner.holds_bytes()
    }

    pub(super) fn log_broken_off(&self, refusal: &Refusal) {
        self.filter.record().log_broken_off(refusal);
    }

    fn report(&mut self, found: SecretSet) -> Result<(), Refusal> {
        let new = found.without(self.reported);
        self.reported.add(found);
        self.filter.report(EchoPart::Body, new)
    }

    /// Adds payload to the output, and the framing that was waiting for it.
    fn give_out(&mut self, mut payload: Bytes) {
        if payload.is_empty() {
            return;
        }
        let mut given = 0;
        let len = payload.len();
        while let Some((position, framing)) = self.waiting.pop_front_if(|(position, _)| *position <= len) {
            self.output.push(payload.split_to(position - given));
            self.output.push(framing);
            given = position;
        }
        self.output.push(payload);
        self.held -= len;
        self.waiting.iter_mut().for_each(|(position, _)| *position -= len);
    }

    pub(super) fn take_output(&mut self) -> Bytes {
        self.output.retain(|piece| !piece.is_empty());
        match self.output.as_mut_slice() {
            [only] => {
                let only = std::mem::take(only);
                self.output.clear();
                only
            }
            pieces => {
                let joined = pieces.concat().into();
                self.output.clear();
                joined
            }
        }
    }
}
