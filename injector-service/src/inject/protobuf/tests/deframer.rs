use bytes::Bytes;

use super::*;

/// Returns the messages of a body that arrives in chunks of this size, and true when the body may end there.
fn deframe(body: &[u8], size: usize) -> Result<(Vec<FramedMessage>, bool), FramingError> {
    let (mut deframer, mut messages) = (MessageDeframer::default(), Vec::new());
    for chunk in body.chunks(size) {
        deframer.push(Bytes::copy_from_slice(chunk));
        while let Some(message) = deframer.next_message()? {
            messages.push(message);
        }
    }
    Ok((messages, deframer.is_between_messages()))
}

#[test]
fn messages_are_found_in_chunks_of_any_size() {
    let body = b"\0\0\0\0\x03abc\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x01z";
    for size in 1..=body.len() {
        let (messages, ended) = deframe(body, size).unwrap();
        let read: Vec<_> = messages
            .iter()
            .map(|message| (message.is_compressed, message.payload()))
            .collect();
        assert_eq!(
            read,
            [(false, &b"abc"[..]), (true, b""), (false, b""), (false, b"z")]
        );
        assert!(ended);
        let frames: Vec<_> = messages.into_iter().map(FramedMessage::into_frame).collect();
        assert_eq!(frames.concat(), body);
    }
}

#[test]
fn empty_chunks_change_nothing() {
    let mut deframer = MessageDeframer::default();
    for chunk in [&b""[..], b"\0\0", b"", b"\0\0\x01", b""] {
        deframer.push(Bytes::from_static(chunk));
        assert_eq!(deframer.next_message(), Ok(None));
    }
    deframer.push(Bytes::from_static(b"a"));
    assert_eq!(deframer.next_message().unwrap().unwrap().payload(), b"a");
    assert_eq!(deframer.next_message(), Ok(None));
    assert!(deframer.is_between_messages());
}

#[test]
fn a_body_that_ends_inside_a_message_is_recognized() {
    let body = b"\0\0\0\0\x02ab\0\0\0\0\x02ab";
    for end in 0..=body.len() {
        let (messages, ended) = deframe(&body[..end], 3).unwrap();
        assert_eq!((messages.len(), ended), (end / 7, end % 7 == 0), "{end}");
    }
}

#[test]
fn a_message_is_refused_by_its_prefix() {
    for (prefix, error) in [
        (b"\x02\0\0\0\0", FramingError::Flag),
        (b"\xff\0\0\0\0", FramingError::Flag),
        (b"\0\0\x40\0\x01", FramingError::TooLarge),
        (b"\x01\xff\xff\xff\xff", FramingError::TooLarge),
    ] {
        for size in 1..=5 {
            assert_eq!(deframe(prefix, size).unwrap_err(), error);
        }
        assert_eq!(
            deframe(&[b"\0\0\0\0\0", &prefix[..]].concat(), 4).unwrap_err(),
            error
        );
    }
    assert_eq!(deframe(b"\0\0\x40\0\0", 5), Ok((vec![], false)));
}

#[test]
fn a_newly_framed_message_is_uncompressed() {
    let framed = FramedMessage::uncompressed(b"abc");
    assert_eq!((framed.is_compressed, framed.payload()), (false, &b"abc"[..]));
    assert_eq!(framed.into_frame(), b"\0\0\0\0\x03abc"[..]);
}
