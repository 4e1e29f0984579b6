#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use super::*;

fn marker(state: MarkerState) -> Marker {
    let checkpoint = Checkpoint {
        id: StoreId::parse("30313233343536373839616263646566").unwrap(),
        generation: 42,
        entries: 97,
    };
    let sum = FileSum {
        length: 8_388_608,
        crc: 0x00AB_CDEF,
    };
    let preview = [
        (vec![1], None),
        (vec![2], Some(vec![])),
        (vec![3, 4], Some(vec![0xFF])),
    ];
    Marker {
        checkpoint,
        state,
        files: FileSums::from([("conf".to_owned(), sum), ("db".to_owned(), sum)]),
        preview: preview.into(),
    }
}

fn states() -> [MarkerState; 4] {
    [
        MarkerState::Creating,
        MarkerState::Opening,
        MarkerState::Open,
        MarkerState::Closed,
    ]
}

#[test]
fn a_written_marker_is_read_back_and_replaces_the_previous_one() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Marker::read(dir.path()).unwrap(), None);
    for state in states() {
        marker(state).write(dir.path()).unwrap();
        assert_eq!(Marker::read(dir.path()).unwrap(), Some(marker(state)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_marker_with_any_flipped_bit_or_any_missing_part_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for state in states() {
        let bytes = marker(state).to_string().into_bytes();
        let flipped = (0..bytes.len() * 8).map(|bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let truncated = (0..bytes.len()).map(|length| bytes[..length].to_vec());
        for damaged in flipped.chain(truncated) {
            fs::write(dir.path().join(MARKER), &damaged).unwrap();
            let refused = Marker::read(dir.path());
            assert!(
                matches!(
                    refused,
                    Err(StoreOpenError::DamagedMarker(_) | StoreOpenError::UnknownFormat { .. })
                ),
                "{refused:?} for {:?}",
                String::from_utf8_lossy(&damaged)
            );
        }
    }
}

#[test]
fn a_marker_of_another_format_is_refused_with_the_number_of_that_format() {
    let dir = tempfile::tempdir().unwrap();
    for other in [FORMAT - 1, FORMAT + 1] {
        fs::write(dir.path().join(MARKER), format!("{TITLE}{other}\nwhatever\n")).unwrap();
        let refused = Marker::read(dir.path());
        assert!(
            matches!(refused, Err(StoreOpenError::UnknownFormat { found, .. }) if found == other),
            "{refused:?}"
        );
    }
}
