//! Exact attention on a CPU, forward and backward, on plain arrays.
//!
//! `out = softmax(q kᵀ · scale) v`, fused: the scores are never stored, so memory grows with the length of the
//! sequences and not with its square. The instruction set (scalar, AVX2, AVX-512, NEON) is chosen at run time; the work is
//! shared out over the caller's `rayon` pool, and the result is the same to the last bit for any number of threads.
//!
//! ```
//! use ndarray::Array4;
//! use regard_kernels::{Attention, Causal};
//!
//! // [batch, heads, sequence, head_dim]; four query heads read two key heads, the second text has 7 words.
//! let q = Array4::from_shape_fn((2, 4, 10, 8), |(b, h, i, c)| ((b + h + 3 * i + c) % 5) as f32);
//! let k = Array4::from_shape_fn((2, 2, 10, 8), |(b, h, j, c)| ((b + h + 2 * j + c) % 7) as f32);
//! let v = Array4::from_shape_fn((2, 2, 10, 3), |(_, h, j, c)| (h + j * c) as f32);
//!
//! let attention = Attention::new().causal(Causal::TopLeft).visible_keys(&[10, 7]);
//! let forward = attention.forward(q.view(), k.view(), v.view())?;
//! assert_eq!(forward.out.dim(), (2, 4, 10, 3));
//!
//! // The gradients of a loss, from its gradient with respect to the output.
//! let d_out = Array4::ones(forward.out.dim());
//! let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
//! let gradients = attention.backward(q.view(), k.view(), v.view(), out, lse, d_out.view())?;
//! assert_eq!(gradients.v.dim(), v.dim());
//!
//! // The weights, only where they are asked for: they take the memory that the fused path saves.
//! let weights = attention.weights(q.view(), k.view())?;
//! assert_eq!(weights[[0, 0, 0, 0]], 1.0); // the first position sees only itself
//! # Ok::<(), regard_kernels::Error>(())
//! ```
//!
//! To read it: [`mod@reference`] is the definition, in the plainest code; `kernels/` is the fast form of it, safe and
//! without a word about processors; `simd/` holds the instructions and all the unsafe code. `docs/attention.md`
//! derives both passes, `docs/numerics.md` states every choice.
#![expect(
    clippy::needless_pass_by_value,
    reason = "a view is handed over, as `ndarray` does; it stands for a reference"
)]

pub mod reference;
pub mod threads;

mod attention;
mod cache;
mod dropout;
mod element;
mod error;
mod isa;
mod kernels;
mod mask;
mod matrix;
mod memory;
mod merge;
mod numbers;
mod packed;
mod precision;
mod problem;
mod processor;
mod results;
mod simd;
mod textbook;
mod weights;

pub use attention::Attention;
pub use cache::{Cache, CacheNumber, Cached};
pub use dropout::Dropout;
pub use element::Element;
pub use error::Error;
pub use half::{bf16, f16};
pub use isa::Isa;
pub use kernels::peak;
pub use mask::{Blocks, Causal};
pub use matrix::{PackedMatrix, add_to_product, product, product_and_sums, product_then};
pub use merge::merge;
pub use packed::{Packed, PackedForward, PackedGradients, PackedGradientsMut, PackedUpstream};
pub use precision::Precision;
pub use results::{Forward, Gradients, GradientsMut, OptionGradients, Upstream};
pub use simd::product_time;
pub use textbook::{attention_weights, weighted_sum};
pub use weights::TopWeights;
