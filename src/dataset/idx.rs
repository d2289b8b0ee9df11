//! The IDX format: the files of MNIST and its relatives, optionally gzipped.
//!
//! Two zero bytes, a type, a rank, `rank` big-endian u32 dimensions, then the items in C order.

use std::io::{BufReader, Read, Seek};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::array::{Integers, PixelArray};
use super::error::{DatasetError, Fault};
use super::file;

/// The item types that can be pixels or labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    U8,
    I8,
    I16,
    I32,
}

impl Item {
    fn from_code(code: u8) -> Option<Item> {
        match code {
            0x08 => Some(Item::U8),
            0x09 => Some(Item::I8),
            0x0b => Some(Item::I16),
            0x0c => Some(Item::I32),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Item::U8 | Item::I8 => 1,
            Item::I16 => 2,
            Item::I32 => 4,
        }
    }
}

#[derive(Debug)]
struct Idx {
    item: Item,
    dims: Vec<u64>,
    bytes: Vec<u8>,
}

/// The pixels of an images file.
pub(super) fn read_images(path: &Path) -> Result<PixelArray, DatasetError> {
    read(path).and_then(|idx| pixels(idx).map_err(|fault| fault.in_file(path)))
}

/// The labels of a labels file.
pub(super) fn read_labels(path: &Path) -> Result<Vec<u32>, DatasetError> {
    read(path).and_then(|idx| labels(&idx).map_err(|fault| fault.in_file(path)))
}

fn pixels(idx: Idx) -> Result<PixelArray, Fault> {
    if idx.item != Item::U8 {
        return Err(Fault::new("byte 2", format!("expected u8 pixels, found {:?}", idx.item)));
    }
    PixelArray::new(idx.bytes, &idx.dims)
}

fn labels(idx: &Idx) -> Result<Vec<u32>, Fault> {
    if idx.dims.len() != 1 {
        let problem = format!("expected labels of rank 1, found rank {}", idx.dims.len());
        return Err(Fault::new("byte 3", problem));
    }
    Integers { item_bytes: idx.item.bytes(), signed: idx.item != Item::U8, big_endian: true }.labels(&idx.bytes)
}

fn read(path: &Path) -> Result<Idx, DatasetError> {
    let (file, length) = file::open(path)?;
    let idx = || -> Result<Idx, Fault> {
        let mut reader = BufReader::new(file);
        let mut magic = Vec::new();
        reader.by_ref().take(2).read_to_end(&mut magic)?;
        reader.rewind()?;
        if magic == [0x1f, 0x8b] {
            parse(MultiGzDecoder::new(reader), file::inflated_limit(length))
        } else {
            parse(reader, length)
        }
    };
    idx().map_err(|fault| fault.in_file(path))
}

