//! How far from the definition a result may be.

use ndarray::{ArrayD, ArrayView, Dimension};

/// How far a result may be from the definition, as a share of the largest number of the array (or of 1): the rounding
/// of a dot product of `width` terms grows with its square root, and the exponential makes of an error in the score
/// the same error in the weight.
pub(crate) fn tolerance(width: usize) -> f64 {
    f64::from(f32::EPSILON) * 4.0 * (4.0 + (width as f64).sqrt())
}

/// Equal where the definition is infinite or NaN, within `tolerance` elsewhere.
pub(crate) fn close<D: Dimension>(
    what: &str,
    found: ArrayView<'_, f32, D>,
    expected: ArrayView<'_, f64, D>,
    tolerance: f64,
) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let finite = expected.iter().filter(|number| number.is_finite());
    let bound = tolerance * finite.fold(1.0, |largest: f64, number| largest.max(number.abs()));
    let (found, expected): (ArrayD<f32>, ArrayD<f64>) =
        (found.to_owned().into_dyn(), expected.to_owned().into_dyn());
    for ((at, &expected), &found) in expected.indexed_iter().zip(&found) {
        let found = f64::from(found);
        let same = if expected.is_finite() {
            (found - expected).abs() <= bound
        } else {
            found == expected || (found.is_nan() && expected.is_nan())
        };
        assert!(
            same,
            "{what} at {at:?}: found {found}, expected {expected} ± {bound:e}"
        );
    }
}
