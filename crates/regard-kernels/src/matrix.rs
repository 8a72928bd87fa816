//! The product of two matrices, which training spends most of its time in.

use std::sync::LazyLock;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, CowArray, Ix2};

use crate::simd::{self, Finish, Means, Panels, Right, Side, Start, Then};
use crate::{Isa, Precision};

/// `out[r, c] = Σ_p left[r, p] · right[p, c] (+ bias[c])`, with the instruction set of [`Isa::chosen`], the precision of
/// [`Precision::here`] and all of rayon's threads.
///
/// Every element is summed in the same order, in blocks of 256 steps: the result has the same bits for any number of
/// threads. Sides in rows (`[i, j]` beside `[i, j + 1]`) or in columns (a transposed view) are read where they lie; sides
/// with other strides are copied first.
///
/// After Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): the right side is packed into
/// panels as wide as the register tile, the left side into tiles that stay in the second cache.
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
    check(left.shape(), right.dim());
    check_bias(bias, right.ncols());
    let shape = (left.nrows(), right.ncols());
    let (left, right) = (lined_up(left), lined_up(right));
    let right = Right::Side(means(), side(&right));
    array(shape, simd::product(side(&left), right, start(bias)))
}

/// `out += left · right`; as [`product`].
///
/// # Panics
/// If the shapes do not fit, or the rows of `out` do not lie one behind the other.
pub fn add_to_product(
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    assert_eq!(out.dim(), (left.nrows(), right.ncols()), "product: out");
    let Some(out) = out.as_slice_mut() else {
        panic!("product: the rows of out lie one behind the other");
    };
    check(left.shape(), right.dim());
    let (left, right) = (lined_up(left), lined_up(right));
    let right = Right::Side(means(), side(&right));
    simd::multiply(side(&left), right, Start::Old, out, None);
}

/// [`product`] into memory that is there, row after row; what was in it does not matter. As soon as some rows are complete,
/// and still in the cache, `finish` gets the number of the first, the rows, and the same part of `second`, which is as long
/// as `out`, or empty: another pass over memory saved. It is called by several threads at once.
///
/// # Panics
/// If the shapes do not fit.
///
/// # Example
/// ```
/// use ndarray::array;
/// let (mut out, mut positive) = ([0.0; 2], [0.0; 2]);
/// let (left, right) = (array![[1.0, 2.0]], array![[3.0, -1.0], [4.0, -1.0]]);
/// regard_kernels::product_then(left.view(), right.view(), None, &mut out, &mut positive, |_, out, positive| {
///     for (positive, x) in positive.iter_mut().zip(out) {
///         *positive = x.max(0.0);
///     }
/// });
/// assert_eq!((out, positive), ([11.0, -3.0], [11.0, 0.0]));
/// ```
pub fn product_then(
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    second: &mut [f32],
    finish: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    check_arrays(out, second, left.nrows() * right.ncols());
    check(left.shape(), right.dim());
    check_bias(bias, right.ncols());
    let (left, right) = (lined_up(left), lined_up(right));
    let right = Right::Side(means(), side(&right));
    let finish: &Finish<'_> = &finish;
    let then = Then { second, finish };
    simd::multiply(side(&left), right, start(bias), out, Some(then));
}

