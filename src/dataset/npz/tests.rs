use std::io::Write;

use npyz::npz::NpzWriter;

use super::*;

/// What `numpy.savez_compressed(file, x=x, y=y)` of numpy 2.4.6 wrote for
/// `x = numpy.arange(12, dtype=numpy.uint8).reshape(2, 2, 3)` and `y = numpy.array([3, 1])`.
const NUMPY_NPZ: &[u8] = include_bytes!("../../../tests/data/numpy.npz");

fn spec(file: std::path::PathBuf) -> NpzFile {
    NpzFile { file, images: "x".to_owned(), labels: "y".to_owned() }
}

#[test]
fn numpys_own_archive_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.npz");
    std::fs::write(&file, NUMPY_NPZ).unwrap();
    let (pixels, labels) = read(&spec(file)).unwrap();
    assert_eq!((pixels.count, pixels.height, pixels.width, pixels.channels), (2, 2, 3, 1));
    assert_eq!(*pixels.sample(1).unwrap(), [6, 7, 8, 9, 10, 11]);
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
            let sample = pixels.sample(1).unwrap();
            assert_eq!((&*sample, labels.as_slice()), (&[6, 7, 8, 9, 10, 11][..], &[3, 1][..]), "byte {at}");
        }
    }
    for end in 0..NUMPY_NPZ.len() {
        std::fs::write(&file, &NUMPY_NPZ[..end]).unwrap();
        assert!(read(&spec(file.clone())).is_err(), "cut at {end}");
    }
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
