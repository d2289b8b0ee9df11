use std::io::{Cursor, Write};

use npyz::npz::NpzWriter;
use proptest::prelude::*;

use super::*;

/// What `numpy.savez_compressed(file, x=x, y=y)` of numpy 2.4.6 wrote for
/// `x = numpy.arange(12, dtype=numpy.uint8).reshape(2, 2, 3)` and `y = numpy.array([3, 1])`.
const NUMPY_NPZ: &[u8] = include_bytes!("../../../tests/data/numpy.npz");

fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes.extend(data);
    bytes
}

fn parse(bytes: &[u8]) -> Result<Npy, Fault> {
    parse_npy(&mut Cursor::new(bytes), bytes.len() as u64)
}

fn npy_of(descr: &str, shape: &str, data: &[u8]) -> Result<Npy, Fault> {
    parse(&npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), data))
}

fn spec(file: std::path::PathBuf) -> NpzFile {
    NpzFile { file, images: "x".to_owned(), labels: "y".to_owned() }
}

fn message(fault: Fault) -> String {
    fault.in_file("a.npz".as_ref()).to_string()
}

#[test]
fn numpys_own_archive_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.npz");
    std::fs::write(&file, NUMPY_NPZ).unwrap();
    let (pixels, labels) = read(&spec(file)).unwrap();
    assert_eq!((pixels.count, pixels.height, pixels.width, pixels.channels), (2, 2, 3, 1));
    assert_eq!(pixels.sample(1), [6, 7, 8, 9, 10, 11]);
    assert_eq!(labels, [3, 1]);
}

#[test]
fn damage_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.npz");
    for at in 0..NUMPY_NPZ.len() {
        let mut damaged = NUMPY_NPZ.to_vec();
        damaged[at] ^= 0xff;
        std::fs::write(&file, damaged).unwrap();
        // Some bytes carry nothing (dates). All others give an error or, at worst, the same arrays.
        if let Ok((pixels, labels)) = read(&spec(file.clone())) {
            assert_eq!((pixels.sample(1), labels.as_slice()), (&[6, 7, 8, 9, 10, 11][..], &[3, 1][..]), "byte {at}");
        }
    }
    for end in 0..NUMPY_NPZ.len() {
        std::fs::write(&file, &NUMPY_NPZ[..end]).unwrap();
        assert!(read(&spec(file.clone())).is_err(), "cut at {end}");
    }
}