/// `out = left · right` as [`product_then`] writes it, and gives the sum of the rows of `right`, which is read anyway: the
/// gradients of a linear map's weight and bias.
///
/// # Panics
/// If the shapes do not fit.
///
/// # Example
/// ```
/// use ndarray::array;
/// let mut out = [0.0; 2];
/// let (left, right) = (array![[1.0, 2.0]], array![[3.0, -1.0], [4.0, -1.0]]);
/// let sums = regard_kernels::product_and_sums(left.view(), right.view(), &mut out);
/// assert_eq!((out, sums), ([11.0, -3.0], vec![7.0, -2.0]));
/// ```
pub fn product_and_sums(
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    out: &mut [f32],
) -> Vec<f32> {
    assert_eq!(out.len(), left.nrows() * right.ncols(), "product: out");
    check(left.shape(), right.dim());
    let (left, right) = (lined_up(left), lined_up(right));
    simd::multiply_and_sum(means(), side(&left), side(&right), out)
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
    /// Lays `right` out for the instruction set in use: a copy, read column by column where it is a transposed view.
    pub fn new(right: ArrayView2<'_, f32>) -> Self {
        let right = lined_up(right);
        Self {
            panels: Panels::new(means(), side(&right)),
        }
    }

    /// Rows and columns of what was packed.
    pub fn dim(&self) -> (usize, usize) {
        (self.panels.rows, self.panels.columns)
    }

    /// What its products are computed with: the precision where it was packed.
    pub fn precision(&self) -> Precision {
        self.panels.means.precision
    }

    /// `out[r, c] = Σ_p left[r, p] · right[p, c] (+ bias[c])`; as [`product()`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product(&self, left: ArrayView2<'_, f32>, bias: Option<&[f32]>) -> Array2<f32> {
        check(left.shape(), self.dim());
        check_bias(bias, self.panels.columns);
        let shape = (left.nrows(), self.panels.columns);
        let left = lined_up(left);
        let right = Right::Panels(&self.panels);
        array(shape, simd::product(side(&left), right, start(bias)))
    }

    /// As [`product_then()`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product_then(
        &self,
        left: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
        out: &mut [f32],
        second: &mut [f32],
        finish: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        check(left.shape(), self.dim());
        check_bias(bias, self.panels.columns);
        check_arrays(out, second, left.nrows() * self.panels.columns);
        let left = lined_up(left);
        let finish: &Finish<'_> = &finish;
        let then = Some(Then { second, finish });
        let right = Right::Panels(&self.panels);
        simd::multiply(side(&left), right, start(bias), out, then);
    }

    /// `out += left · right`; as [`add_to_product()`].
    ///
    /// # Panics
    /// If the shapes do not fit, or the rows of `out` do not lie one behind the other.
    pub fn add_to_product(&self, left: ArrayView2<'_, f32>, mut out: ArrayViewMut2<'_, f32>) {
        check(left.shape(), self.dim());
        assert_eq!(
            out.dim(),
            (left.nrows(), self.panels.columns),
            "product: out"
        );
        let left = lined_up(left);
        let Some(out) = out.as_slice_mut() else {
            panic!("product: the rows of out lie one behind the other");
        };
        let right = Right::Panels(&self.panels);
        simd::multiply(side(&left), right, Start::Old, out, None);
    }
}

/// The instruction set that `REGARD_ISA` names, or the widest, found once; and the precision in use here.
fn means() -> Means {
    static CHOSEN: LazyLock<Isa> = LazyLock::new(|| match Isa::chosen() {
        Ok(isa) => isa,
        Err(error) => panic!("product: {error}"),
    });
    Means {
        isa: *CHOSEN,
        precision: Precision::here(),
    }
}

fn start(bias: Option<&[f32]>) -> Start<'_> {
    bias.map_or(Start::Zero, Start::Bias)
}

fn check(left: &[usize], right: (usize, usize)) {
    assert_eq!(
        left[1], right.0,
        "product: columns of left {left:?} and rows of right {right:?}"
    );
}

fn check_bias(bias: Option<&[f32]>, columns: usize) {
    if let Some(bias) = bias {
        let found = bias.len();
        assert_eq!(found, columns, "product: the bias, and columns of right");
    }
}

fn check_arrays(out: &[f32], second: &[f32], length: usize) {
    assert_eq!(out.len(), length, "product: out");
    assert!(
        second.is_empty() || second.len() == length,
        "product: the second array has {} numbers, expected {length} or none",
        second.len()
    );
}

