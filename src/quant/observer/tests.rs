use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::quant::Preset;

fn spec(observer: ObserverKind) -> ActivationSpec {
    ActivationSpec { observer, ..Preset::Onednn.qconfig().activation }
}

#[test]
fn a_single_value_is_a_point() {
    let mut a = TensorStatistics::of(&[3.0; 7]).unwrap();
    for observer in OBSERVERS {
        assert_eq!(a.range(&spec(observer)), (3.0, 3.0));
    }
    a.merge(&TensorStatistics::of(&[1.0]).unwrap());
    assert_eq!((a.min, a.max), (1.0, 3.0));
    assert_eq!(a.histogram.counts().last(), Some(&7));
}

#[test]
fn values_that_are_not_finite_are_refused() {
    assert_eq!(TensorStatistics::of(&[1.0, f32::NAN]), None);
    assert_eq!(TensorStatistics::of(&[f32::INFINITY]), None);
    assert_eq!(TensorStatistics::of(&[]), None);
}

#[test]
fn an_outlier_is_cut_off_when_that_is_cheaper() {
    // 100,000 elements spread over [0, 1) and one at 2: clamping the one costs less than a step of 2/255 for all.
    let mut x: Vec<f32> = (0..100_000).map(|i| i as f32 / 100_000.0).collect();
    x.push(2.0);
    let statistics = TensorStatistics::of(&x).unwrap();
    assert_eq!(statistics.range(&spec(ObserverKind::Minmax)), (0.0, 2.0));
    for observer in &OBSERVERS[1..] {
        let percentile = (*observer == ObserverKind::Percentile).then(|| 99.99.try_into().unwrap());
        let (min, max) = statistics.range(&ActivationSpec { percentile, ..spec(*observer) });
        assert!(min < 0.001, "{observer:?}: {min}");
        // To clamp the one costs (2 - t)², steps of t/255 cost (t/255)²/12 each of the others: least at t = 1.77.
        let expected = if *observer == ObserverKind::Mse { 1.76..1.79 } else { 0.9..1.05 };
        assert!(expected.contains(&max), "{observer:?}: {max}");
    }
}

const OBSERVERS: [ObserverKind; 5] = ObserverKind::CHOICE;

#[test]
fn auto_takes_the_observer_with_the_least_noise() {
    for (name, x) in tensors() {
        let statistics = TensorStatistics::of(&x).unwrap();
        for (label, auto) in specs(ObserverKind::Auto) {
            // Each element quantized by itself.
            let noise = |observer| {
                let grid = statistics.affine(&ActivationSpec { observer, ..auto });
                x.iter().map(|&v| f64::from(v - grid.dequantize(grid.quantize(v))).powi(2)).sum::<f64>()
            };
            let best = OBSERVERS.into_iter().min_by(|a, b| noise(*a).total_cmp(&noise(*b))).unwrap();
            // The histogram takes elements at the middle of their bin.
            let (found, least) = (noise(ObserverKind::Auto), noise(best));
            assert!(found <= 1.001 * least, "{name} {label}: {found} {least}, of {best:?}");
        }
    }
}

/// The tensors of `tests/data/observers.py`.
fn tensors() -> Vec<(&'static str, Vec<f32>)> {
    let mut state = 1u64;
    let mut number = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 48) as i64
    };
    let bell: Vec<i64> = (0..20_000).map(|_| (0..4).map(|_| number()).sum::<i64>() - 2 * 65535).collect();
    let all = |exponent: i32, value: fn(i64) -> i64| {
        bell.iter().map(|&b| (value(b) as f64 / f64::from(exponent).exp2()) as f32).collect()
    };
    vec![
        ("bell", all(14, |b| b)),
        ("relu", all(14, |b| b.max(0))),
        ("tail", all(26, |b| (b * b / (1 << 15)) * b)),
        ("lopsided", all(14, |b| if b < 0 { b.div_euclid(8) } else { b * b / (1 << 12) })),
        ("positive", all(14, |b| b.abs() + (1 << 14))),
    ]
}

