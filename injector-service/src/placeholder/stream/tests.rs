//! Tests that read the process's memory to see when a value is wiped.

use std::{fs::File, os::unix::fs::FileExt as _};

use http::header;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

use super::{
    super::{PlaceholderGuard, PossibleVersions},
    *,
};

const VALUE: &[u8] = b"ghp_0123456789abcdefghijABCDEFGHIJ";

/// The memory of a buffer, which stays readable after the buffer was cleared or freed.
struct BufferMemory {
    memory: File,
    at: u64,
    bytes: Vec<u8>,
}

impl BufferMemory {
    fn of(buffer: &Vec<u8>) -> Self {
        Self {
            memory: File::open("/proc/self/mem").unwrap(),
            at: u64::try_from(buffer.as_ptr().addr()).unwrap(),
            bytes: vec![0; buffer.capacity()],
        }
    }

    fn contains_value(&mut self) -> bool {
        self.memory.read_exact_at(&mut self.bytes, self.at).unwrap();
        // The allocator overwrites the beginning of a freed buffer.
        memmem::find(&self.bytes, &VALUE[16..]).is_some()
    }
}

/// Returns a stream that has copied a head and written a part of it, its other end, the guard of the head's
/// placeholder, and the length of the head with the value.
async fn partly_written_head(
    table: &PlaceholderTable,
) -> (
    SubstitutingStream<TokioIo<DuplexStream>>,
    DuplexStream,
    PlaceholderGuard,
    usize,
) {
    let (near, far) = duplex(8);
    let (placeholder, guard) = table
        .insert(&header::AUTHORIZATION, VALUE, PossibleVersions::Http1Only)
        .unwrap();
    let head = |value: &[u8]| [b"GET / HTTP/1.1\r\nauthorization: ", value, b"\r\n\r\n"].concat();
    let mut stream = SubstitutingStream::new(TokioIo::new(near), table.clone(), HttpVersion::Http1);
    let bytes = head(placeholder.as_bytes());
    let written = std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, &bytes)).await;
    assert_eq!(written.unwrap(), bytes.len());
    assert_eq!(
        stream.pending.capacity(),
        bytes.len() + VALUE.len(),
        "the buffer has grown"
    );
    (stream, far, guard, head(VALUE).len())
}

#[tokio::test]
async fn a_value_is_wiped_once_it_is_written() {
    let (mut stream, mut far, guard, length) = partly_written_head(&PlaceholderTable::default()).await;
    let mut memory = BufferMemory::of(&stream.pending);
    assert!(memory.contains_value(), "the test cannot read the buffer");
    let flushed = std::future::poll_fn(|context| Pin::new(&mut stream).poll_flush(context));
    let mut arrived = vec![0; length];
    let (flushed, read) = tokio::join!(flushed, far.read_exact(&mut arrived));
    flushed.unwrap();
    read.unwrap();
    assert!(memmem::find(&arrived, VALUE).is_some());
    assert!(!memory.contains_value());
    let mut memory = BufferMemory::of(&guard.substitution.plain.value);
    assert!(memory.contains_value());
    drop(guard);
    assert!(!memory.contains_value());
}

#[tokio::test]
async fn a_value_is_wiped_when_its_connection_ends_before_the_write() {
    let (stream, _far, _guard, _) = partly_written_head(&PlaceholderTable::default()).await;
    let mut memory = BufferMemory::of(&stream.pending);
    assert!(memory.contains_value(), "the test cannot read the buffer");
    drop(stream);
    assert!(!memory.contains_value());
}
