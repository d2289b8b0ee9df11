//! The values of a flat column, page by page.
//!
//! The library reads and inflates pages. What is in them is decoded here, for its own decoders take some lengths on trust.

use bytes::Bytes;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};

use crate::dataset::error::Fault;

/// A column that is read from its start to its end.
pub(super) struct Values {
    pages: Box<dyn PageReader>,
    kind: Kind,
    /// The level of rows that are not null; 0 where none may be.
    level: u16,
    dictionary: Vec<Bytes>,
    page: Option<PageValues>,
}

/// How a value lies in a page.
#[derive(Clone, Copy)]
enum Kind {
    /// After its length in 4 bytes.
    Bytes,
    /// So many bytes.
    Fixed(usize),
}

impl Values {
    /// `None` for a type whose values are neither bytes nor integers of 4 or 8 bytes.
    pub(super) fn new(pages: Box<dyn PageReader>, of: Type, level: u16) -> Option<Values> {
        let kind = match of {
            Type::BYTE_ARRAY => Kind::Bytes,
            Type::INT32 => Kind::Fixed(4),
            Type::INT64 => Kind::Fixed(8),
            _ => return None,
        };
        Some(Values { pages, kind, level, dictionary: Vec::new(), page: None })
    }

    /// Leaves out so many rows; pages that hold no others are not read.
    pub(super) fn skip(&mut self, mut rows: usize) -> Result<(), Fault> {
        while self.page.is_none() {
            let Some(next) = self.pages.peek_next_page()? else { break };
            match next.num_rows.or(next.num_levels).filter(|_| !next.is_dict) {
                Some(held) if held <= rows => {
                    self.pages.skip_next_page()?;
                    rows -= held;
                }
                Some(_) => break,
                // A dictionary.
                None => self.read_page()?,
            }
        }
        (0..rows).try_for_each(|_| self.next().map(drop))
    }

    /// The next row, `Some(None)` when it is null; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Option<Bytes>>, Fault> {
        loop {
            if let Some(page) = &mut self.page {
                if let Some(value) = page.next(self.kind, self.level, &self.dictionary)? {
                    return Ok(Some(value));
                }
                self.page = None;
            }
            if self.pages.peek_next_page()?.is_none() {
                return Ok(None);
            }
            self.read_page()?;
        }
    }

    fn read_page(&mut self) -> Result<(), Fault> {
        let (buffer, rows, encoding, levels) = match self.pages.get_next_page()? {
            None => return Ok(()),
            Some(Page::DictionaryPage { buf, .. }) => {
                self.dictionary.clear();
                let mut rest = buf;
                while !rest.is_empty() {
                    self.dictionary.push(self.kind.take(&mut rest)?);
                }
                return Ok(());
            }
            Some(Page::DataPage { buf, num_values, encoding, def_level_encoding, .. }) => {
                let mut rest = buf;
                let levels = match (self.level, def_level_encoding) {
                    (0, _) => None,
                    (_, Encoding::RLE) => Some(Kind::Bytes.take(&mut rest)?),
                    (_, other) => return Err(unknown(other)),
                };
                (rest, num_values, encoding, levels)
            }
            Some(Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. }) => {
                let mut rest = buf;
                take(&mut rest, rep_levels_byte_len as usize)?;
                let levels = take(&mut rest, def_levels_byte_len as usize)?;
                (rest, num_values, encoding, (self.level > 0).then_some(levels))
            }
        };
        let mut rest = buffer;
        let indices = match encoding {
            Encoding::PLAIN => None,
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                // A page of nulls alone may have no width.
                let width = if rest.is_empty() { 0 } else { take(&mut rest, 1)?[0] };
                Some(Hybrid::new(rest.clone(), width)?)
            }
            other => return Err(unknown(other)),
        };
        let width = u16::BITS - self.level.leading_zeros();
        let levels = levels.map(|levels| Hybrid::new(levels, width as u8)).transpose()?;
        self.page = Some(PageValues { rows, levels, indices, rest });
        Ok(())
    }
}

fn unknown(encoding: Encoding) -> Fault {
    Fault::new("encoding", format!("expected PLAIN, RLE or a dictionary, found {encoding}"))
}

