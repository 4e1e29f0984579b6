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

/// A live placeholder, and the head that has it or its value in the right place.
struct Head {
    placeholder: Vec<u8>,
    guard: PlaceholderGuard,
    with: fn(&[u8]) -> Vec<u8>,
}

impl Head {
    /// Returns a head with a value in a field, and one with a value as its target.
    fn all(table: &PlaceholderTable) -> [Self; 2] {
        let versions = PossibleVersions::Http1Only;
        let (field, field_guard) = table.insert(&header::AUTHORIZATION, VALUE, versions).unwrap();
        let (target, target_guard) = table.insert_target(VALUE, versions).unwrap();
        [
            Self {
                placeholder: field.as_bytes().to_vec(),
                guard: field_guard,
                with: |value| [b"GET / HTTP/1.1\r\nauthorization: ", value, b"\r\n\r\n"].concat(),
            },
            Self {
                placeholder: target.as_str().as_bytes().to_vec(),
                guard: target_guard,
                with: |value| [b"GET ", value, b" HTTP/1.1\r\n\r\n"].concat(),
            },
        ]
    }

    /// Returns a stream that has copied the head and written a part of it, and its other end.
    async fn write_partly(
        &self,
        table: &PlaceholderTable,
    ) -> (SubstitutingStream<TokioIo<DuplexStream>>, DuplexStream) {
        let (near, far) = duplex(8);
        let mut stream = SubstitutingStream::new(TokioIo::new(near), table.clone(), HttpVersion::Http1);
        let bytes = (self.with)(&self.placeholder);
        let written = std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, &bytes)).await;
        assert_eq!(written.unwrap(), bytes.len());
        assert_eq!(
            stream.pending.capacity(),
            bytes.len() + VALUE.len(),
            "the buffer has grown"
        );
        (stream, far)
    }
}

#[tokio::test]
async fn a_value_is_wiped_once_it_is_written() {
    let table = PlaceholderTable::default();
    for head in Head::all(&table) {
        let (mut stream, mut far) = head.write_partly(&table).await;
        let mut memory = BufferMemory::of(&stream.pending);
        assert!(memory.contains_value(), "the test cannot read the buffer");
        let flushed = std::future::poll_fn(|context| Pin::new(&mut stream).poll_flush(context));
        let mut arrived = vec![0; (head.with)(VALUE).len()];
        let (flushed, read) = tokio::join!(flushed, far.read_exact(&mut arrived));
        flushed.unwrap();
        read.unwrap();
        assert_eq!(arrived, (head.with)(VALUE));
        assert!(!memory.contains_value());
        let mut memory = BufferMemory::of(&head.guard.substitution.plain.value);
        assert!(memory.contains_value());
        drop(head);
        assert!(!memory.contains_value());
    }
}

#[tokio::test]
async fn a_value_is_wiped_when_its_connection_ends_before_the_write() {
    let table = PlaceholderTable::default();
    for head in Head::all(&table) {
        let (stream, _far) = head.write_partly(&table).await;
        let mut memory = BufferMemory::of(&stream.pending);
        assert!(memory.contains_value(), "the test cannot read the buffer");
        drop(stream);
        assert!(!memory.contains_value());
    }
}
