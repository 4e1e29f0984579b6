//! sled's variable-length integers: one byte for numbers up to 240, and up to nine bytes for larger ones.

/// Takes a number from the front of `bytes`.
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    let (number, rest) = match *first {
        small @ 0..=240 => (u64::from(small), rest),
        high @ 241..=248 => {
            let (low, rest) = rest.split_first()?;
            (240 + 256 * (u64::from(high) - 241) + u64::from(*low), rest)
        }
        249 => {
            let ([high, low], rest) = rest.split_first_chunk()?;
            (2288 + 256 * u64::from(*high) + u64::from(*low), rest)
        }
        length @ 250..=255 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length) - 247)?;
            let mut number = [0; 8];
            number.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            (u64::from_le_bytes(number), rest)
        }
    };
    *bytes = rest;
    Some(number)
}

/// Takes a length-prefixed byte string from the front of `bytes`.
pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}