/// The specs of `tests/data/observers.py`.
fn specs(observer: ObserverKind) -> [(&'static str, ActivationSpec); 3] {
    let of = |preset: Preset| ActivationSpec { observer, ..preset.qconfig().activation };
    [("affine", of(Preset::Onednn)), ("half", of(Preset::Fbgemm)), ("symmetric", of(Preset::Tensorrt))]
}

fn expected() -> Value {
    let all: Value = serde_json::from_str(include_str!("../../../tests/data/observers.json")).unwrap();
    all["tensors"].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn percentiles_are_those_of_the_sorted_elements_and_of_onnx_runtime() {
    let expected = expected();
    for (name, x) in tensors() {
        let statistics = TensorStatistics::of(&x).unwrap();
        assert_eq!(f64::from(statistics.max), number(&expected[name]["max"]));
        for percent in [99.0, 99.9] {
            let expected = &expected[name][format!("percentile {percent:?}")];
            let percentile = Some(percent.try_into().unwrap());
            let range = |spec: ActivationSpec| {
                let (min, max) = statistics.range(&ActivationSpec { percentile, ..spec });
                (f64::from(min), f64::from(max))
            };
            let [(_, affine), _, (_, symmetric)] = specs(ObserverKind::Percentile);
            let (min, max) = range(affine);
            let width = statistics.histogram.width();
            // The outer edges of the bins that hold them.
            let (low, high) = (number(&expected["affine"][0]), number(&expected["affine"][1]));
            assert!(
                low - min < width && min <= low && max - high <= width && max >= high,
                "{name} {percent}: {min} {max}"
            );
            // ONNX Runtime has 2048 bins from -t to t, and gives lower edges: two bins further, or past a few elements where
            // these are rare.
            let two_bins = f64::from(statistics.max.max(-statistics.min)) / 512.0;
            for (ours, its, side) in [(min, &expected["onnxruntime"][0], -1.0), (max, &expected["onnxruntime"][1], 1.0)]
            {
                let its = number(its);
                let beyond = |end: f64| x.iter().filter(|v| (f64::from(**v) - end) * side > 0.0).count();
                let near = (ours - its).abs() <= two_bins || beyond(ours).abs_diff(beyond(its)) <= 3;
                assert!(near, "{name} {percent}: {ours} and {its}");
            }

            let (min, max) = range(symmetric);
            let largest = number(&expected["symmetric"]);
            let found = max.max(-min);
            assert!((found - largest).abs() <= 2.0 * width, "{name} {percent}: {found} {largest}");
        }
    }
}

#[test]
fn squared_errors_are_least_where_numpy_finds_them_least() {
    let expected = expected();
    for (name, x) in tensors() {
        let statistics = TensorStatistics::of(&x).unwrap();
        for (label, spec) in specs(ObserverKind::Mse) {
            let expected = &expected[name]["mse"][label];
            let grid = statistics.affine(&spec);
            // Of the elements themselves, not of the bins that the search sees.
            let error = |v: &f32| (f64::from(*v) - f64::from(grid.dequantize(grid.quantize(*v)))).powi(2);
            let found = x.iter().map(error).sum::<f64>();
            let least = number(&expected["error"]);
            assert!((found / least - 1.0).abs() < 0.01, "{name} {label}: {found} instead of {least}");
        }
    }
}

#[test]
fn divergences_are_least_where_scipy_finds_them_least() {
    let expected = expected();
    for (name, x) in tensors() {
        let statistics = TensorStatistics::of(&x).unwrap();
        let (min, max) = (statistics.min.min(0.0), statistics.max.max(0.0));
        let histogram = statistics.histogram.widened(min, max);
        for (label, spec) in specs(ObserverKind::Entropy) {
            let expected = &expected[name]["entropy"][label];
            assert_eq!(histogram.width(), number(&expected["width"]));
            let (low, high) = spec.range();
            let symmetric = spec.qscheme == ActivationScheme::PerTensorSymmetric;
            let (from, to) = entropy::range(&histogram, (high - low + 1) as usize, symmetric);
            assert_eq!([from, to], [number(&expected["range"][0]), number(&expected["range"][1])], "{name} {label}");
            let range = statistics.range(&spec);
            assert_eq!(range, ((from as f32).max(statistics.min), (to as f32).min(statistics.max)));
        }
    }
}

proptest! {
    #[test]
    fn the_chosen_range_is_inside_the_observed_one(
        x in prop::collection::vec(-9.0f32..9.0, 1..400),
        offset in prop_oneof![Just(0.0f32), Just(-9.0), Just(9.0), Just(1e6)],
    ) {
        let x: Vec<f32> = x.iter().map(|v| v + offset).collect();
        let statistics = TensorStatistics::of(&x).unwrap();
        for observer in OBSERVERS {
            for (_, spec) in specs(observer) {
                let (min, max) = statistics.range(&spec);
                prop_assert!(statistics.min <= min && min <= max && max <= statistics.max);
            }
        }
    }

    #[test]
    fn statistics_of_samples_in_any_order_are_those_of_all_elements(
        samples in prop::collection::vec(sample(), 1..8),
        swap in any::<prop::sample::Index>(),
    ) {
        let merged = |samples: &[Vec<f32>]| {
            let mut all = samples.iter().map(|x| TensorStatistics::of(x).unwrap());
            let first = all.next().unwrap();
            all.fold(first, |mut sum, next| {
                sum.merge(&next);
                sum
            })
        };
        let mut other = samples.clone();
        other.rotate_left(swap.index(samples.len()));
        let whole = TensorStatistics::of(&samples.concat()).unwrap();
        prop_assert_eq!(&merged(&samples), &whole);
        prop_assert_eq!(&merged(&other), &whole);
    }
}

/// A sample of a tensor: ranges of many sizes, and single points.
fn sample() -> impl Strategy<Value = Vec<f32>> {
    let spread = prop_oneof![Just(0.0f32), Just(1e-3), Just(1.0), Just(1e4)];
    (-5.0f32..5.0, spread, prop::collection::vec(-1.0f32..1.0, 1..60))
        .prop_map(|(middle, spread, x)| x.into_iter().map(|v| middle + v * spread).collect())
}
