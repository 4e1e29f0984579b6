use bytes::Bytes;

use super::*;

/// The messages of a body that comes in chunks of this size, and whether it could end there.
fn cut(body: &[u8], size: usize) -> Result<(Vec<Framed>, bool), FramingError> {
    let (mut frames, mut messages) = (Frames::default(), Vec::new());
    for chunk in body.chunks(size) {
        frames.push(Bytes::copy_from_slice(chunk));
        while let Some(message) = frames.next_frame()? {
            messages.push(message);
        }
    }
    Ok((messages, frames.is_between_messages()))
}

#[test]
fn messages_are_found_wherever_the_chunks_end() {
    let body = b"\0\0\0\0\x03abc\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x01z";
    for size in 1..=body.len() {
        let (messages, ended) = cut(body, size).unwrap();
        let read: Vec<_> = messages
            .iter()
            .map(|message| (message.compressed, message.message()))
            .collect();
        assert_eq!(
            read,
            [(false, &b"abc"[..]), (true, b""), (false, b""), (false, b"z")]
        );
        assert!(ended);
        let frames: Vec<_> = messages.into_iter().map(Framed::into_frame).collect();
        assert_eq!(frames.concat(), body);
    }
}

#[test]
fn empty_chunks_change_nothing() {
    let mut frames = Frames::default();
    for chunk in [&b""[..], b"\0\0", b"", b"\0\0\x01", b""] {
        frames.push(Bytes::from_static(chunk));
        assert_eq!(frames.next_frame(), Ok(None));
    }
    frames.push(Bytes::from_static(b"a"));
    assert_eq!(frames.next_frame().unwrap().unwrap().message(), b"a");
    assert_eq!(frames.next_frame(), Ok(None));
    assert!(frames.is_between_messages());
}

#[test]
fn a_body_that_ends_in_a_message_is_seen() {
    let body = b"\0\0\0\0\x02ab\0\0\0\0\x02ab";
    for end in 0..=body.len() {
        let (messages, ended) = cut(&body[..end], 3).unwrap();
        assert_eq!((messages.len(), ended), (end / 7, end % 7 == 0), "{end}");
    }
}

#[test]
fn what_is_not_taken_is_refused_by_its_head() {
    for (head, error) in [
        (b"\x02\0\0\0\0", FramingError::Flag),
        (b"\xff\0\0\0\0", FramingError::Flag),
        (b"\0\0\x40\0\x01", FramingError::TooLarge),
        (b"\x01\xff\xff\xff\xff", FramingError::TooLarge),
    ] {
        for size in 1..=5 {
            assert_eq!(cut(head, size).unwrap_err(), error);
        }
        assert_eq!(cut(&[b"\0\0\0\0\0", &head[..]].concat(), 4).unwrap_err(), error);
    }
    assert_eq!(cut(b"\0\0\x40\0\0", 5), Ok((vec![], false)));
}

#[test]
fn what_is_framed_anew_is_not_compressed() {
    let framed = Framed::uncompressed(b"abc");
    assert_eq!((framed.compressed, framed.message()), (false, &b"abc"[..]));
    assert_eq!(framed.into_frame(), b"\0\0\0\0\x03abc"[..]);
}
