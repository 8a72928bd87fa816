//! The product of two matrices, which training spends most of its time in.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, CowArray, Ix2};

use crate::Isa;
use crate::simd::{Panels, Side, Start, add_product, product as in_memory};

/// `out[r, c] = Σ_p left[r, p] · right[p, c] (+ bias[c])`, with the widest instructions there are and all of rayon's
/// threads.
///
/// Every element is summed in the same order, in blocks of 256 steps: the result has the same bits for any number of
/// threads. Sides in rows (`[i, j]` beside `[i, j + 1]`) or in columns (a transposed view) are read where they lie; sides
/// with other strides are copied first.
///
/// After Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): the right side is packed into
/// panels as wide as the register tile, and blocks of the left side stay in the second cache.
///
/// # Shapes
/// - `left`: `[rows, depth]`, `right`: `[depth, columns]`, `bias`: `[columns]`
/// - out: `[rows, columns]`; with a depth of 0 zeros, or the bias
///
/// # Panics
/// If the shapes do not fit.
///
/// # Example
/// ```
/// use ndarray::array;
/// let out = regard_kernels::product(array![[1.0, 2.0]].view(), array![[3.0], [4.0]].view(), Some(&[0.5]));
/// assert_eq!(out, array![[11.5]]);
/// ```
pub fn product(
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    bias: Option<&[f32]>,
) -> Array2<f32> {
    PackedMatrix::new(right).product(left, bias)
}

/// `out += left · right`; as [`product`].
///
/// # Panics
/// If the shapes do not fit, or the rows of `out` do not lie one behind the other.
pub fn add_to_product(
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    out: ArrayViewMut2<'_, f32>,
) {
    PackedMatrix::new(right).add_to_product(left, out);
}

/// The right side of many products, packed into panels once: packing reads and writes it all, which a product with few rows
/// on the left hardly does more of.
///
/// # Example
/// ```
/// use ndarray::array;
/// let right = regard_kernels::PackedMatrix::new(array![[3.0], [4.0]].view());
/// assert_eq!(right.product(array![[1.0, 2.0]].view(), None), array![[11.0]]);
/// assert_eq!(right.product(array![[2.0, 0.0]].view(), Some(&[0.5])), array![[6.5]]);
/// ```
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    panels: Panels,
}

impl PackedMatrix {
    /// Lays `right` out for the widest instructions there are: a copy, read column by column where it is a transposed view.
    pub fn new(right: ArrayView2<'_, f32>) -> Self {
        let right = lined_up(right);
        Self {
            panels: Panels::new(Isa::best(), side(&right)),
        }
    }

    /// Rows and columns of what was packed.
    pub fn dim(&self) -> (usize, usize) {
        (self.panels.rows, self.panels.columns)
    }

    /// `out[r, c] = Σ_p left[r, p] · right[p, c] (+ bias[c])`; as [`product()`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product(&self, left: ArrayView2<'_, f32>, bias: Option<&[f32]>) -> Array2<f32> {
        self.check(&left);
        let shape = (left.nrows(), self.panels.columns);
        if let Some(bias) = bias {
            assert_eq!(
                bias.len(),
                shape.1,
                "product: the bias, and columns of right"
            );
        }
        let left = lined_up(left);
        let start = bias.map_or(Start::Zero, Start::Bias);
        let values = in_memory(side(&left), &self.panels, start);
        match Array2::from_shape_vec(shape, values) {
            Ok(out) => out,
            Err(error) => unreachable!("as many numbers as the shape has: {error}"),
        }
    }

    /// `out += left · right`; as [`add_to_product()`].
    ///
    /// # Panics
    /// If the shapes do not fit, or the rows of `out` do not lie one behind the other.
    pub fn add_to_product(&self, left: ArrayView2<'_, f32>, mut out: ArrayViewMut2<'_, f32>) {
        self.check(&left);
        assert_eq!(
            out.dim(),
            (left.nrows(), self.panels.columns),
            "product: out"
        );
        let left = lined_up(left);
        match out.as_slice_mut() {
            Some(out) => add_product(side(&left), &self.panels, out),
            None => panic!("product: the rows of out lie one behind the other"),
        }
    }

    fn check(&self, left: &ArrayView2<'_, f32>) {
        assert_eq!(
            left.ncols(),
            self.panels.rows,
            "product: columns of left {:?} and rows of right {:?}",
            left.shape(),
            self.dim()
        );
    }
}

