use super::*;
use crate::dataset::spec::Resize;

fn picture(height: usize, width: usize) -> Picture {
    let pixels = (0..height * width).map(|i| i as u8).collect();
    Picture { pixels, height, width, channels: 1 }
}

fn geometry(spec: &Preprocess) -> Geometry {
    Geometry::new(spec)
}

fn short_side(side: u32) -> Preprocess {
    let resize = Resize { to: ResizeTo::ShortSide(side), interpolation: Interpolation::Nearest };
    Preprocess { resize: Some(resize), ..Preprocess::default() }
}

#[test]
fn the_long_side_is_truncated() {
    let size = |height, width, side| {
        let resized = geometry(&short_side(side)).apply(picture(height, width)).unwrap();
        (resized.height, resized.width)
    };
    // As torchvision.transforms.Resize: int(size * long / short).
    assert_eq!(size(200, 301, 256), (256, 385));
    assert_eq!(size(301, 200, 256), (385, 256));
    assert_eq!(size(3, 10, 2), (2, 6));
    assert_eq!(size(7, 7, 3), (3, 3));
}

#[test]
fn a_crop_leaves_the_larger_margin_below_and_to_the_right() {
    let crop = |height, width| {
        let spec = Preprocess { center_crop: Some(Size { height, width }), ..Preprocess::default() };
        geometry(&spec).apply(picture(4, 5)).map(|picture| picture.pixels)
    };
    // Rows of 5: margins of 1 above and 2 below, 1 left and 2 right.
    assert_eq!(crop(1, 2).unwrap(), [6, 7]);
    assert_eq!(crop(2, 3).unwrap(), [6, 7, 8, 11, 12, 13]);
    assert_eq!(crop(4, 5).unwrap(), picture(4, 5).pixels);
    insta::assert_snapshot!(crop(4, 6).unwrap_err(), @r#"expected at least 4x6 pixels for center_crop, found 4x5"#);
}

#[test]
fn a_thin_picture_may_not_grow_without_limit() {
    let error = geometry(&short_side(16_384)).apply(picture(1, 60_000)).unwrap_err();
    insta::assert_snapshot!(error, @r#"resizing 1x60000 to 16384x983040000 takes 16106127360000 bytes, expected at most 536870912"#);
}

#[test]
fn channels_are_converted_as_pillow_does() {
    // Image.fromarray(source).convert("L") of Pillow 13.0.0.
    let colour = Picture { pixels: vec![0, 83, 166, 37, 120, 203, 222, 49, 132], height: 1, width: 3, channels: 3 };
    let convert = |channels, picture: &Picture| {
        let spec = Preprocess { channels: Some(channels), ..Preprocess::default() };
        geometry(&spec).apply(picture.clone()).map(|picture| (picture.channels, picture.pixels))
    };
    assert_eq!(convert(Channels::Gray, &colour).unwrap(), (1, vec![68, 105, 110]));
    assert_eq!(convert(Channels::Bgr, &colour).unwrap(), (3, vec![166, 83, 0, 203, 120, 37, 132, 49, 222]));
    assert_eq!(convert(Channels::Rgb, &colour).unwrap(), (3, colour.pixels.clone()));
    assert_eq!(convert(Channels::Rgb, &picture(1, 2)).unwrap(), (3, vec![0, 0, 0, 1, 1, 1]));
    assert_eq!(convert(Channels::Gray, &picture(1, 2)).unwrap(), (1, vec![0, 1]));
    let four = Picture { pixels: vec![0; 4], height: 1, width: 1, channels: 4 };
    insta::assert_snapshot!(convert(Channels::Rgb, &four).unwrap_err(), @r#"expected 1 or 3 channels to make Rgb of, found 4"#);
}

#[test]
fn values_are_numpys_float32() {
    // numpy 2.4.6, with u = numpy.array([0, 1, 17, 128, 200, 255], numpy.uint8):
    // x = u[:, None].astype(f32) * f32(1 / 255.0)
    // ((x - f32((0.485, 0.456, 0.406))) / f32((0.229, 0.224, 0.225))).view(numpy.uint32)
    let expected = [
        (0, [0xc0078bbd, 0xc0024924, 0xbfe6f809]),
        (1, [0xc006732b, 0xc0012a4f, 0xbfe4bcea]),
        (17, [0xbfe9d408, 0xbfde79e7, 0xbfc10b00]),
        (128, [0x3d97af32, 0x3e521b48, 0x3eda5d3c]),
        (200, [0x3fa74d52, 0x3fbb9b9e, 0x3fd737f1]),
        (255, [0x400fee1d, 0x401b6db7, 0x4028f5c3u32]),
    ];
    let spec = Preprocess {
        scale: 0.00392156862745098,
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        ..Preprocess::default()
    };
    let normalizer = Normalizer::new(&spec, 3).unwrap();
    for (pixel, bits) in expected {
        let found: Vec<_> = normalizer.apply(&[pixel; 3]).into_iter().map(f32::to_bits).collect();
        assert_eq!(found, bits, "pixel {pixel}");
    }
}

#[test]
fn numbers_that_cannot_be_are_named() {
    let error = |edit: fn(&mut Preprocess), channels| {
        let mut spec = Preprocess::default();
        edit(&mut spec);
        Normalizer::new(&spec, channels).err().unwrap().to_string()
    };
    let errors = [
        error(|spec| spec.std = vec![1.0, 0.0, 1.0], 3),
        // Too small for f32.
        error(|spec| spec.std = vec![1e-60], 3),
        error(|spec| spec.mean = vec![0.5, 0.5], 3),
        error(|spec| spec.mean = vec![0.5, 0.5, 0.5], 1),
        error(|spec| spec.mean = vec![], 1),
        error(|spec| spec.mean = vec![f64::NAN], 1),
        error(|spec| spec.scale = f64::INFINITY, 1),
        error(|spec| spec.scale = 0.0, 1),
        error(|spec| spec.scale = 3e38, 1),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    data.preprocess.std: expected finite numbers other than 0, found 0
    data.preprocess.std: expected finite numbers other than 0, found 0
    data.preprocess.mean: expected 1 or 3 values, found 2
    data.preprocess.mean: expected 1 value, found 3
    data.preprocess.mean: expected 1 value, found 0
    data.preprocess.mean: expected finite numbers, found NaN
    data.preprocess.scale: expected a finite number other than 0, found inf
    data.preprocess.scale: expected a finite number other than 0, found 0
    data.preprocess: scale, mean and std give values that are not finite
    "#);
}

#[test]
fn the_digest_tells_apart_what_measures_differently() {
    let digest = |edit: fn(&mut Preprocess)| -> [u8; 32] {
        let mut spec = Preprocess::default();
        edit(&mut spec);
        let mut hasher = Sha256::new();
        geometry(&spec).hash_into(&mut hasher, 3);
        let channels = spec.channels.map_or(3, Channels::count);
        Normalizer::new(&spec, channels).unwrap().hash_into(&mut hasher);
        hasher.finalize().into()
    };
    let different: [fn(&mut Preprocess); 9] = [
        |_| {},
        |spec| spec.channels = Some(Channels::Bgr),
        |spec| spec.channels = Some(Channels::Gray),
        |spec| spec.scale = 0.5,
        |spec| spec.mean = vec![1.0],
        |spec| spec.std = vec![4.0],
        |spec| spec.center_crop = Some(Size { height: 2, width: 3 }),
        |spec| spec.center_crop = Some(Size { height: 3, width: 2 }),
        |spec| spec.resize = short_side(3).resize,
    ];
    let digests: std::collections::HashSet<_> = different.into_iter().map(digest).collect();
    assert_eq!(digests.len(), different.len());
    assert_eq!(digest(|_| {}), digest(|spec| spec.channels = Some(Channels::Rgb)));
    assert_eq!(digest(|_| {}), digest(|spec| spec.std = vec![1.0, 1.0, 1.0]));
}