fn array(shape: (usize, usize), values: Vec<f32>) -> Array2<f32> {
    match Array2::from_shape_vec(shape, values) {
        Ok(out) => out,
        Err(error) => unreachable!("as many numbers as the shape has: {error}"),
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

    /// Numbers below 1 that bf16 has to round.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|at| ((at * 7919 + seed * 104_729) % 257) as f32 / 130.0 - 0.99)
            .collect()
    }

    /// Everything that this machine can test.
    fn all_means() -> Vec<Means> {
        let f32 = Isa::available().into_iter().chain([Isa::Wide]);
        let bf16 = Isa::available().into_iter().chain([Isa::WidePairs]);
        let with = |precision| move |isa| Means { isa, precision };
        let f32 = f32.map(with(Precision::F32));
        f32.chain(bf16.map(with(Precision::Bf16))).collect()
    }

    /// What is multiplied where `x` is given.
    fn rounded(x: f32, precision: Precision) -> f64 {
        f64::from(match precision {
            Precision::F32 => x,
            Precision::Bf16 => crate::bf16::from_f32(x).to_f32(),
        })
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
    fn every_instruction_set_gives_the_product_of_any_shape_layout_and_precision() {
        let shapes = [
            (1, 1, 1),
            (1, 300, 33),
            (5, 17, 16),
            (7, 0, 3),
            (97, 513, 31),
            (125, 270, 100),
            (31, 64, 100),
            (33, 300, 64),
            (3, 9, 700),
        ];
        for means in all_means() {
            for (rows, depth, columns) in shapes {
                for (left_turned, right_turned) in
                    [(false, false), (true, false), (false, true), (true, true)]
                {
                    let (a, b) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
                    let left = side_of(&a, rows, depth, left_turned);
                    let right = side_of(&b, depth, columns, right_turned);
                    let bias = numbers(columns, 3);
                    let panels = Panels::new(means, right);
                    let packed = simd::product(left, Right::Panels(&panels), Start::Zero);
                    let right_side = Right::Side(means, right);
                    let plain = simd::product(left, right_side, Start::Zero);
                    assert_eq!(plain, packed, "{means:?} {rows}x{depth}x{columns}");
                    let biased = simd::product(left, right_side, Start::Bias(&bias));
                    let mut out = vec![f32::NAN; rows * columns];
                    let sums = simd::multiply_and_sum(means, left, right, &mut out);
                    assert_eq!(plain, out, "{means:?} {rows}x{depth}x{columns}");
                    for (column, found) in sums.iter().enumerate() {
                        let terms = (0..depth)
                            .map(|p| b[p * right.row_step + column * right.column_step])
                            .map(f64::from);
                        let error = (f64::from(*found) - terms.sum::<f64>()).abs();
                        assert!(
                            error <= 1e-6 * (depth + 1) as f64,
                            "{means:?} sum of {column}"
                        );
                    }
                    let mut added = numbers(rows * columns, 4);
                    let before = added.clone();
                    simd::multiply(left, right_side, Start::Old, &mut added, None);
                    for row in 0..rows {
                        for column in 0..columns {
                            let terms = (0..depth).map(|p| {
                                let x = a[row * left.row_step + p * left.column_step];
                                let y = b[p * right.row_step + column * right.column_step];
                                rounded(x, means.precision) * rounded(y, means.precision)
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
                                    "{means:?} {rows}x{depth}x{columns} [{row}, {column}]: {found}, expected {expected}"
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
        // Threads share the rows, or the columns of few.
        for (rows, columns) in [(301, 130), (40, 130), (40, 160)] {
            let (a, b) = (numbers(rows * 700, 1), numbers(700 * columns, 2));
            let left = ArrayView2::from_shape((rows, 700), &a).unwrap();
            let right = ArrayView2::from_shape((700, columns), &b).unwrap();
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let precisions = [Precision::F32, Precision::Bf16];
                pool.unwrap()
                    .install(|| precisions.map(|p| p.run(|| both(left, right))))
            };
            let one = with(1);
            for threads in [2, 3, 8] {
                assert_eq!(one, with(threads));
            }
        }
    }

    /// A product, and the gradient of its right side were it that of its result.
    fn both(left: ArrayView2<'_, f32>, right: ArrayView2<'_, f32>) -> (Array2<f32>, Vec<f32>) {
        let out = product(left, right, None);
        let mut gradient = vec![f32::NAN; right.len()];
        let sums = product_and_sums(left.t(), out.view(), &mut gradient);
        gradient.extend(sums);
        (out, gradient)
    }

    #[test]
    fn rows_are_finished_once_all_their_parts_are_summed() {
        // Deep and wide enough that the right side is packed in several parts; few rows, too, whose columns are shared.
        finishes((130, 1400, 520));
        finishes((60, 1400, 520));
        finishes((60, 700, 512));
    }

    fn finishes((rows, depth, columns): (usize, usize, usize)) {
        let (a, b, bias) = (
            numbers(rows * depth, 1),
            numbers(depth * columns, 2),
            numbers(columns, 3),
        );
        let left = ArrayView2::from_shape((rows, depth), &a).unwrap();
        let right = ArrayView2::from_shape((depth, columns), &b).unwrap();
        let expected = product(left, right, Some(&bias));
        let (mut out, mut second) = (vec![f32::NAN; rows * columns], vec![0.0; rows * columns]);
        product_then(
            left,
            right,
            Some(&bias),
            &mut out,
            &mut second,
            |first, out, second| {
                for (at, (second, x)) in second.iter_mut().zip(out).enumerate() {
                    *second += *x;
                    *x = (first + at / columns) as f32;
                }
            },
        );
        assert_eq!(array((rows, columns), second), expected);
        for (row, out) in out.chunks(columns).enumerate() {
            assert!(out.iter().all(|x| *x == row as f32));
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
