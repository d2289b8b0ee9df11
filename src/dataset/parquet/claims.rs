//! What a file claims, held against it before the library takes it on trust: the tree of its schema, the sizes of pages.

use std::io::{self, Read};

use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;

use super::At;
use crate::dataset::{error::Fault, file};

/// Snappy makes at most 64 bytes of three.
const MAX_SNAPPY_INFLATION: i64 = 22;

/// Zstandard makes at most a block of 128 KiB of four bytes.
const MAX_ZSTD_INFLATION: i64 = 32_768;

/// Most bytes that a compressed page may hold: as many as one file.
const MAX_PAGE_BYTES: i64 = file::MAX_FILE_BYTES as i64;

/// Deepest nesting in a header. Those that are written have three.
const MAX_DEPTH: u32 = 8;

/// Deepest nesting of a schema.
const MAX_SCHEMA_DEPTH: usize = 32;

/// Fails where the footer's schema claims more fields than it has, for which the library would take room, or is so deep
/// that its recursion would exhaust the stack. What else is wrong with a footer, the library says.
pub(super) fn check_schema(file: &At) -> Result<(), Fault> {
    let Some(end) = file.length.checked_sub(8) else { return Ok(()) };
    let tail = file.get_bytes(end, 4)?;
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let Some(start) = end.checked_sub(length.into()) else { return Ok(()) };
    let mut footer = Compact { reader: file.get_read(start)?, read: 0 };
    let wrong = |problem: String| Fault::new("schema", problem);
    let children = footer.children().map_err(|error| wrong(format!("expected a footer: {error}")))?;
    // How many children of each group above are still to come.
    let mut open: Vec<i64> = Vec::new();
    for &count in &children {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if count < 0 || count > children.len() as i64 {
            return Err(wrong(format!("a group claims {count} fields of {}", children.len())));
        }
        if count > 0 {
            open.push(count);
        }
        if open.len() > MAX_SCHEMA_DEPTH {
            return Err(wrong(format!("expected at most {MAX_SCHEMA_DEPTH} groups in each other")));
        }
    }
    Ok(())
}

/// Fails where a column's pages do not follow each other up to its end, or claim to hold more than they can.
pub(super) fn check_pages(file: &At, column: &ColumnChunkMetaData) -> Result<(), Fault> {
    let place = |at: u64| format!("column `{}`, byte {at}", column.column_path().string());
    let inflation = match column.compression() {
        Compression::UNCOMPRESSED => 1,
        Compression::SNAPPY => MAX_SNAPPY_INFLATION,
        Compression::ZSTD(_) => MAX_ZSTD_INFLATION,
        // The library's decoder of gzip takes no account of the size that a page claims: a small file could fill the
        // memory.
        other => {
            // Without its level, which says nothing.
            let name = other.to_string();
            let name = name.split('(').next().unwrap_or_default();
            let problem = format!(
                "expected no compression, SNAPPY or ZSTD, found {name}: write the file anew with \
                 pyarrow.parquet.write_table(pyarrow.parquet.read_table(FILE), FILE)"
            );
            return Err(Fault::new(format!("column `{}`", column.column_path().string()), problem));
        }
    };
    let data = column.data_page_offset();
    let start = column.dictionary_page_offset().unwrap_or(data);
    let inside = |at: i64| u64::try_from(at).ok().filter(|&at| at <= file.length);
    // A size below 0 would end before the start, and no page be looked at.
    let size = Some(column.compressed_size()).filter(|size| *size >= 0);
    let end = size.and_then(|size| start.checked_add(size)).and_then(inside);
    let (Some(mut at), Some(end)) = (inside(start), end) else {
        let problem = format!("claims {} bytes from byte {start}, the file ends before", column.compressed_size());
        return Err(Fault::new(format!("column `{}`", column.column_path().string()), problem));
    };
    while at < end {
        let mut header = Compact { reader: file.get_read(at)?, read: 0 };
        let page = header.page().map_err(|error| Fault::new(place(at), format!("expected a page: {error}")))?;
        let Some(Page { whole, stored }) = page else {
            return Err(Fault::new(place(at), "expected a page of values with its sizes"));
        };
        let most = stored.saturating_mul(inflation).saturating_add(64);
        let most = if inflation > 1 { most.min(MAX_PAGE_BYTES) } else { most };
        if whole < 0 || stored < 0 || whole > most {
            let problem = format!("a page claims {whole} bytes in {stored}");
            return Err(Fault::new(place(at), problem));
        }
        let next = at.saturating_add(header.read).saturating_add(stored as u64);
        if next > end {
            return Err(Fault::new(place(at), format!("a page of {stored} bytes ends after its column")));
        }
        at = next;
    }
    Ok(())
}

/// The size of a page, and its size as it is stored.
struct Page {
    whole: i64,
    stored: i64,
}

