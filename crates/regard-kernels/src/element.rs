//! What kinds of numbers attention is computed on.

use half::{bf16, f16};
use ndarray::{ArrayView4, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4};

use crate::Isa;
use crate::kernels::{self, Known, RowsMut, Wanted};
use crate::numbers::{Numbers, Stored};
use crate::problem::Problem;
use crate::results::{GradientsMut, OptionGradients};
use crate::weights::TopWeights;

/// A number that attention is computed on: `f32`, `f64`, [`half::bf16`] or [`half::f16`].
///
/// `Sum` is what is summed in, and what a log-sum-exp is: f32, for f64 it is f64. Half types are multiplied and summed
/// in f32 and rounded once, to the nearest, at the end.
pub trait Element: Numeric {
    /// As NumPy calls it.
    const NAME: &'static str;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Rounded to the nearest.
    fn from_f64(number: f64) -> Self;
}

/// What the crate needs of an element; nobody can name it outside, so there are no others.
pub trait Numeric: Copy + Default + PartialEq + Send + Sync + std::fmt::Debug + 'static {
    type Sum: Element<Sum = Self::Sum>;
    fn numbers(view: ArrayView4<'_, Self>) -> Numbers<'_>;
    fn rows_mut(view: ArrayViewMut2<'_, Self>) -> RowsMut<'_>;
    /// Rounded to the nearest.
    fn from_f32(number: f32) -> Self;
    fn forward(
        isa: Isa,
        problem: &Problem<'_>,
        out: ArrayViewMut4<'_, Self>,
        log_sum_exp: ArrayViewMut3<'_, Self::Sum>,
    );
    fn backward<'p>(
        isa: Isa,
        problem: &Problem<'p>,
        known: &Known<'p, Self::Sum>,
        wanted: Wanted,
        into: GradientsMut<'_, Self>,
    ) -> OptionGradients<Self>
    where
        Self: Element;
    /// `sums` are 0 before; `known` is of values of width 0.
    fn key_sums<'p>(
        isa: Isa,
        problem: &Problem<'p>,
        known: &Known<'p, Self::Sum>,
        sums: ArrayViewMut3<'_, Self::Sum>,
    );
    /// Likewise.
    fn top_weights<'p>(
        isa: Isa,
        problem: &Problem<'p>,
        known: &Known<'p, Self::Sum>,
        top: &mut TopWeights<Self::Sum>,
    );
}

impl Element for f64 {
    const NAME: &'static str = "float64";
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(number: f64) -> Self {
        number
    }
}

impl Numeric for f64 {
    type Sum = f64;
    fn numbers(view: ArrayView4<'_, Self>) -> Numbers<'_> {
        Numbers::new(Stored::F64(view))
    }
    fn rows_mut(view: ArrayViewMut2<'_, Self>) -> RowsMut<'_> {
        RowsMut::F64(view)
    }
    fn from_f32(number: f32) -> Self {
        number.into()
    }
    fn forward(
        _: Isa,
        problem: &Problem<'_>,
        out: ArrayViewMut4<'_, Self>,
        log_sum_exp: ArrayViewMut3<'_, f64>,
    ) {
        kernels::double::forward(problem, out, log_sum_exp);
    }
    fn backward<'p>(
        _: Isa,
        problem: &Problem<'p>,
        known: &Known<'p, f64>,
        wanted: Wanted,
        into: GradientsMut<'_, Self>,
    ) -> OptionGradients<Self> {
        kernels::double::backward(problem, known, wanted, into)
    }
    fn key_sums<'p>(
        _: Isa,
        problem: &Problem<'p>,
        _: &Known<'p, f64>,
        sums: ArrayViewMut3<'_, f64>,
    ) {
        kernels::double::key_sums(problem, sums);
    }
    fn top_weights<'p>(
        _: Isa,
        problem: &Problem<'p>,
        _: &Known<'p, f64>,
        top: &mut TopWeights<f64>,
    ) {
        kernels::double::top_weights(problem, top);
    }
}

macro_rules! computed_in_f32 {
    ($type:ty, $name:literal, $variant:ident, $from_f32:expr, $from_f64:expr, $backward:expr) => {
        impl Element for $type {
            const NAME: &'static str = $name;
            fn to_f64(self) -> f64 {
                self.into()
            }
            fn from_f64(number: f64) -> Self {
                $from_f64(number)
            }
        }

        impl Numeric for $type {
            type Sum = f32;
            fn numbers(view: ArrayView4<'_, Self>) -> Numbers<'_> {
                Numbers::new(Stored::$variant(view))
            }
            fn rows_mut(view: ArrayViewMut2<'_, Self>) -> RowsMut<'_> {
                RowsMut::$variant(view)
            }
            fn from_f32(number: f32) -> Self {
                $from_f32(number)
            }
            fn forward(
                isa: Isa,
                problem: &Problem<'_>,
                out: ArrayViewMut4<'_, Self>,
                log_sum_exp: ArrayViewMut3<'_, f32>,
            ) {
                kernels::forward(isa, problem, out, log_sum_exp);
            }
            fn backward<'p>(
                isa: Isa,
                problem: &Problem<'p>,
                known: &Known<'p, f32>,
                wanted: Wanted,
                into: GradientsMut<'_, Self>,
            ) -> OptionGradients<Self> {
                let OptionGradients {
                    bias,
                    sinks,
                    slopes,
                } = $backward(isa, problem, known, wanted, into);
                OptionGradients {
                    bias,
                    sinks,
                    slopes,
                }
            }
            fn key_sums<'p>(
                isa: Isa,
                problem: &Problem<'p>,
                known: &Known<'p, f32>,
                sums: ArrayViewMut3<'_, f32>,
            ) {
                kernels::weights::key_sums(isa, problem, known, sums);
            }
            fn top_weights<'p>(
                isa: Isa,
                problem: &Problem<'p>,
                known: &Known<'p, f32>,
                top: &mut TopWeights<f32>,
            ) {
                kernels::weights::top_weights(isa, problem, known, top);
            }
        }
    };
}

computed_in_f32!(
    f32,
    "float32",
    F32,
    |number| number,
    |number| number as f32,
    backward_in_place
);
computed_in_f32!(
    bf16,
    "bfloat16",
    Bf16,
    bf16::from_f32,
    bf16::from_f64,
    kernels::backward_into
);
computed_in_f32!(
    f16,
    "float16",
    F16,
    f16::from_f32,
    f16::from_f64,
    kernels::backward_into
);

/// The sums are the results, where these are in standard layout.
fn backward_in_place<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    wanted: Wanted,
    into: GradientsMut<'_, f32>,
) -> OptionGradients<f32> {
    let results = [&into.q, &into.k, &into.v];
    match results.iter().all(|into| into.is_standard_layout()) {
        true => kernels::backward(isa, problem, known, wanted, into),
        false => kernels::backward_into(isa, problem, known, wanted, into),
    }
}