/// What is left of a page.
struct PageValues {
    rows: u32,
    /// Which rows are not null.
    levels: Option<Hybrid>,
    /// Places in the dictionary.
    indices: Option<Hybrid>,
    rest: Bytes,
}

impl PageValues {
    fn next(&mut self, kind: Kind, level: u16, dictionary: &[Bytes]) -> Result<Option<Option<Bytes>>, Fault> {
        if self.rows == 0 {
            return Ok(None);
        }
        self.rows -= 1;
        if let Some(levels) = &mut self.levels
            && levels.next()? != u64::from(level)
        {
            return Ok(Some(None));
        }
        let value = match &mut self.indices {
            None => kind.take(&mut self.rest)?,
            Some(indices) => {
                let index = indices.next()? as usize;
                let missing = || {
                    Fault::new("page", format!("value {index} is asked for of a dictionary of {}", dictionary.len()))
                };
                dictionary.get(index).cloned().ok_or_else(missing)?
            }
        };
        Ok(Some(Some(value)))
    }
}

impl Kind {
    fn take(self, rest: &mut Bytes) -> Result<Bytes, Fault> {
        let length = match self {
            Kind::Fixed(length) => length,
            Kind::Bytes => {
                let length = take(rest, 4)?;
                u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize
            }
        };
        take(rest, length)
    }
}

/// The first bytes of what is left.
fn take(rest: &mut Bytes, length: usize) -> Result<Bytes, Fault> {
    if length > rest.len() {
        return Err(Fault::new("page", format!("expected {length} bytes, found {}", rest.len())));
    }
    Ok(rest.split_to(length))
}

/// Integers in Parquet's hybrid of run lengths and packed bits.
struct Hybrid {
    rest: Bytes,
    /// Bits of an integer, at most 32.
    width: u8,
    run: Run,
}

enum Run {
    Repeated {
        value: u64,
        left: u64,
    },
    /// Integers of `width` bits, the lowest bits first.
    Packed {
        bytes: Bytes,
        bit: usize,
    },
}

impl Hybrid {
    fn new(rest: Bytes, width: u8) -> Result<Hybrid, Fault> {
        if width > 32 {
            return Err(Fault::new("page", format!("expected integers of at most 32 bits, found {width}")));
        }
        Ok(Hybrid { rest, width, run: Run::Repeated { value: 0, left: 0 } })
    }

    fn next(&mut self) -> Result<u64, Fault> {
        let width = usize::from(self.width);
        loop {
            match &mut self.run {
                Run::Repeated { value, left } if *left > 0 => {
                    *left -= 1;
                    return Ok(*value);
                }
                Run::Packed { bytes, bit } if *bit + width <= 8 * bytes.len() && width > 0 => {
                    let at = |i: usize| u64::from(bytes[i / 8] >> (i % 8) & 1);
                    let value = (0..width).fold(0, |value, i| value | at(*bit + i) << i);
                    *bit += width;
                    return Ok(value);
                }
                _ => self.run = self.next_run()?,
            }
        }
    }

    fn next_run(&mut self) -> Result<Run, Fault> {
        let mut header = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = take(&mut self.rest, 1)?[0];
            header |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let (count, width) = (header >> 1, usize::from(self.width));
        if header & 1 == 0 {
            let bytes = take(&mut self.rest, width.div_ceil(8))?;
            let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            return Ok(Run::Repeated { value, left: count });
        }
        if width == 0 {
            return Ok(Run::Repeated { value: 0, left: count.saturating_mul(8) });
        }
        // The last group may end with its last integer.
        let length = (count as usize).saturating_mul(width).min(self.rest.len());
        Ok(Run::Packed { bytes: take(&mut self.rest, length)?, bit: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_packed_bits_are_those_of_the_formats_description() {
        // The description's example: 0 to 7 in 3 bits are 88 C6 FA; before them five times 4.
        let mut hybrid = Hybrid::new(Bytes::from_static(&[10, 4, 3, 0x88, 0xc6, 0xfa]), 3).unwrap();
        let found: Vec<_> = (0..13).map(|_| hybrid.next().unwrap()).collect();
        assert_eq!(found, [4, 4, 4, 4, 4, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(hybrid.next().is_err());
    }
}
