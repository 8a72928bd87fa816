//! Attention as the first page of a textbook has it: weights, then a weighted sum.

use ndarray::{Array2, ArrayView2, Axis};

use crate::Error;
use crate::memory::expect_room;

/// The attention weights of every query over the keys: `a_ij = exp(⟨u_i, v_j⟩) / Σ_j exp(⟨u_i, v_j⟩)`.
///
/// The scores are plain dot products; [`Attention::weights`](crate::Attention::weights) has scales, masks and heads.
///
/// # Shapes
/// `queries`: `[queries, width]`, `keys`: `[keys, width]`; the weights: `[queries, keys]`. Each row sums to 1.
/// With a single key every weight is 1, whatever the score.
///
/// # Errors
/// Queries and keys of different width.
///
/// # Example
/// ```
/// use ndarray::array;
/// let weights = regard_kernels::attention_weights(array![[1.0, 0.0]].view(), array![[2.0, 5.0], [1.0, 7.0]].view())?;
/// // exp(2) / (exp(2) + exp(1)) = 0.7311
/// assert!((weights[[0, 0]] - 0.7311).abs() < 1e-4);
/// # Ok::<(), regard_kernels::Error>(())
/// ```
pub fn attention_weights(
    queries: ArrayView2<'_, f32>,
    keys: ArrayView2<'_, f32>,
) -> Result<Array2<f32>, Error> {
    if queries.dim().1 != keys.dim().1 {
        return Err(Error::Shape {
            name: "keys",
            found: keys.shape().to_vec(),
            expected: vec![keys.dim().0, queries.dim().1],
            reason: "keys are as wide as queries",
        });
    }
    let bytes = size_of::<Option<f64>>() + 2 * size_of::<f64>(); // as for the weights of `Attention`
    expect_room("weights", &[queries.dim().0, keys.dim().0], bytes)?;
    for (name, of) in [("queries", &queries), ("keys", &keys)] {
        expect_room(name, of.shape(), size_of::<f64>())?;
    }
    let (queries, keys) = (queries.mapv(f64::from), keys.mapv(f64::from));
    let axes = |of: Array2<f64>| of.insert_axis(Axis(0)).insert_axis(Axis(0));
    let options = crate::reference::Options {
        scale: Some(1.0),
        ..Default::default()
    };
    let weights = crate::reference::weights(axes(queries).view(), axes(keys).view(), &options);
    Ok(weights
        .index_axis_move(Axis(0), 0)
        .index_axis_move(Axis(0), 0)
        .mapv(|weight| weight as f32))
}

/// The weighted sum of the values: `o_i = Σ_j a_ij x_j`.
///
/// # Shapes
/// `weights`: `[queries, keys]`, `values`: `[keys, width]`; the sums: `[queries, width]`.
///
/// # Errors
/// Not as many values as each query has weights.
///
/// # Example
/// ```
/// use ndarray::array;
/// let sums = regard_kernels::weighted_sum(array![[0.25, 0.75]].view(), array![[4.0, 0.0], [0.0, 8.0]].view())?;
/// assert_eq!(sums, array![[1.0, 6.0]]);
/// # Ok::<(), regard_kernels::Error>(())
/// ```
pub fn weighted_sum(
    weights: ArrayView2<'_, f32>,
    values: ArrayView2<'_, f32>,
) -> Result<Array2<f32>, Error> {
    if weights.dim().1 != values.dim().0 {
        return Err(Error::Shape {
            name: "values",
            found: values.shape().to_vec(),
            expected: vec![weights.dim().1, values.dim().1],
            reason: "one value per weight",
        });
    }
    let shape = (weights.dim().0, values.dim().1);
    expect_room("weighted_sum", &[shape.0, shape.1], size_of::<f32>())?;
    Ok(Array2::from_shape_fn(shape, |(i, c)| {
        let sum: f64 = (0..values.dim().0)
            .map(|j| f64::from(weights[[i, j]]) * f64::from(values[[j, c]]))
            .sum();
        sum as f32
    }))
}