/// In rows or in columns, copied where it is neither.
fn lined_up(view: ArrayView2<'_, f32>) -> CowArray<'_, f32, Ix2> {
    match view.as_slice().is_some() || view.t().as_slice().is_some() {
        true => view.into(),
        false => view.as_standard_layout().into_owned().into(),
    }
}

fn side<'a>(array: &'a CowArray<'_, f32, Ix2>) -> Side<'a> {
    let (rows, columns) = array.dim();
    let view = array.view();
    let (values, row_step, column_step) = match view.to_slice() {
        Some(values) => (values, columns, 1),
        None => match array.view().reversed_axes().to_slice() {
            Some(values) => (values, 1, rows),
            None => unreachable!("lined up"),
        },
    };
    Side {
        values,
        rows,
        columns,
        row_step,
        column_step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|at| ((at * 7919 + seed * 104_729) % 257) as f32 / 128.0 - 1.0)
            .collect()
    }

    fn side_of(values: &[f32], rows: usize, columns: usize, turned: bool) -> Side<'_> {
        Side {
            values,
            rows,
            columns,
            row_step: if turned { 1 } else { columns },
            column_step: if turned { rows } else { 1 },
        }
    }

    #[test]
    fn every_instruction_set_gives_the_product_of_any_shape_and_layout() {
        let shapes = [
            (1, 1, 1),
            (1, 300, 33),
            (5, 17, 16),
            (7, 0, 3),
            (97, 513, 31),
            (200, 64, 100),
            (3, 9, 700),
        ];
        for isa in Isa::available() {
            for (rows, depth, columns) in shapes {
                for (left_turned, right_turned) in
                    [(false, false), (true, false), (false, true), (true, true)]
                {
                    let (a, b) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
                    let left = side_of(&a, rows, depth, left_turned);
                    let right = side_of(&b, depth, columns, right_turned);
                    let bias = numbers(columns, 3);
                    let panels = simd::Panels::new(isa, right);
                    let plain = simd::product(left, &panels, Start::Zero);
                    let biased = simd::product(left, &panels, Start::Bias(&bias));
                    let mut added = numbers(rows * columns, 4);
                    let before = added.clone();
                    simd::add_product(left, &panels, &mut added);
                    for row in 0..rows {
                        for column in 0..columns {
                            let terms = (0..depth).map(|p| {
                                let x = a[row * left.row_step + p * left.column_step];
                                let y = b[p * right.row_step + column * right.column_step];
                                f64::from(x) * f64::from(y)
                            });
                            let sum: f64 = terms.sum();
                            let at = row * columns + column;
                            for (found, start) in [
                                (plain[at], 0.0),
                                (biased[at], bias[column]),
                                (added[at], before[at]),
                            ] {
                                let expected = sum + f64::from(start);
                                let error = (f64::from(found) - expected).abs();
                                assert!(
                                    error <= 1e-6 * (depth + 2) as f64,
                                    "{isa:?} {rows}x{depth}x{columns} [{row}, {column}]: {found}, expected {expected}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let (a, b) = (numbers(301 * 700, 1), numbers(700 * 130, 2));
        let left = ArrayView2::from_shape((301, 700), &a).unwrap();
        let right = ArrayView2::from_shape((700, 130), &b).unwrap();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| product(left, right, None))
        };
        let one = with(1);
        for threads in [2, 3, 8] {
            assert_eq!(one, with(threads));
        }
    }

    #[test]
    fn other_strides_are_copied_first() {
        let a = Array2::from_shape_fn((9, 12), |(r, c)| (r * 12 + c) as f32);
        let every_second = a.slice(ndarray::s![..;2, ..;-3]);
        let right = Array2::from_shape_fn((4, 2), |(r, c)| (r + c) as f32);
        assert_eq!(
            product(every_second, right.view(), None),
            every_second.dot(&right)
        );
    }
}
