//! The safetensors format: pixels or other numbers, and integer labels, as tensors of one file.

use std::fs::File;
use std::io::Read;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::array::{Integers, PixelArray};
use super::error::{DatasetError, Fault};
use super::file;
use super::numbers::{InputArrays, NumberArray, Numbers};
use super::spec::{SafetensorsFile, SafetensorsInputs};

/// Longest header that is read. One of two tensors has some hundred bytes.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Pixels, which stay in the file, and labels; the path is already resolved.
pub(super) fn read(spec: &SafetensorsFile) -> Result<(PixelArray, Vec<u32>), DatasetError> {
    let (mut opened, length) = file::open(&spec.file)?;
    let mut arrays = || -> Result<_, Fault> {
        let (header, start) = read_header(&mut opened, length)?;
        let images = Tensor::find(&header, &spec.images, start, length)?;
        let labels = Tensor::find(&header, &spec.labels, start, length)?;
        if images.info.dtype != Dtype::U8 {
            return Err(images.unlike("U8"));
        }
        let labels = labels.labels(&opened)?;
        let dims: Vec<u64> = images.info.shape.iter().map(|&dim| dim as u64).collect();
        let images_in = opened.try_clone()?;
        let images = PixelArray::in_file(images_in, &spec.file, images.start, &dims);
        Ok((images.map_err(|fault| in_tensor(fault, &spec.images))?, labels))
    };
    arrays().map_err(|fault| fault.in_file(&spec.file))
}

/// What each input reads, which stays in the file, and labels; the path is already resolved.
pub(super) fn read_inputs(spec: &SafetensorsInputs) -> Result<(InputArrays, Vec<u32>), DatasetError> {
    let (mut opened, length) = file::open(&spec.file)?;
    let mut arrays = || -> Result<_, Fault> {
        let (header, start) = read_header(&mut opened, length)?;
        let input = |(input, name): (&String, &String)| {
            let tensor = Tensor::find(&header, name, start, length)?;
            let numbers = tensor.numbers().ok_or_else(|| tensor.unlike("F32, F64, integers or BOOL"))?;
            let dims: Vec<u64> = tensor.info.shape.iter().map(|&dim| dim as u64).collect();
            let array = NumberArray::in_file(opened.try_clone()?, &spec.file, tensor.start, numbers, &dims);
            Ok((input.clone(), array.map_err(|fault| in_tensor(fault, name))?))
        };
        let inputs = spec.inputs.iter().map(input).collect::<Result<_, Fault>>()?;
        let labels = Tensor::find(&header, &spec.labels, start, length)?.labels(&opened)?;
        Ok((inputs, labels))
    };
    arrays().map_err(|fault| fault.in_file(&spec.file))
}

/// The header, and where the tensors' bytes start.
fn read_header(reader: &mut impl Read, length: u64) -> Result<(Metadata, u64), Fault> {
    let mut size = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut size)?;
    let Ok(size) = <[u8; 8]>::try_from(size) else {
        return Err(Fault::new("byte 0", "expected the length of a header in 8 bytes, the file ends"));
    };
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER_BYTES.min(length.saturating_sub(8)) {
        let problem = format!("expected a header of at most {MAX_HEADER_BYTES} bytes within the file, found {size}");
        return Err(Fault::new("byte 0", problem));
    }
    let mut header = Vec::new();
    reader.by_ref().take(size).read_to_end(&mut header)?;
    match serde_json::from_slice(&header) {
        Ok(header) => Ok((header, 8 + size)),
        Err(error) => Err(Fault::new("header", format!("expected JSON that describes tensors: {error}"))),
    }
}

struct Tensor<'a> {
    name: &'a str,
    info: &'a TensorInfo,
    /// Of its bytes, in the file.
    start: u64,
    bytes: u64,
}

impl<'a> Tensor<'a> {
    fn find(header: &'a Metadata, name: &'a str, start: u64, length: u64) -> Result<Tensor<'a>, Fault> {
        let Some(info) = header.info(name) else {
            let problem = format!("no such tensor, the file holds: {}", header.offset_keys().join(", "));
            return Err(Fault::new(format!("tensor `{name}`"), problem));
        };
        let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let items = info.shape.iter().try_fold(1u64, |items, &dim| items.checked_mul(dim as u64));
        let claimed = items.and_then(|items| items.checked_mul(info.dtype.bitsize() as u64)).map(|bits| bits / 8);
        let bytes = to.saturating_sub(from);
        if claimed != Some(bytes) || start.saturating_add(to) > length {
            let problem = format!(
                "claims {:?} items of {:?} in the bytes {from} to {to}, of {} that there are",
                info.shape,
                info.dtype,
                length - start
            );
            return Err(Fault::new(format!("tensor `{name}`"), problem));
        }
        Ok(Tensor { name, info, start: start + from, bytes })
    }

    fn unlike(&self, expected: &str) -> Fault {
        let problem = format!("expected {expected}, found {:?} {:?}", self.info.dtype, self.info.shape);
        Fault::new(format!("tensor `{}`", self.name), problem)
    }

    fn integers(&self) -> Option<Integers> {
        let integers = |item_bytes, signed| Some(Integers { item_bytes, signed, big_endian: false });
        match self.info.dtype {
            Dtype::U8 => integers(1, false),
            Dtype::I8 => integers(1, true),
            Dtype::U16 => integers(2, false),
            Dtype::I16 => integers(2, true),
            Dtype::U32 => integers(4, false),
            Dtype::I32 => integers(4, true),
            Dtype::U64 => integers(8, false),
            Dtype::I64 => integers(8, true),
            _ => None,
        }
    }

    fn numbers(&self) -> Option<Numbers> {
        match self.info.dtype {
            Dtype::F32 => Some(Numbers::Float32 { big_endian: false }),
            Dtype::F64 => Some(Numbers::Float64 { big_endian: false }),
            Dtype::BOOL => Some(Numbers::Integers(Integers { item_bytes: 1, signed: false, big_endian: false })),
            _ => self.integers().map(Numbers::Integers),
        }
    }

    fn labels(&self, mut file: &File) -> Result<Vec<u32>, Fault> {
        use std::io::{Seek, SeekFrom};

        let flat = matches!(self.info.shape[..], [_] | [_, 1]);
        let Some(integers) = self.integers().filter(|_| flat) else {
            return Err(self.unlike("integers [N] or [N, 1]"));
        };
        file.seek(SeekFrom::Start(self.start))?;
        let bytes = file::read_array(&mut file.take(self.bytes), &[self.bytes], 1, self.bytes);
        bytes.and_then(|bytes| integers.labels(&bytes)).map_err(|fault| in_tensor(fault, self.name))
    }
}

