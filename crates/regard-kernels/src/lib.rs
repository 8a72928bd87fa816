//! The fastest exact attention on a CPU, forward and backward, on plain arrays.
#![expect(
    clippy::needless_pass_by_value,
    reason = "a view is handed over, as `ndarray` does; it stands for a reference"
)]

pub mod reference;

mod attention;
mod error;
mod isa;
mod kernels;
mod mask;
mod simd;
mod textbook;

pub use attention::{Attention, Forward, Gradients};
pub use error::Error;
pub use isa::Isa;
pub use mask::Causal;
pub use textbook::{attention_weights, weighted_sum};
