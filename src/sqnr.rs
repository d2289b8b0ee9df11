//! SQNR: the one definition.

/// Energies of a signal and of the noise on it, summed in f64 in the order they are added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Energies {
    signal: f64,
    noise: f64,
}

impl Energies {
    /// Adds one element: `x` as it should be, `y` as it is.
    #[inline]
    pub fn add(&mut self, x: f32, y: f32) {
        let (x, noise) = (f64::from(x), f64::from(x) - f64::from(y));
        self.signal += x * x;
        self.noise += noise * noise;
    }

    /// Energies of one pair of tensors.
    pub fn of(x: &[f32], y: &[f32]) -> Energies {
        let mut energies = Energies::default();
        x.iter().zip(y).for_each(|(&x, &y)| energies.add(x, y));
        energies
    }

    /// Adds the energies of later samples.
    pub fn pool(&mut self, other: Energies) {
        self.signal += other.signal;
        self.noise += other.noise;
    }

    /// `20·log10(‖x‖₂ / ‖x − y‖₂)` in dB. `x = y` gives +inf, also for a signal of zeros; a value that is not
    /// finite gives NaN.
    pub fn sqnr(&self) -> f64 {
        match (self.signal, self.noise) {
            (s, n) if !s.is_finite() || !n.is_finite() => f64::NAN,
            (_, 0.0) => f64::INFINITY,
            (s, n) => 10.0 * (s / n).log10(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Energies;

    #[test]
    fn follows_the_definition() {
        assert_eq!(Energies::of(&[3.0, 4.0], &[3.0, 3.5]).sqnr(), 20.0);
        assert_eq!(Energies::of(&[1.0], &[1.0]).sqnr(), f64::INFINITY);
        assert_eq!(Energies::of(&[0.0], &[0.0]).sqnr(), f64::INFINITY);
        assert_eq!(Energies::of(&[0.0], &[1.0]).sqnr(), f64::NEG_INFINITY);
        assert!(Energies::of(&[f32::NAN], &[1.0]).sqnr().is_nan());
        assert!(Energies::of(&[1.0], &[f32::INFINITY]).sqnr().is_nan());
    }

    #[test]
    fn pooling_is_the_energy_of_all_samples() {
        let mut pooled = Energies::of(&[3.0], &[3.0]);
        pooled.pool(Energies::of(&[4.0], &[3.5]));
        assert_eq!(pooled.sqnr(), 20.0);
    }
}