/// `limit` is the most bytes that the reader can give.
fn parse(mut reader: impl Read, limit: u64) -> Result<Idx, Fault> {
    let mut header = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut header)?;
    let &[0, 0, code, rank] = header.as_slice() else {
        let problem = format!("expected the IDX magic (0, 0, a type, a rank) or a gzip file of it, found {header:?}");
        return Err(Fault::new("byte 0", problem));
    };
    let Some(item) = Item::from_code(code) else {
        let problem = format!("expected an item type of 8, 9, 11 or 12, found {code}");
        return Err(Fault::new("byte 2", problem));
    };
    if !(1..=4).contains(&rank) {
        let problem = format!("expected a rank from 1 to 4, found {rank}");
        return Err(Fault::new("byte 3", problem));
    }
    let mut sides = Vec::new();
    reader.by_ref().take(4 * u64::from(rank)).read_to_end(&mut sides)?;
    if sides.len() < 4 * usize::from(rank) {
        return Err(Fault::new("byte 4", format!("expected {rank} dimensions, the file ends")));
    }
    let dims: Vec<u64> =
        sides.chunks_exact(4).map(|side| side.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))).collect();
    let bytes = file::read_array(&mut reader, &dims, item.bytes() as u64, limit)?;
    Ok(Idx { item, dims, bytes })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn idx(code: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, code, dims.len() as u8];
        bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
        bytes.extend_from_slice(data);
        bytes
    }

    fn parse_bytes(bytes: &[u8]) -> Result<Idx, Fault> {
        parse(bytes, bytes.len() as u64)
    }

    fn message(fault: Fault) -> String {
        fault.in_file(Path::new("a.idx")).to_string()
    }

    #[test]
    fn pixels_keep_their_order() {
        let bytes = idx(8, &[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let array = pixels(parse_bytes(&bytes).unwrap()).unwrap();
        assert_eq!((array.count, array.height, array.width, array.channels), (2, 1, 3, 1));
        assert_eq!(*array.sample(1).unwrap(), [4, 5, 6]);
    }

    #[test]
    fn labels_of_every_integer_type() {
        for (code, data) in [(8, &[0, 7][..]), (9, &[0, 7]), (11, &[0, 0, 0, 7]), (12, &[0, 0, 0, 0, 0, 0, 0, 7])] {
            let read = parse_bytes(&idx(code, &[2], data)).unwrap();
            assert_eq!(labels(&read).unwrap(), [0, 7]);
        }
    }

    #[test]
    fn gzip_is_seen_by_its_magic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&idx(8, &[3], &[2, 1, 0])).unwrap();
        std::fs::write(&path, gzip.finish().unwrap()).unwrap();
        assert_eq!(read_labels(&path).unwrap(), [2, 1, 0]);
    }

    #[test]
    fn a_gzip_that_claims_more_than_deflate_can_hold_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.gz");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&idx(8, &[u32::MAX, 28, 28], &[])).unwrap();
        std::fs::write(&path, gzip.finish().unwrap()).unwrap();
        let error = read_images(&path).unwrap_err().to_string();
        assert!(error.contains("claims [4294967295, 28, 28]"), "{error}");
    }

    #[test]
    fn faults_say_where_and_what() {
        let pixels_of = |bytes: &[u8]| parse_bytes(bytes).and_then(pixels);
        let labels_of = |bytes: &[u8]| parse_bytes(bytes).and_then(|idx| labels(&idx));
        let faults = [
            parse_bytes(b"").unwrap_err(),
            parse_bytes(b"PK\x03\x04").unwrap_err(),
            parse_bytes(&[0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap_err(),
            parse_bytes(&[0, 0, 8, 9]).unwrap_err(),
            parse_bytes(&[0, 0, 8, 2, 0, 0]).unwrap_err(),
            parse_bytes(&idx(8, &[100, 28, 28], &[0; 10])).unwrap_err(),
            parse_bytes(&idx(8, &[u32::MAX; 4], &[])).unwrap_err(),
            parse_bytes(&idx(8, &[4], &[0; 3])).unwrap_err(),
            parse_bytes(&idx(8, &[4], &[0; 5])).unwrap_err(),
            pixels_of(&idx(9, &[1, 1, 1], &[0])).unwrap_err(),
            pixels_of(&idx(8, &[1], &[0])).unwrap_err(),
            labels_of(&idx(8, &[1, 1], &[0])).unwrap_err(),
            labels_of(&idx(9, &[2], &[0, 255])).unwrap_err(),
        ];
        insta::assert_snapshot!(faults.map(message).join("\n"), @r#"
        a.idx: byte 0: expected the IDX magic (0, 0, a type, a rank) or a gzip file of it, found []
        a.idx: byte 0: expected the IDX magic (0, 0, a type, a rank) or a gzip file of it, found [80, 75, 3, 4]
        a.idx: byte 2: expected an item type of 8, 9, 11 or 12, found 13
        a.idx: byte 3: expected a rank from 1 to 4, found 9
        a.idx: byte 4: expected 2 dimensions, the file ends
        a.idx: header: claims [100, 28, 28] items of 1 bytes, the file holds at most 26 bytes
        a.idx: header: claims [4294967295, 4294967295, 4294967295, 4294967295] items of 1 bytes, the file holds at most 20 bytes
        a.idx: data: header claims 4 bytes ([4] items of 1 bytes), found 3
        a.idx: data: header claims 4 bytes ([4] items of 1 bytes), found more
        a.idx: byte 2: expected u8 pixels, found I8
        a.idx: shape: expected [N, H, W] or [N, H, W, C], found [1]
        a.idx: byte 3: expected labels of rank 1, found rank 2
        a.idx: label 1: expected a label from 0 to 2147483646, found -1
        "#);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            start in prop::sample::select(vec![vec![], vec![0, 0], vec![0, 0, 8, 3], vec![0, 0, 12, 1]]),
            rest in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..64),
        ) {
            let bytes = [start, rest].concat();
            if let Ok(idx) = parse_bytes(&bytes) {
                let _ = labels(&idx);
                let _ = pixels(idx);
            }
        }

        #[test]
        fn what_is_written_is_read(labels_written in prop::collection::vec(any::<u8>(), 1..50)) {
            let bytes = idx(8, &[labels_written.len() as u32], &labels_written);
            let read = labels(&parse_bytes(&bytes).unwrap()).unwrap();
            prop_assert_eq!(read, labels_written.into_iter().map(u32::from).collect::<Vec<_>>());
        }
    }
}
