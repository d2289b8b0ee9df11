use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;

/// What `tests/data/huggingface.py` wrote.
const HUGGING_FACE: &[u8] = include_bytes!("../../../tests/data/huggingface.parquet");
const WITH_ZSTD: &[u8] = include_bytes!("../../../tests/data/huggingface.zstd.parquet");
const WITH_GZIP: &[u8] = include_bytes!("../../../tests/data/huggingface.gzip.parquet");

fn spec(path: PathBuf) -> ParquetFiles {
    ParquetFiles { path, images: "image".to_owned(), labels: "label".to_owned() }
}

fn read_bytes(bytes: &[u8], edit: impl Fn(&mut ParquetFiles)) -> Result<(Pictures, Vec<Label>), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    std::fs::write(&path, bytes).unwrap();
    let mut spec = spec(path.clone());
    edit(&mut spec);
    read(vec![path], &spec).map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

/// A file with a column `image` of plain bytes and a column `label` of this type.
fn written(rows: usize, label: &str, compression: Compression) -> Vec<u8> {
    let schema = format!("message a {{ optional binary image; optional {label}; }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(3)
        .set_write_batch_size(1)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let pictures: Vec<ByteArray> = (0..rows).map(|i| ByteArray::from(vec![i as u8; 100 + i])).collect();
    let levels = vec![1; rows];
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&pictures, Some(&levels), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    match label.contains("int64") {
        true => {
            let labels: Vec<i64> = (0..rows as i64).collect();
            column.typed::<Int64Type>().write_batch(&labels, Some(&levels), None).unwrap();
        }
        false => {
            let labels: Vec<ByteArray> = (0..rows).map(|i| format!("class {i}").as_str().into()).collect();
            column.typed::<ByteArrayType>().write_batch(&labels, Some(&levels), None).unwrap();
        }
    }
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn a_file_of_hugging_face_is_read() {
    for bytes in [HUGGING_FACE, WITH_ZSTD] {
        let (pictures, labels) = read_bytes(bytes, |_| {}).unwrap();
        assert_eq!(labels.len(), 5);
        for (row, label) in labels.iter().enumerate() {
            let Label::Class { label, name } = label else { panic!("row {row} has no name") };
            assert_eq!((*label, &**name), ((row % 3) as i64, ["bird", "cat", "dog"][row % 3]));
            let decoded = image::load_from_memory(&pictures.bytes(row).unwrap()).unwrap().into_rgb8();
            assert_eq!((decoded.dimensions(), decoded.get_pixel(2, 1).0), ((3, 2), [row as u8, 2, 1]));
        }
    }
    assert_eq!(
        read_bytes(WITH_GZIP, |_| {}).map(drop).unwrap_err(),
        "a.parquet: column `image.bytes`: expected no compression, SNAPPY or ZSTD, found GZIP: write the file anew with \
         pyarrow.parquet.write_table(pyarrow.parquet.read_table(FILE), FILE)"
    );
}

#[test]
fn rows_are_found_in_any_page_and_by_several_threads() {
    use rayon::prelude::*;

    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())] {
        let (pictures, labels) = read_bytes(&written(40, "int64 label", compression), |_| {}).unwrap();
        assert_eq!(labels.len(), 40);
        (0..400).into_par_iter().for_each(|i| {
            let row = i * 7 % 40;
            assert_eq!(pictures.bytes(row).unwrap(), vec![row as u8; 100 + row]);
        });
    }
    let (_, labels) = read_bytes(&written(2, "binary label (STRING)", Compression::SNAPPY), |_| {}).unwrap();
    assert!(matches!(&labels[1], Label::Text(name) if name == "class 1"));
}

#[test]
fn shards_of_a_folder_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    for (name, rows) in [("b.parquet", 2), ("a.parquet", 3), ("README.md", 1)] {
        std::fs::write(folder.path().join(name), written(rows, "int64 label", Compression::SNAPPY)).unwrap();
    }
    let files = files(folder.path()).unwrap();
    let (pictures, labels) = read(files, &spec(folder.path().to_owned())).unwrap();
    assert_eq!(labels.len(), 5);
    assert_eq!(pictures.bytes(4).unwrap(), vec![1; 101]);
    assert!(pictures.place(4).starts_with("row 1 of ") && pictures.place(4).ends_with("b.parquet"));
}

#[test]
fn faults_say_where_and_what() {
    let file = written(3, "int64 label", Compression::SNAPPY);
    let error = |bytes: &[u8], edit: fn(&mut ParquetFiles)| read_bytes(bytes, edit).map(drop).unwrap_err();
    let errors = [
        error(b"", |_| {}),
        error(b"PAR1 and so on", |_| {}),
        error(&file[..file.len() - 1], |_| {}),
        error(&file, |spec| spec.images = "picture".to_owned()),
        error(&file, |spec| spec.images = "label".to_owned()),
        error(&file, |spec| spec.labels = "class".to_owned()),
        error(HUGGING_FACE, |spec| spec.labels = "image".to_owned()),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
        a.parquet: parquet: EOF: Parquet file too small. Size is 0 but need 8
        a.parquet: parquet: Parquet error: Invalid Parquet file. Corrupt footer
        a.parquet: parquet: Parquet error: Invalid Parquet file. Corrupt footer
        a.parquet: column `picture`: expected bytes in it, or in its field `bytes`; the file's columns: image (BYTE_ARRAY), label (INT64)
        a.parquet: column `label`: expected bytes in it, or in its field `bytes`; the file's columns: image (BYTE_ARRAY), label (INT64)
        a.parquet: column `class`: no such column, the file's columns: image, label
        a.parquet: column `image`: no such column, the file's columns: image.bytes, image.path, label
        "#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        file in 0..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        footer in any::<bool>(),
    ) {
        let mut bytes = match file {
            0 => HUGGING_FACE.to_vec(),
            1 => WITH_ZSTD.to_vec(),
            _ => written(7, "int64 label", Compression::SNAPPY),
        };
        for (at, value) in damage {
            let start = if footer { bytes.len() * 2 / 3 } else { 0 };
            let at = start + at.index(bytes.len() - start);
            bytes[at] = value;
        }
        if let Ok((pictures, labels)) = read_bytes(&bytes, |_| {}) {
            for row in 0..labels.len().min(8) {
                let _ = pictures.bytes(row);
            }
        }
    }
}
