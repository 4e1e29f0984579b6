//! Wiping of plaintext that functions of libraries leave on the stack.

use zeroize::zeroize_stack;

/// Number of bytes that are wiped, more than the functions that [`wiped`] runs use.
const BYTES: usize = 4096;

/// Runs `work` and wipes the part of the stack that it used.
///
/// Some functions of libraries leave plaintext in a local variable: `aes-gcm` does with the last block of a message whose
/// length is not a multiple of 16, when it decrypts and, as the compiler may optimize it, when it encrypts. The plaintext
/// would stay on the stack until its thread calls something as deep.
pub fn wiped<T>(work: impl FnOnce() -> T) -> T {
    // Neither function is inlined, so their stack frames begin at the same address.
    let result = run(work);
    zeroize_stack::<BYTES>();
    result
}

#[inline(never)]
fn run<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{array, fs::File, hint::black_box, os::unix::fs::FileExt as _};

    use super::*;

    /// Returns byte `at` of a marker. The test holds the marker nowhere in one piece, so that it cannot find its own copy.
    fn marker(at: usize) -> u8 {
        0xa5 ^ u8::try_from(at).unwrap()
    }

    /// Leaves the marker deep enough on the stack that the next calls do not overwrite it.
    #[inline(never)]
    fn leave() {
        let above = [1_u8; 768];
        leave_deeper();
        black_box(&above);
    }

    #[inline(never)]
    fn leave_deeper() {
        black_box(array::from_fn::<u8, 16, _>(marker));
    }

    /// Reads the unused part of the stack, as deep as the tested function reached.
    pub(crate) struct Unused {
        memory: File,
        bytes: Vec<u8>,
    }

    impl Unused {
        pub(crate) fn new() -> Self {
            Self {
                memory: File::open("/proc/self/mem").unwrap(),
                bytes: vec![0; 16 * 1024],
            }
        }

        /// Returns true when the unused stack contains the bytes `is(0)` to `is(count - 1)` in sequence.
        #[inline(never)]
        pub(crate) fn has(&mut self, count: usize, is: impl Fn(usize) -> u8) -> bool {
            let here = 0_u8;
            let here = u64::try_from((&raw const here).addr()).unwrap();
            let length = u64::try_from(self.bytes.len()).unwrap();
            self.memory.read_exact_at(&mut self.bytes, here - length).unwrap();
            self.bytes
                .windows(count)
                .any(|bytes| bytes.iter().enumerate().all(|(at, byte)| *byte == is(at)))
        }
    }

    #[test]
    fn bytes_left_on_the_stack_are_wiped() {
        let mut unused = Unused::new();
        leave();
        assert!(unused.has(16, marker), "the test sees nothing");
        wiped(leave);
        assert!(!unused.has(16, marker));
    }
}
