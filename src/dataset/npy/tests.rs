use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes.extend(data);
    bytes
}

fn parse_bytes(bytes: &[u8]) -> Result<Npy, Fault> {
    super::parse(&mut Cursor::new(bytes), bytes.len() as u64)
}

fn npy_of(descr: &str, shape: &str, data: &[u8]) -> Result<Npy, Fault> {
    parse_bytes(&npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), data))
}

fn message(fault: Fault) -> String {
    fault.in_file("a.npy".as_ref()).to_string()
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
        parse_bytes(b"").unwrap_err(),
        parse_bytes(b"PK\x03\x04....").unwrap_err(),
        parse_bytes(b"\x93NUMPY\x09\x00\x00\x00").unwrap_err(),
        parse_bytes(&huge_header).unwrap_err(),
        parse_bytes(&npy("[[[[[[[[", &[])).unwrap_err(),
        parse_bytes(&npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", &[0; 4])).unwrap_err(),
        npy_of("|u1", "(1000000000000, 28, 28)", &[0]).map(drop).unwrap_err(),
        npy_of("|u1", "(4,)", &[0; 3]).map(drop).unwrap_err(),
        npy_of("|u1", "(4,)", &[0; 5]).map(drop).unwrap_err(),
        pixels_of("<f4", "(1, 1, 1)", &[0; 4]),
        pixels_of("|u1", "(1,)", &[0]),
        pixels_of("|u1", "(0, 1, 1)", &[]),
        parse_bytes(&fortran).and_then(pixels).unwrap_err(),
        labels_of("<f4", "(1,)", &[0; 4]),
        labels_of("|u1", "(1, 2)", &[0; 2]),
        labels_of("<i2", "(2,)", &[1, 0, 0xff, 0xff]),
        labels_of("<u8", "(1,)", &[0xff; 8]),
    ];
    insta::assert_snapshot!(faults.map(message).join("\n"), @r#"
    a.npy: header: expected an npy header, the data ends
    a.npy: header: expected the npy magic (147, NUMPY)
    a.npy: header: expected npy version 1, 2 or 3, found 9
    a.npy: header: expected at most 65536 bytes, found 4294967295
    a.npy: header: expected {'descr': a plain dtype, 'fortran_order': a bool, 'shape': a tuple}, found "[[[[[[[["
    a.npy: header: expected {'descr': a plain dtype, 'fortran_order': a bool, 'shape': a tuple}, found "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}"
    a.npy: header: claims [1000000000000, 28, 28] items of 1 bytes, the file holds at most 88 bytes
    a.npy: data: header claims 4 bytes ([4] items of 1 bytes), found 3
    a.npy: data: header claims 4 bytes ([4] items of 1 bytes), found more
    a.npy: dtype: expected dtype uint8 (|u1), found <f4
    a.npy: shape: expected [N, H, W] or [N, H, W, C], found [1]
    a.npy: shape: expected no empty side, found [0, 1, 1]
    a.npy: order: expected C order, found Fortran order: save numpy.ascontiguousarray of it
    a.npy: dtype: expected an integer dtype, found <f4
    a.npy: shape: expected [N] or [N, 1], found [1, 2]
    a.npy: label 1: expected a label from 0 to 2147483646, found -1
    a.npy: label 0: expected a label from 0 to 2147483646, found 18446744073709551615
    "#);
}

#[test]
fn a_written_header_is_that_of_numpy() {
    // numpy.save of numpy.zeros((3, 4), numpy.float32), but for a space after the last dimension's comma.
    let header = npy_header("<f4", &[3, 4]);
    assert_eq!((header.len(), &header[..10]), (128, b"\x93NUMPY\x01\x00\x76\x00".as_slice()));
    for dims in [&[][..], &[7], &[1, 2, 3, 4], &[usize::MAX; 4]] {
        let read = Header::read(&mut Cursor::new(npy_header("<f4", dims))).unwrap();
        assert_eq!(read.shape, dims.iter().map(|&dim| dim as u64).collect::<Vec<_>>());
    }
}

#[test]
fn pictures_stay_in_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = NpyFiles { images: folder.path().join("x.npy"), labels: folder.path().join("y.npy") };
    let images = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3), }\n";
    std::fs::write(&files.images, npy(images, &(0..12).collect::<Vec<u8>>())).unwrap();
    std::fs::write(&files.labels, npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", &[3, 1])).unwrap();
    let (pixels, labels) = read(&files).unwrap();
    assert_eq!((pixels.count, pixels.height, pixels.width, pixels.channels), (2, 2, 3, 1));
    assert_eq!(*pixels.sample(1).unwrap(), [6, 7, 8, 9, 10, 11]);
    assert_eq!(labels, [3, 1]);
    let mut errors = Vec::new();
    for data in [&[0; 11][..], &[0; 13]] {
        std::fs::write(&files.images, npy(images, data)).unwrap();
        errors.push(read(&files).unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), ""));
    }
    let whole = npy(images, &[0; 12]);
    for end in 0..whole.len() {
        std::fs::write(&files.images, &whole[..end]).unwrap();
        assert!(read(&files).is_err(), "cut at {end}");
    }
    // Cut after it was opened.
    std::fs::write(&files.images, &whole).unwrap();
    let (pixels, _) = read(&files).unwrap();
    std::fs::write(&files.images, &whole[..whole.len() - 6]).unwrap();
    errors.push(pixels.sample(1).unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), ""));
    insta::assert_snapshot!(errors.join("\n"), @r#"
        x.npy: header: claims [2, 2, 3] items of 1 bytes, the file holds at most 11 bytes
        x.npy: data: header claims 12 bytes ([2, 2, 3] items of 1 bytes), found 13
        failed to read x.npy
        "#);
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
        if let Ok(npy) = parse_bytes(&npy(&dict, &data)) {
            let _ = labels(&npy);
            let _ = pixels(npy);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse_bytes(&bytes);
        let _ = parse_bytes(&[b"\x93NUMPY\x01\x00", bytes.as_slice()].concat());
    }
}
