//! When two tensors count as equal.

use burn::tensor::Tensor;

/// The elements, the last axis fastest.
pub(crate) fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.clone().inner().into_data().iter::<f32>().collect()
}

/// What single precision allows after a few hundred additions, relative to the largest element: 2⁻²⁴ · 100.
pub(crate) const TOLERANCE: f32 = 6e-6;

pub(crate) fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_close_to(found, expected, TOLERANCE, what);
}

pub(crate) fn assert_close_to(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let largest = expected
        .iter()
        .fold(1.0_f32, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= tolerance * largest,
            "{what}[{index}]: found {found}, expected {expected}"
        );
    }
}
