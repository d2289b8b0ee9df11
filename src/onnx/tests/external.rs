//! Data in other files stays within the model's folder.

use std::{fs, path::Path};

use sha2::{Digest, Sha256};

use super::build::*;
use crate::{
    graph::Op,
    onnx::{import, load, proto::*},
};

/// A model whose weights, 4 x 2, and another tensor of the same size, are in other files.
fn model(keys: &[(&str, &str)]) -> Build {
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    let mut build = Build::new(13, &[4]).node("MatMul", &["x", "w"], "y", &[]).output("y");
    build.graph().initializer.push(TensorProto {
        name: "w".to_owned(),
        dims: vec![4, 2],
        data_type: data_type::FLOAT,
        data_location: 1,
        external_data: keys.iter().map(entry).collect(),
        ..Default::default()
    });
    build
}

fn data() -> Vec<u8> {
    (0..10).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn failure(keys: &[(&str, &str)], folder: &Path) -> String {
    chain(&import(&model(keys).bytes(), Some(folder)).unwrap_err())
}

#[test]
fn is_read_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/w.bin"), data()).unwrap();
    let bytes = model(&[("location", "sub/w.bin"), ("offset", "8"), ("length", "32")]).bytes();
    fs::write(folder.path().join("m.onnx"), &bytes).unwrap();
    let model = load(&folder.path().join("m.onnx")).unwrap();
    let Op::Linear(linear) = &model.graph.nodes[0].op else { panic!() };
    assert_eq!(linear.weight.data[..], [2.0, 4.0, 6.0, 8.0, 3.0, 5.0, 7.0, 9.0]);
    assert_eq!(model.bytes, bytes.len() as u64 + 32);
    let both = [&bytes[..], &data()[8..]].concat();
    assert_eq!(model.digest[..], Sha256::digest(both)[..]);
}

#[test]
fn needs_a_folder_and_good_keys() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("w.bin"), data()).unwrap();
    let none = import(&model(&[("location", "w.bin")]).bytes(), None).unwrap_err();
    assert_eq!(chain(&none), "tensor `w`: its data is in another file, and there is no folder to look in");
    let failure = |keys: &[(&str, &str)]| failure(keys, folder.path());
    assert_eq!(failure(&[]), "tensor `w`: external data: `location` is missing");
    assert_eq!(failure(&[("location", "")]), "tensor `w`: external data: `location` is missing");
    let place = ("location", "w.bin");
    assert_eq!(failure(&[place, ("offset", "-1")]), "tensor `w`: external data: `offset` is `-1`, not a number");
    assert_eq!(failure(&[place, ("length", "40")]), "tensor `w`: its dimensions need 32 bytes, its data has 40");
    assert_eq!(
        failure(&[place, ("offset", "9")]),
        "tensor `w`: external data `w.bin` has 40 bytes; bytes 9..41 are needed"
    );
    let far = failure(&[place, ("offset", "18446744073709551615")]);
    assert!(far.starts_with("tensor `w`: external data `w.bin` has 40 bytes; "), "{far}");
    assert!(failure(&[("location", "missing.bin")]).starts_with("tensor `w`: failed to read external data `"));
    assert!(failure(&[("location", ".")]).ends_with("not a regular file"));
}

#[test]
fn cannot_lead_out_of_the_folder() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    fs::create_dir(&folder).unwrap();
    let secret = outer.path().join("secret.bin");
    fs::write(&secret, data()).unwrap();
    let outside = |location: &str| format!("tensor `w`: external data `{location}` is not in the model's folder");
    for location in ["../secret.bin", "./../secret.bin", "sub/../../secret.bin", secret.to_str().unwrap()] {
        assert_eq!(failure(&[("location", location)], &folder), outside(location));
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&secret, folder.join("link.bin")).unwrap();
        assert_eq!(failure(&[("location", "link.bin")], &folder), outside("link.bin"));
        std::os::unix::fs::symlink(outer.path(), folder.join("up")).unwrap();
        assert_eq!(failure(&[("location", "up/secret.bin")], &folder), outside("up/secret.bin"));
        fs::write(folder.join("w.bin"), data()).unwrap();
        std::os::unix::fs::symlink("w.bin", folder.join("inside.bin")).unwrap();
        import(&model(&[("location", "inside.bin")]).bytes(), Some(&folder)).unwrap();
    }
}

#[test]
fn cannot_be_claimed_over_and_over() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("w.bin"), data()).unwrap();
    let second = |offset: &str| {
        let mut build = model(&[("location", "w.bin")]);
        let mut other = build.graph().initializer[0].clone();
        other.name = "v".to_owned();
        other.dims = vec![2, 4];
        let offset = StringStringEntryProto { key: "offset".to_owned(), value: offset.to_owned() };
        other.external_data.push(offset);
        build.graph().initializer.push(other);
        build = build.node("MatMul", &["y", "v"], "z", &[]).output("z");
        import(&build.bytes(), Some(folder.path()))
    };
    // The same bytes are shared and counted once.
    assert_eq!(second("0").unwrap().bytes - model_len(&second), 32);
    assert_eq!(chain(&second("8").unwrap_err()), "tensor `v`: the tensors in external data `w.bin` overlap");
}

/// Size of the model file that `second("0")` imports.
fn model_len(second: &impl Fn(&str) -> Result<crate::onnx::Model, crate::onnx::OnnxError>) -> u64 {
    second("0").unwrap().bytes - 32
}
