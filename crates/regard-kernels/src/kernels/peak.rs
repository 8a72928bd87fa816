//! How fast the threads multiply and add where nothing has to be read: what every product is measured by.

use std::hint::black_box;
use std::time::Instant;

use crate::simd::{self, Kernel, Simd};
use crate::{Error, Isa};

/// Steps of a run: some milliseconds.
const STEPS: usize = 1 << 20;
/// Runs, of which the fastest counts: whatever else the machine does only makes it slower.
const RUNS: usize = 20;

/// Operations per second that the threads of the caller's pool can do together, in single precision: a multiplication
/// and an addition are two. Takes some tenths of a second.
///
/// # Errors
/// An instruction set that this processor does not have.
///
/// # Example
/// ```
/// let isa = regard_kernels::Isa::best();
/// println!("{isa}: {:.0} GFLOP/s", regard_kernels::peak(isa)? / 1e9);
/// # Ok::<(), regard_kernels::Error>(())
/// ```
pub fn peak(isa: Isa) -> Result<f64, Error> {
    isa.require()?;
    let run = || -> f64 {
        let start = Instant::now();
        let operations = rayon::broadcast(|_| {
            simd::run(
                isa,
                Chains {
                    factor: black_box(0.5),
                },
            )
        });
        operations.into_iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64()
    };
    Ok((0..RUNS).map(|_| run()).fold(0.0, f64::max))
}

/// Sums that do not wait for one another, in registers. Gives the number of operations.
struct Chains {
    factor: f32,
}

impl Kernel for Chains {
    type Output = usize;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> usize {
        // A processor that begins four of them in a cycle and ends each four cycles later needs 16; where there are 16
        // registers, none begins more than two.
        if S::ROWS > 6 {
            chains::<S, 24>(simd, self.factor)
        } else {
            chains::<S, 12>(simd, self.factor)
        }
    }
}

#[inline(always)]
fn chains<S: Simd, const COUNT: usize>(simd: S, factor: f32) -> usize {
    let (factor, added) = (simd.splat(factor), simd.splat(1e-3));
    let mut sums = [simd.splat(0.0); COUNT];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = simd.splat(i as f32); // all different, so that none stands for another
    }
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = simd.multiply_add(*sum, factor, added);
        }
    }
    black_box(sums.map(|sum| simd.sum(sum)));
    2 * S::LANES * COUNT * STEPS
}
