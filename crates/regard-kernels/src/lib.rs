//! The fastest exact attention on a CPU, forward and backward, on plain arrays.

pub mod reference;

mod attention;
mod error;
mod isa;
mod mask;
mod textbook;

pub use attention::{Attention, Forward, Gradients};
pub use error::Error;
pub use isa::Isa;
pub use mask::Causal;
pub use textbook::{attention_weights, weighted_sum};