#[test]
fn labels_of_every_integer_dtype() {
    for (descr, data) in [
        ("|u1", &[0, 7][..]),
        ("|i1", &[0, 7]),
        ("<i2", &[0, 0, 7, 0]),
        (">i2", &[0, 0, 0, 7]),
        ("<u4", &[0, 0, 0, 0, 7, 0, 0, 0]),
        (">u4", &[0, 0, 0, 0, 0, 0, 0, 7]),
        ("<i8", &[0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]),
        (">u8", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
    ] {
        assert_eq!(labels(&npy_of(descr, "(2,)", data).unwrap()).unwrap(), [0, 7], "{descr}");
        assert_eq!(labels(&npy_of(descr, "(2, 1)", data).unwrap()).unwrap(), [0, 7], "{descr}");
    }
}

#[test]
fn faults_say_where_and_what() {
    let labels_of = |descr, shape, data: &[u8]| npy_of(descr, shape, data).and_then(|npy| labels(&npy)).unwrap_err();
    let pixels_of = |descr, shape, data: &[u8]| npy_of(descr, shape, data).and_then(pixels).unwrap_err();
    let mut huge_header = b"\x93NUMPY\x02\x00".to_vec();
    huge_header.extend(u32::MAX.to_le_bytes());
    let fortran = npy("{'descr': '|u1', 'fortran_order': True, 'shape': (1, 1, 1), }", &[0]);
    let faults = [
        parse(b"").unwrap_err(),
        parse(b"PK\x03\x04....").unwrap_err(),
        parse(b"\x93NUMPY\x09\x00\x00\x00").unwrap_err(),
        parse(&huge_header).unwrap_err(),
        parse(&npy("[[[[[[[[", &[])).unwrap_err(),
        parse(&npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", &[0; 4])).unwrap_err(),
        npy_of("|u1", "(1000000000000, 28, 28)", &[0]).map(drop).unwrap_err(),
        npy_of("|u1", "(4,)", &[0; 3]).map(drop).unwrap_err(),
        npy_of("|u1", "(4,)", &[0; 5]).map(drop).unwrap_err(),
        pixels_of("<f4", "(1, 1, 1)", &[0; 4]),
        pixels_of("|u1", "(1,)", &[0]),
        pixels_of("|u1", "(0, 1, 1)", &[]),
        parse(&fortran).and_then(pixels).unwrap_err(),
        labels_of("<f4", "(1,)", &[0; 4]),
        labels_of("|u1", "(1, 2)", &[0; 2]),
        labels_of("<i2", "(2,)", &[1, 0, 0xff, 0xff]),
        labels_of("<u8", "(1,)", &[0xff; 8]),
    ];
    insta::assert_snapshot!(faults.map(message).join("\n"), @r#"
    a.npz: header: expected an npy header, the data ends
    a.npz: header: expected the npy magic (147, NUMPY)
    a.npz: header: expected npy version 1, 2 or 3, found 9
    a.npz: header: expected at most 65536 bytes, found 4294967295
    a.npz: header: expected {'descr': a plain dtype, 'fortran_order': a bool, 'shape': a tuple}, found "[[[[[[[["
    a.npz: header: expected {'descr': a plain dtype, 'fortran_order': a bool, 'shape': a tuple}, found "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}"
    a.npz: header: claims [1000000000000, 28, 28] items of 1 bytes, the file holds at most 88 bytes
    a.npz: data: header claims 4 bytes ([4] items of 1 bytes), found 3
    a.npz: data: header claims 4 bytes ([4] items of 1 bytes), found more
    a.npz: dtype: expected dtype uint8 (|u1), found <f4
    a.npz: shape: expected [N, H, W] or [N, H, W, C], found [1]
    a.npz: shape: expected no empty side, found [0, 1, 1]
    a.npz: order: expected C order, found Fortran order: save numpy.ascontiguousarray of it
    a.npz: dtype: expected an integer dtype, found <f4
    a.npz: shape: expected [N] or [N, 1], found [1, 2]
    a.npz: label 1: expected a label from 0 to 2147483646, found -1
    a.npz: label 0: expected a label from 0 to 2147483646, found 18446744073709551615
    "#);
}

#[test]
fn a_missing_array_is_named_with_those_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.npz");
    let mut archive = NpzWriter::create(&file).unwrap();
    for name in ["images.npy", "labels.npy"] {
        archive.zip_writer().start_file(name, Default::default()).unwrap();
        archive.zip_writer().write_all(b"not an array").unwrap();
    }
    drop(archive);
    let error = |images: &str| {
        let spec = NpzFile { images: images.to_owned(), ..spec(file.clone()) };
        read(&spec).unwrap_err().to_string().replace(&file.display().to_string(), "a.npz")
    };
    insta::assert_snapshot!(error("x"), @r#"a.npz: array `x`, name: no such array, the file holds: images, labels"#);
    insta::assert_snapshot!(error("images"), @r#"a.npz: array `images`, header: expected the npy magic (147, NUMPY)"#);
}

proptest! {
    #[test]
    fn arbitrary_headers_never_panic(
        dict in prop_oneof![
            "[ -~]{0,60}",
            r"\{'descr': '[<>|=]?[iuf]?[0-9]{0,20}', 'fortran_order': (True|False), 'shape': \([0-9, -]{0,30}\), ?\}",
        ],
        data in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        if let Ok(npy) = parse(&npy(&dict, &data)) {
            let _ = labels(&npy);
            let _ = pixels(npy);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes);
        let _ = parse(&[b"\x93NUMPY\x01\x00", bytes.as_slice()].concat());
    }
}