fn in_tensor(fault: Fault, name: &str) -> Fault {
    match fault {
        Fault::Malformed { place, problem } => Fault::new(format!("tensor `{name}`, {place}"), problem),
        fault => fault,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::serialize;
    use safetensors::tensor::TensorView;

    use super::*;

    fn spec(folder: &tempfile::TempDir) -> SafetensorsFile {
        let file = folder.path().join("a.safetensors");
        SafetensorsFile { file, images: "images".to_owned(), labels: "labels".to_owned() }
    }

    fn written(images: (Dtype, Vec<usize>), labels: (Dtype, Vec<usize>, &[u8])) -> Vec<u8> {
        let bytes: Vec<u8> =
            (0..images.1.iter().product::<usize>() * images.0.bitsize() / 8).map(|i| i as u8).collect();
        let tensors = [
            ("images", TensorView::new(images.0, images.1, &bytes).unwrap()),
            ("labels", TensorView::new(labels.0, labels.1, labels.2).unwrap()),
        ];
        serialize(tensors, None).unwrap()
    }

    fn whole() -> Vec<u8> {
        written((Dtype::U8, vec![2, 2, 3]), (Dtype::I16, vec![2], &[3, 0, 1, 0]))
    }

    #[test]
    fn pixels_and_labels_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(&folder);
        std::fs::write(&spec.file, whole()).unwrap();
        let (pixels, labels) = read(&spec).unwrap();
        assert_eq!((pixels.count, pixels.height, pixels.width, pixels.channels), (2, 2, 3, 1));
        assert_eq!(*pixels.sample(1).unwrap(), [6, 7, 8, 9, 10, 11]);
        assert_eq!(labels, [3, 1]);
    }

    #[test]
    fn faults_say_where_and_what() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(&folder);
        let message = |bytes: &[u8], spec: &SafetensorsFile| {
            std::fs::write(&spec.file, bytes).unwrap();
            read(spec).unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "")
        };
        let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
        let errors = [
            message(b"", &spec),
            message(&u64::MAX.to_le_bytes(), &spec),
            message(&header("[1"), &spec),
            message(&whole(), &SafetensorsFile { images: "x".to_owned(), ..spec.clone() }),
            message(&written((Dtype::F32, vec![1, 1, 1]), (Dtype::U8, vec![1], &[0])), &spec),
            message(&written((Dtype::U8, vec![4]), (Dtype::U8, vec![1], &[0])), &spec),
            message(&written((Dtype::U8, vec![1, 1, 1]), (Dtype::F32, vec![1], &[0; 4])), &spec),
            message(&written((Dtype::U8, vec![1, 1, 1]), (Dtype::I8, vec![2], &[0, 255])), &spec),
            message(&whole()[..whole().len() - 1], &spec),
        ];
        insta::assert_snapshot!(errors.join("\n"), @r#"
        a.safetensors: byte 0: expected the length of a header in 8 bytes, the file ends
        a.safetensors: byte 0: expected a header of at most 1048576 bytes within the file, found 18446744073709551615
        a.safetensors: header: expected JSON that describes tensors: invalid type: sequence, expected struct HashMetadata at line 1 column 0
        a.safetensors: tensor `x`: no such tensor, the file holds: labels, images
        a.safetensors: tensor `images`: expected U8, found F32 [1, 1, 1]
        a.safetensors: tensor `images`, shape: expected [N, H, W] or [N, H, W, C], found [4]
        a.safetensors: tensor `labels`: expected integers [N] or [N, 1], found F32 [1]
        a.safetensors: tensor `labels`, label 1: expected a label from 0 to 2147483646, found -1
        a.safetensors: tensor `images`: claims [2, 2, 3] items of U8 in the bytes 4 to 16, of 15 that there are
        "#);
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            end in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let spec = spec(&folder);
            let mut bytes = whole();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(end.index(2 * bytes.len()));
            std::fs::write(&spec.file, bytes).unwrap();
            if let Ok((pixels, _)) = read(&spec) {
                let _ = pixels.sample(pixels.count - 1);
            }
        }
    }
}
