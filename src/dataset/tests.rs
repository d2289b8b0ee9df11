use std::fs;
use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};
use proptest::prelude::*;

use super::*;

fn spec(yaml: &str) -> DataSpec {
    serde_yaml::from_str(yaml).unwrap()
}

fn encode(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A picture whose pixels tell its number.
fn numbered(number: u8, height: u32, width: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([number, x as u8, y as u8]))
}

/// Ten pictures in a folder and the csv that lists them, labels 0 to 2.
fn folder_of_ten() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut list = "label,file,comment\n".to_owned();
    for i in 0..10u8 {
        let name = format!("{i}.png");
        fs::write(folder.path().join(&name), encode(numbered(i, 5, 6), ImageFormat::Png)).unwrap();
        list += &format!("{},{name},\n", i % 3);
    }
    fs::write(folder.path().join("all.csv"), list).unwrap();
    folder
}

fn picture(height: usize, width: usize, channels: usize) -> Form {
    Form::Picture { height, width, channels }
}

const TEN: &str = "images: {csv: all.csv}
preprocess: {center_crop: [3, 2]}
split: {calibrate: 2, search: 5, certify: 3}";

fn open(spec: &DataSpec, folder: &Path) -> Result<Dataset, DatasetError> {
    Dataset::open(spec, folder, None, &Cancel::default())
}

/// The error and its sources, with the folder cut away.
fn failure(folder: &Path, result: Result<Sample, DatasetError>) -> String {
    let error = anyhow::Error::from(result.unwrap_err());
    format!("{error:#}").replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "")
}

fn open_failure(folder: &Path, yaml: &str) -> String {
    let opened = open(&spec(yaml), folder);
    failure(folder, opened.and_then(|dataset| dataset.load(Part::Search, 0)))
}

