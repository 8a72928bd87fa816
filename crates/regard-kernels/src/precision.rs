//! What the sides of a matrix product are rounded to.

use std::cell::Cell;
use std::fmt;

use crate::Isa;

/// What the numbers on both sides of a matrix product are rounded to before they are multiplied. Products are summed in f32
/// with either, and nothing else is rounded.
///
/// With bf16 a number keeps 8 of its 24 bits: its error is up to 2⁻⁸ of it, that of a sum of many such products far less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// They are not rounded.
    #[default]
    F32,
    /// To bf16: several times as fast where it is [the faster one](Precision::faster), slower elsewhere.
    Bf16,
}

thread_local! {
    static HERE: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    /// In which products are faster on this processor with that instruction set.
    ///
    /// bf16 with AMX: 4,096 × 256 · 256 × 1,024 at 2,030 GFLOP/s on two threads, 363 in f32. On the same processor, of Intel's,
    /// AVX-512-BF16 had 224, since its instruction begins half as often there as a multiply-add. On AMD's (Zen 4) it begins as
    /// often, and does twice as much: 324 GFLOP/s, 196 in f32. No other that has it has been measured.
    pub fn faster(isa: Isa) -> Self {
        match isa {
            Isa::Amx => Self::Bf16,
            Isa::Avx512Bf16 if crate::isa::is_of_amd() => Self::Bf16,
            _ => Self::F32,
        }
    }

    /// What the products are computed with that this thread begins: f32 outside of [`Precision::run`].
    pub fn here() -> Self {
        HERE.get()
    }

    /// Runs `work`, in which every product that this thread begins is computed with this precision, whatever threads share
    /// it. A task that `work` hands to another thread, and that begins products of its own, takes it along: it calls `run`.
    ///
    /// # Example
    /// ```
    /// use ndarray::array;
    /// use regard_kernels::{Precision, product};
    /// let (left, right) = (array![[1.0 + 1.0 / 512.0]], array![[2.0]]);
    /// let exact = product(left.view(), right.view(), None);
    /// let rounded = Precision::Bf16.run(|| product(left.view(), right.view(), None));
    /// assert_eq!((exact[[0, 0]], rounded[[0, 0]]), (2.0 + 1.0 / 256.0, 2.0));
    /// ```
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        /// Also where `work` panics.
        struct Before(Precision);
        impl Drop for Before {
            fn drop(&mut self) {
                HERE.set(self.0);
            }
        }
        let _before = Before(HERE.replace(self));
        work()
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_holds_inside_of_its_scope_and_on_its_thread_only() {
        assert_eq!(Precision::here(), Precision::F32);
        Precision::Bf16.run(|| {
            assert_eq!(Precision::here(), Precision::Bf16);
            Precision::F32.run(|| assert_eq!(Precision::here(), Precision::F32));
            assert_eq!(Precision::here(), Precision::Bf16);
            let other = std::thread::spawn(Precision::here).join();
            assert_eq!(other.ok(), Some(Precision::F32));
        });
        let panicked = std::panic::catch_unwind(|| Precision::Bf16.run(|| panic!("a test")));
        assert!(panicked.is_err());
        assert_eq!(Precision::here(), Precision::F32);
    }
}
