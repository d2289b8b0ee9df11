//! Whether one order agrees with another.

/// Spearman's rank correlation, equals sharing their mean rank: 1 where both lists rise together, −1 where one falls as
/// the other rises. `None` for fewer than three pairs, or when a list is all the same.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(pairs.iter().map(|p| p.0)), ranks(pairs.iter().map(|p| p.1)));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum() };
    let spread = (dot(&a, &a) * dot(&b, &b)).sqrt();
    (spread > 0.0).then(|| dot(&a, &b) / spread)
}

/// The rank of each value, from 0; equals have the mean of their ranks.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let count = |is: &dyn Fn(f64) -> bool| values.iter().filter(|v| is(**v)).count() as f64;
    values.iter().map(|&x| count(&|v| v < x) + (count(&|v| v == x) - 1.0) / 2.0).collect()
}

#[cfg(test)]
mod tests {
    use super::spearman;

    #[test]
    fn orders_agree_disagree_or_say_nothing() {
        assert_eq!(spearman(&[(1.0, 10.0), (2.0, 20.0), (3.0, 1e9)]), Some(1.0));
        assert_eq!(spearman(&[(1.0, 3.0), (f64::INFINITY, 1.0), (2.0, 2.0)]), Some(-1.0));
        assert_eq!(spearman(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(spearman(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
        // IQ and hours of television, the usual example: −29/165.
        let iq = [106.0, 100.0, 86.0, 101.0, 99.0, 103.0, 97.0, 113.0, 112.0, 110.0];
        let hours = [7.0, 27.0, 2.0, 50.0, 28.0, 29.0, 20.0, 12.0, 6.0, 17.0];
        let pairs: Vec<(f64, f64)> = iq.into_iter().zip(hours).collect();
        assert!((spearman(&pairs).unwrap() + 29.0 / 165.0).abs() < 1e-12);
    }
}