#[test]
fn a_csv_is_split_loaded_and_labelled() {
    let folder = folder_of_ten();
    let dataset = open(&spec(TEN), folder.path()).unwrap();
    assert_eq!((dataset.form(), dataset.classes()), (&picture(3, 2, 3), 3));
    let mut seen = Vec::new();
    for part in [Part::Calibrate, Part::Search, Part::Certify] {
        for (i, (name, label)) in dataset.labels(part).enumerate() {
            let sample = dataset.load(part, i).unwrap();
            assert_eq!((sample.name.as_str(), sample.label), (name, label));
            let number = sample.inputs[0].data[0] as u32;
            assert_eq!((format!("{number}.png"), number % 3), (sample.name, sample.label));
            // Margins of 1 above and 2 to the left.
            assert_eq!(sample.inputs[0].data[1..6], [2.0, 1.0, number as f32, 3.0, 1.0]);
            seen.push(number);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn the_cache_changes_nothing_and_keeps_its_limit() {
    let folder = folder_of_ten();
    let uncached = open(&spec(&format!("{TEN}\ncache_mib: 0")), folder.path()).unwrap();
    // Room for 2 of 5 crops of 18 bytes.
    let cached = Dataset { cache_limit: 50, ..open(&spec(TEN), folder.path()).unwrap() };
    for i in 0..5 {
        assert_eq!(cached.load_once(Part::Search, i).unwrap(), uncached.load(Part::Search, i).unwrap());
    }
    assert_eq!(cached.cached.load(Ordering::Relaxed), 0);
    for _ in 0..3 {
        (0..5).into_par_iter().for_each(|i| {
            assert_eq!(cached.load(Part::Search, i).unwrap(), uncached.load(Part::Search, i).unwrap());
        });
    }
    let kept = cached.search.pixels.iter().filter(|pixels| pixels.get().is_some()).count();
    assert!((1..=2).contains(&kept), "{kept}");
    assert_eq!(cached.cached.load(Ordering::Relaxed), 18 * kept);
    assert_eq!(uncached.cached.load(Ordering::Relaxed), 0);
}

#[test]
fn calibration_images_may_come_from_elsewhere() {
    let folder = folder_of_ten();
    let other = folder.path().join("train/cat");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("a.bmp"), encode(numbered(200, 3, 2), ImageFormat::Bmp)).unwrap();
    let yaml = "images: {csv: all.csv}
calibration_images: {image_folder: train}
preprocess: {center_crop: [3, 2]}
split: {calibrate: 1, certify: 4}";
    let dataset = open(&spec(yaml), folder.path()).unwrap();
    assert_eq!([Part::Calibrate, Part::Search, Part::Certify].map(|part| dataset.len(part)), [1, 6, 4]);
    let sample = dataset.load(Part::Calibrate, 0).unwrap();
    assert_eq!((sample.name.as_str(), sample.inputs[0].data[0]), ("cat/a.bmp", 200.0));
}

#[test]
fn an_image_folder_labels_by_sorted_names() {
    let folder = tempfile::tempdir().unwrap();
    for (class, file) in [("b", "2.PNG"), ("a", "1.png"), ("b", "1.png"), (".hidden", "1.png"), ("a", "notes.txt")] {
        fs::create_dir_all(folder.path().join(class)).unwrap();
        fs::write(folder.path().join(class).join(file), encode(numbered(0, 2, 2), ImageFormat::Png)).unwrap();
    }
    fs::write(folder.path().join("README"), "").unwrap();
    let yaml = "{images: {image_folder: .}, split: {file: split.json}}";
    fs::write(folder.path().join("split.json"), r#"{"calibration": [0], "search": ["b/1.png", "b/2.PNG"]}"#).unwrap();
    let dataset = open(&spec(yaml), folder.path()).unwrap();
    assert_eq!(dataset.labels(Part::Calibrate).collect::<Vec<_>>(), [("a/1.png", 0)]);
    assert_eq!(dataset.labels(Part::Search).collect::<Vec<_>>(), [("b/1.png", 1), ("b/2.PNG", 1)]);
}

#[test]
fn arrays_are_borrowed_where_nothing_changes_them() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("images"), [&[0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2][..], &[0; 6]].concat())
        .unwrap();
    fs::write(folder.path().join("labels"), [0, 0, 8, 1, 0, 0, 0, 3, 4, 5, 6]).unwrap();
    let plain = "{images: {idx: {images: images, labels: labels}}, split: {calibrate: 1}}";
    let dataset = open(&spec(plain), folder.path()).unwrap();
    assert_eq!((dataset.form(), dataset.classes(), dataset.len(Part::Search)), (&picture(1, 2, 1), 7, 2));
    dataset.load(Part::Search, 1).unwrap();
    assert_eq!(dataset.cached.load(Ordering::Relaxed), 0);

    let colour =
        "{images: {idx: {images: images, labels: labels}}, preprocess: {channels: rgb}, split: {calibrate: 1}}";
    let dataset = open(&spec(colour), folder.path()).unwrap();
    assert_eq!(*dataset.form(), picture(1, 2, 3));
    dataset.load(Part::Search, 1).unwrap();
    assert_eq!(dataset.cached.load(Ordering::Relaxed), 6);
}

#[test]
fn the_digest_follows_content_labels_order_and_preprocessing() {
    let folder = folder_of_ten();
    let digest =
        |yaml: &str| open(&spec(yaml), folder.path()).unwrap().digest(Part::Search, &Cancel::default()).unwrap();
    let before = digest(TEN);
    assert_eq!(digest(TEN), before);
    assert_ne!(digest(&format!("{TEN}\n").replace("certify: 3", "certify: 3, seed: 1")), before);
    assert_ne!(digest(&TEN.replace("center_crop", "std: [2.0], center_crop")), before);

    // Renamed, all else as it was: the same measurement.
    let list = fs::read_to_string(folder.path().join("all.csv")).unwrap();
    for i in 0..10 {
        fs::rename(folder.path().join(format!("{i}.png")), folder.path().join(format!("n{i}"))).unwrap();
    }
    let renamed: String = list.lines().map(|line| line.replace(".png", "").replacen(',', ",n", 1) + "\n").collect();
    fs::write(folder.path().join("all.csv"), renamed.replace("nfile", "file")).unwrap();
    assert_eq!(digest(TEN), before);

    // One label changed.
    let dataset = open(&spec(TEN), folder.path()).unwrap();
    let (name, label) = dataset.labels(Part::Search).next().unwrap();
    let list = fs::read_to_string(folder.path().join("all.csv")).unwrap();
    let changed = list.replace(&format!("{label},{name},"), &format!("9,{name},"));
    assert_ne!(list, changed);
    fs::write(folder.path().join("all.csv"), changed).unwrap();
    assert_ne!(digest(TEN), before);
}

#[test]
fn pictures_lose_alpha_and_keep_gray() {
    let decode = |bytes: Vec<u8>| {
        let picture = picture::decode(&bytes, &"a", Orientation::Upright).unwrap();
        (picture.channels, picture.pixels)
    };
    let rgba = image::RgbaImage::from_pixel(1, 1, image::Rgba([1, 2, 3, 0]));
    assert_eq!(decode(encode(rgba, ImageFormat::Png)), (3, vec![1, 2, 3]));
    let gray = image::GrayImage::from_pixel(1, 1, image::Luma([9]));
    assert_eq!(decode(encode(gray, ImageFormat::Png)), (1, vec![9]));
    let gray_alpha = DynamicImage::ImageLumaA8(image::GrayAlphaImage::from_pixel(1, 1, image::LumaA([9, 0])));
    assert_eq!(decode(encode(gray_alpha, ImageFormat::Png)), (1, vec![9]));
}

/// What `tests/data/pillow/jpeg.py` wrote.
#[test]
fn cmyk_is_converted_and_exif_turned_as_pillow_does() {
    for name in ["cmyk", "ycck", "exif_3", "exif_6", "exif_7"] {
        let read = |ending: &str, orientation| {
            let path = format!("{}/tests/data/pillow/{name}.{ending}", env!("CARGO_MANIFEST_DIR"));
            picture::decode(&fs::read(&path).unwrap(), &path, orientation).unwrap()
        };
        let (ours, pillows) = (read("jpg", Orientation::Upright), read("png", Orientation::Upright));
        assert_eq!((ours.height, ours.width), (pillows.height, pillows.width), "{name}");
        let most = ours.pixels.iter().zip(&pillows.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 2, "{name}: {most}");
        let stored = read("jpg", Orientation::Stored);
        assert_eq!((stored.height, stored.width), (16, 24), "{name}");
    }
}

#[test]
fn a_label_map_names_the_classes_of_folders_csvs_and_arrays() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    for name in ["classes/cat/0.png", "classes/dog/1.png"] {
        write(name, &encode(numbered(0, 2, 2), ImageFormat::Png));
    }
    write("list.csv", b"file,label\nclasses/cat/0.png,cat\nclasses/dog/1.png,dog\n");
    write("images", &[&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0; 2]].concat());
    write("labels", &[0, 0, 8, 1, 0, 0, 0, 2, 3, 4]);
    write("map.json", br#"{"cat": 5, "dog": 2, "3": 5, "4": 2}"#);
    write("split.json", br#"{"calibration": [0], "validation": [1]}"#);
    let labels = |images: &str, map: &str| {
        let yaml = format!("{{images: {images}, label_map: {map}, split: {{file: split.json}}}}");
        let dataset = open(&spec(&yaml), folder.path()).map_err(anyhow::Error::from);
        let of = |dataset: &Dataset, part| dataset.labels(part).map(|(_, label)| label).collect::<Vec<_>>();
        let both = dataset.map(|dataset| [of(&dataset, Part::Calibrate), of(&dataset, Part::Search)].concat());
        both.map_err(|error| format!("{error:#}").replace(&format!("{}/", folder.path().display()), ""))
    };
    let sources = ["{image_folder: classes}", "{csv: list.csv}", "{idx: {images: images, labels: labels}}"];
    for source in sources {
        assert_eq!(labels(source, "map.json"), Ok(vec![5, 2]), "{source}");
    }
    write("map.json", b"[\"cow\"]");
    let errors = sources.map(|source| labels(source, "map.json").unwrap_err());
    insta::assert_snapshot!(errors.join("\n"), @r#"
    classes/cat: image folder: no class `cat` in the label map map.json
    list.csv: line 2, column label: no class `cat` in the label map map.json
    images: label 0: no class `3` in the label map map.json
    "#);
}

#[test]
fn lists_that_cannot_be_say_where() {
    let folder = folder_of_ten();
    let with_csv = |text: &str| {
        fs::write(folder.path().join("bad.csv"), text).unwrap();
        open_failure(folder.path(), "{images: {csv: bad.csv}, split: {calibrate: 1}}")
    };
    let mut errors = vec![
        with_csv(""),
        with_csv("file,label\n"),
        with_csv("picture,label\n0.png,0\n"),
        with_csv("file,label\n0.png,cat\n"),
        with_csv("file,label\n0.png,0\n1.png,-1\n"),
        with_csv("file,label\n0.png,1.0\n"),
        with_csv("file,label\n0.png,99999999999\n"),
        with_csv("file,label\n0.png,0\n0.png,0\n"),
        with_csv("file,label\n0.png,0\n1.png\n"),
        with_csv("file,label\n,0\n"),
        with_csv("file,label\n0.png,0\ngone.png,0\n"),
        with_csv("file,label\n0.png,0\n"),
    ];
    fs::create_dir_all(folder.path().join("empty/class")).unwrap();
    fs::create_dir_all(folder.path().join("deep/class/more")).unwrap();
    for images in [
        "{csv: gone.csv}",
        "{csv: .}",
        "{image_folder: gone}",
        "{image_folder: empty/class}",
        "{image_folder: empty}",
        "{image_folder: deep}",
        "{npz: {file: all.csv}}",
        "{idx: {images: all.csv, labels: all.csv}}",
    ] {
        errors.push(open_failure(folder.path(), &format!("{{images: {images}, split: {{calibrate: 1}}}}")));
    }
    insta::assert_snapshot!(errors.join("\n"), @r#"
    bad.csv: line 1: expected a column `file`, found ``
    bad.csv: samples: expected at least one, found none
    bad.csv: line 1: expected a column `file`, found `picture,label`
    bad.csv: line 2, column label: expected an integer, found `cat`
    bad.csv: line 3, column label: expected a label from 0 to 2147483646, found -1
    bad.csv: line 2, column label: expected an integer, found `1.0`
    bad.csv: line 2, column label: expected a label from 0 to 2147483646, found 99999999999
    bad.csv: line 3: `0.png` is listed in line 2 already
    failed to read the csv file bad.csv: CSV error: record 2 (line: 3, byte: 19): found record with 1 fields, but the previous record has 2 fields
    bad.csv: line 2, column file: expected a path, found nothing
    failed to read gone.png: No such file or directory (os error 2)
    data.split.search: calibrate and certify take all 1 samples, none is left
    failed to read gone.csv: No such file or directory (os error 2)
    failed to read .: it is a folder
    failed to read gone: No such file or directory (os error 2)
    empty/class: image folder: expected one sub-folder for each class, found none
    empty/class: image folder: expected jpg, jpeg, png, webp or bmp files, found none
    deep/class/more: image folder: expected pictures right below a class, found a folder
    failed to read all.csv: invalid Zip archive: Could not find central directory end
    all.csv: byte 0: expected the IDX magic (0, 0, a type, a rank) or a gzip file of it, found [108, 97, 98, 101]
    "#);
}

#[test]
fn pictures_that_cannot_be_are_named() {
    let folder = folder_of_ten();
    let jpeg = encode(numbered(0, 64, 64), ImageFormat::Jpeg);
    let png = encode(numbered(0, 64, 64), ImageFormat::Png);
    let deep = DynamicImage::ImageRgb16(image::ImageBuffer::from_pixel(2, 2, image::Rgb([1u16, 2, 3])));
    fs::write(folder.path().join("list.csv"), "file,label\nbad,0\n0.png,0\n").unwrap();
    fs::write(folder.path().join("split.json"), r#"{"calibration": ["0.png"], "search": ["bad"]}"#).unwrap();
    let with = |bytes: &[u8], preprocess: &str| {
        fs::write(folder.path().join("bad"), bytes).unwrap();
        let yaml = format!("images: {{csv: list.csv}}\npreprocess: {preprocess}\nsplit: {{file: split.json}}");
        open_failure(folder.path(), &yaml)
    };
    let mut errors = vec![
        with(b"", "{}"),
        with(b"GIF89a", "{}"),
        with(&jpeg[..jpeg.len() / 2], "{}"),
        with(&png[..png.len() / 2], "{}"),
        with(&encode(deep, ImageFormat::Png), "{}"),
        with(&png, "{center_crop: 65}"),
        with(&png, "{mean: [0.0, 0.0]}"),
    ];
    fs::write(folder.path().join("bad"), &png).unwrap();
    let yaml = "{images: {csv: list.csv}, split: {file: split.json}}";
    let dataset = open(&spec(yaml), folder.path()).unwrap();
    errors.push(failure(folder.path(), dataset.load(Part::Calibrate, 0)));
    errors.push(failure(folder.path(), dataset.load(Part::Certify, 0)));
    insta::assert_snapshot!(errors.join("\n"), @r#"
    failed to decode the picture bad: The image format could not be determined
    failed to decode the picture bad: The image format Gif is not supported
    bad: expected an end marker, the jpeg is cut short
    failed to decode the picture bad: unexpected end of file
    bad: expected 8 bits a channel, found Rgb16
    bad: expected at least 65x65 pixels for center_crop, found 64x64
    data.preprocess.mean: expected 1 or 3 values, found 2
    0.png: expected height, width and channels [64, 64, 3] as the first sample has, found [5, 6, 3]
    sample 0 of certify was asked for, there are 0
    "#);
}

proptest! {
    /// What decoders make of damaged files: an error or a picture, never a panic.
    #[test]
    fn damaged_pictures_never_panic(
        format in prop::sample::select(vec![ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = encode(numbered(3, 17, 19), format);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        let _ = picture::decode(&bytes, &"a", Orientation::Upright);
    }
}

#[test]
fn below_a_root_pictures_and_links_must_lie_inside_and_others_are_as_if_they_were_not_there() {
    let outside = folder_of_ten();
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    let class = root.join("classes/a");
    fs::create_dir_all(&class).unwrap();
    fs::copy(outside.path().join("0.png"), class.join("0.png")).unwrap();
    fs::copy(outside.path().join("1.png"), class.join("1.png")).unwrap();
    let open = |yaml: &str| {
        let opened = Dataset::open(&spec(yaml), &root, Some(&root), &Cancel::default());
        opened.map(|dataset| dataset.len(Part::Search)).map_err(|error| error.to_string())
    };
    let folder = "images: {image_folder: classes}\nsplit: {calibrate: 1}";
    assert_eq!(open(folder), Ok(1));
    let there = outside.path().join("0.png").display().to_string();
    let absent = outside.path().join("absent.png").display().to_string();
    for name in [&there, &absent, "../x.png", "classes/a/absent.png"] {
        fs::write(root.join("list.csv"), format!("file,label\nclasses/a/0.png,0\n{name},1\n")).unwrap();
        let whole = root.join(name).display().to_string();
        let problem = format!("expected a file below the folder that this job may read, found `{whole}`");
        assert_eq!(open("images: {csv: list.csv}\nsplit: {calibrate: 1}"), Err(problem));
    }
    let link = |to: &Path, from: &str| std::os::unix::fs::symlink(to, root.join(from)).unwrap();
    link(&outside.path().join("2.png"), "classes/a/2.png");
    assert!(open(folder).unwrap_err().ends_with("classes/a/2.png`"));
    fs::remove_file(class.join("2.png")).unwrap();
    link(outside.path(), "classes/b");
    assert!(open(folder).unwrap_err().ends_with("classes/b`"));
    fs::remove_file(root.join("classes/b")).unwrap();
    link(&class, "classes/c");
    assert_eq!(open(folder), Ok(3));
}

#[test]
fn reading_stops_when_it_is_asked_to() {
    let folder = folder_of_ten();
    let cancel = Cancel::default();
    let dataset = Dataset::open(&spec(TEN), folder.path(), None, &cancel).unwrap();
    cancel.cancel();
    assert!(matches!(dataset.digest(Part::Search, &cancel), Err(DatasetError::Cancelled(_))));
    assert!(matches!(Dataset::open(&spec(TEN), folder.path(), None, &cancel), Err(DatasetError::Cancelled(_))));
}