/// Thrift's compact protocol, which footers and page headers are written in.
struct Compact<R> {
    reader: R,
    /// Bytes so far.
    read: u64,
}

impl<R: Read> Compact<R> {
    /// The header of a page; `None` where a page of values lacks what it must have.
    fn page(&mut self) -> io::Result<Option<Page>> {
        // Of the fields 1 to 3: the type, the size, and the size as it is stored.
        let mut integers = [None; 3];
        let (mut field, mut parts) = (0, 0u32);
        while let Some(kind) = self.field(&mut field)? {
            match (field, kind) {
                (1..=3, 5) => integers[(field - 1) as usize] = Some(self.integer()?),
                _ => self.skip(kind, MAX_DEPTH)?,
            }
            if let (5..=8, 12) = (field, kind) {
                parts |= 1 << field;
            }
        }
        let [Some(of), Some(whole), Some(stored)] = integers else { return Ok(None) };
        // Each type of page has a part of its own: data, dictionary, data of the second version.
        let part = match of {
            0 => 5,
            2 => 7,
            3 => 8,
            _ => return Ok(None),
        };
        Ok((parts & 1 << part != 0).then_some(Page { whole, stored }))
    }

    /// How many children each element of a footer's schema has.
    fn children(&mut self) -> io::Result<Vec<i64>> {
        let (mut children, mut field) = (Vec::new(), 0);
        while let Some(kind) = self.field(&mut field)? {
            if (field, kind) != (2, 9) {
                self.skip(kind, MAX_DEPTH)?;
                continue;
            }
            let (_, count) = self.list()?;
            for _ in 0..count {
                let (mut own, mut field) = (0, 0);
                while let Some(kind) = self.field(&mut field)? {
                    match (field, kind) {
                        (5, 5) => own = self.integer()?,
                        _ => self.skip(kind, MAX_DEPTH)?,
                    }
                }
                children.push(own);
            }
            // The schema comes before all that a large file has much of.
            break;
        }
        Ok(children)
    }

    /// The type of a list's elements, and their number.
    fn list(&mut self) -> io::Result<(u8, u64)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        Ok((byte & 15, count))
    }

    /// The type of the next field, whose number is put in `field`; none after the last.
    fn field(&mut self, field: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *field = match byte >> 4 {
            0 => self.integer()?,
            delta => field.saturating_add(i64::from(delta)),
        };
        Ok(Some(byte & 15))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> io::Result<()> {
        if depth == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is nested too deep"));
        }
        match kind {
            1 | 2 => Ok(()),
            3 => self.bytes(1),
            4..=6 => self.varint().map(drop),
            7 => self.bytes(8),
            8 => {
                let length = self.varint()?;
                self.bytes(length)
            }
            9 | 10 => {
                let (of, count) = self.list()?;
                for _ in 0..count {
                    // In a list a truth value has a byte of its own.
                    let kind = if matches!(of, 1 | 2) { 3 } else { of };
                    self.skip(kind, depth - 1)?;
                }
                Ok(())
            }
            12 => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth - 1)?;
                }
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{kind} is no type of its fields"))),
        }
    }

    fn integer(&mut self) -> io::Result<i64> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "an integer has no end"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn bytes(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.reader.by_ref().take(count), &mut io::sink())?;
        self.read += skipped;
        if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    /// A file with this footer and nothing else.
    fn file(footer: &[u8]) -> At {
        let mut file: File = tempfile::tempfile().unwrap();
        let bytes = [footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat();
        file.write_all(&bytes).unwrap();
        At { file: Arc::new(file), length: bytes.len() as u64 }
    }

    /// A footer whose schema has elements of so many children.
    fn footer(children: &[u8]) -> Vec<u8> {
        // Field 1: version 2; field 2: a list of structs, each with the field 5.
        let mut bytes = vec![0x15, 4, 0x19, 0xfc, (children.len() as u8 & 0x7f) | 0x80, (children.len() >> 7) as u8];
        children.iter().for_each(|&count| bytes.extend([0x55, 2 * count, 0]));
        bytes.push(0);
        bytes
    }

    #[test]
    fn schemas_that_would_exhaust_memory_or_stack_are_refused() {
        let check =
            |footer: &[u8]| check_schema(&file(footer)).map_err(|fault| fault.in_file("a".as_ref()).to_string());
        assert_eq!(check(&footer(&[2, 1, 0, 0])), Ok(()));
        assert_eq!(check(&footer(&[40, 0])).unwrap_err(), "a: schema: a group claims 40 fields of 2");
        assert_eq!(check(&footer(&[1; 33])).unwrap_err(), "a: schema: expected at most 32 groups in each other");
        assert_eq!(check(&footer(&[1; 32])), Ok(()));
        assert!(check(&[0x15, 4, 0x19, 0xfc]).unwrap_err().starts_with("a: schema: expected a footer: "));
    }
}
