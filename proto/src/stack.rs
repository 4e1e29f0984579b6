//! What functions leave behind on the stack.

use zeroize::Zeroize as _;

/// Words that are wiped: more than is used by what is run here.
const WORDS: usize = 512;

/// Runs `doing`, and wipes what it has left on the stack.
///
/// For functions of libraries that keep plaintext in a variable and do not wipe it: AES-GCM does with the last block of a
/// message, when it is not a whole one. There it stays for as long as nothing as deep as that is called by its thread.
pub fn wiped<T>(doing: impl FnOnce() -> T) -> T {
    let done = run(doing);
    wipe();
    done
}

// Both are called by the same function, so what the second wipes begins where that of the first began.

#[inline(never)]
fn run<T>(doing: impl FnOnce() -> T) -> T {
    doing()
}

#[inline(never)]
fn wipe() {
    [0_u64; WORDS].zeroize();
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{array, fs::File, hint::black_box, os::unix::fs::FileExt as _};

    use super::*;

    /// Byte `at` of what is left. Whoever looks for it has it nowhere in one piece.
    fn marker(at: usize) -> u8 {
        0xa5 ^ u8::try_from(at).unwrap()
    }

    /// Leaves the marker where it is not overwritten at once by what is called next.
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

    /// The part of the stack that is not in use, as far as whoever is tested got.
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

        /// Whether bytes are left in it one behind the other: so many, each of them as `is` says.
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
    fn what_is_left_on_the_stack_is_wiped() {
        let mut unused = Unused::new();
        leave();
        assert!(unused.has(16, marker), "the test sees nothing");
        wiped(leave);
        assert!(!unused.has(16, marker));
    }
}
