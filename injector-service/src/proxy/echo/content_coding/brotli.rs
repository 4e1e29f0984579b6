//! Brotli (RFC 7932).

use brotli_decompressor::{
    Allocator, BrotliDecoderErrorCode as Code, BrotliDecompressStream, BrotliResult, BrotliState,
    SliceWrapper, SliceWrapperMut,
};
use bytes::{Buf as _, Bytes};
use proto::Refusal;

use super::decoded_body::{Decoder, malformed, no_memory, window_too_large};
use crate::proxy::buffer_budget::{BufferBudget, Reservation};

/// The most bytes that are decoded at once.
const OUTPUT: usize = 16 * 1024;

type State = BrotliState<BudgetAllocator, BudgetAllocator, BudgetAllocator>;

pub(super) struct BrotliDecoder {
    state: Box<State>,
    output: Box<[u8]>,
    position: Position,
    /// The memory of this struct. The allocator reserves what `state` allocates.
    _reservation: Reservation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Beginning,
    Inside,
    End,
}

impl BrotliDecoder {
    pub(super) fn new(budget: &BufferBudget) -> Result<Self, Refusal> {
        let mut reservation = budget.empty_reservation();
        reservation
            .grow(size_of::<State>() + OUTPUT)
            .map_err(|_| no_memory())?;
        let allocator = || BudgetAllocator(budget.clone());
        Ok(Self {
            // Without the large windows of up to 1 GiB, which are an extension of the standard.
            state: Box::new(BrotliState::new_strict(allocator(), allocator(), allocator())),
            output: vec![0; OUTPUT].into_boxed_slice(),
            position: Position::Beginning,
            _reservation: reservation,
        })
    }

    fn decode_some(&mut self, input: &mut Bytes) -> Result<Bytes, Refusal> {
        let (mut taken, mut written) = (0, 0);
        let result = BrotliDecompressStream(
            &mut input.len(),
            &mut taken,
            input,
            &mut self.output.len(),
            &mut written,
            &mut self.output,
            &mut 0,
            &mut self.state,
        );
        input.advance(taken);
        self.position = match result {
            BrotliResult::ResultSuccess => Position::End,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Position::Inside,
            BrotliResult::ResultFailure => return Err(failure(self.state.error_code)),
        };
        Ok(Bytes::copy_from_slice(
            self.output.get(..written).unwrap_or_default(),
        ))
    }
}

impl Decoder for BrotliDecoder {
    fn decode(&mut self, input: &mut Bytes) -> Result<Bytes, Refusal> {
        match self.position {
            Position::Beginning | Position::End if input.is_empty() => Ok(Bytes::new()),
            Position::Beginning | Position::Inside => self.decode_some(input),
            Position::End => Err(malformed()),
        }
    }

    fn may_end(&self) -> bool {
        self.position != Position::Inside
    }
}

fn failure(code: Code) -> Refusal {
    match code {
        Code::BROTLI_DECODER_ERROR_FORMAT_WINDOW_BITS => window_too_large(),
        Code::BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MODES
        | Code::BROTLI_DECODER_ERROR_ALLOC_TREE_GROUPS
        | Code::BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MAP
        | Code::BROTLI_DECODER_ERROR_ALLOC_RING_BUFFER_1
        | Code::BROTLI_DECODER_ERROR_ALLOC_RING_BUFFER_2
        | Code::BROTLI_DECODER_ERROR_ALLOC_BLOCK_TYPE_TREES => no_memory(),
        _ => malformed(),
    }
}

/// Allocates memory as far as the budget permits.
struct BudgetAllocator(BufferBudget);

/// Memory of the decoder, with its reservation.
struct ReservedSlice<T> {
    items: Box<[T]>,
    _reservation: Option<Reservation>,
}

impl<T: Clone + Default> Allocator<T> for BudgetAllocator {
    type AllocatedMemory = ReservedSlice<T>;

    /// Returns an empty slice when the budget is exhausted. The decoder then fails with an error for the allocation.
    fn alloc_cell(&mut self, len: usize) -> ReservedSlice<T> {
        let mut reservation = self.0.empty_reservation();
        match reservation.grow(len.saturating_mul(size_of::<T>())) {
            Ok(()) => ReservedSlice {
                items: vec![T::default(); len].into_boxed_slice(),
                _reservation: Some(reservation),
            },
            Err(_) => ReservedSlice::default(),
        }
    }

    fn free_cell(&mut self, slice: ReservedSlice<T>) {
        drop(slice);
    }
}

impl<T> Default for ReservedSlice<T> {
    fn default() -> Self {
        Self {
            items: Box::default(),
            _reservation: None,
        }
    }
}

impl<T> SliceWrapper<T> for ReservedSlice<T> {
    fn slice(&self) -> &[T] {
        &self.items
    }
}

impl<T> SliceWrapperMut<T> for ReservedSlice<T> {
    fn slice_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}
