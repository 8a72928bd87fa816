//! The differentiable operations, and the only place that knows the kernels *and* Burn.
//!
//! On the CPU (`Device::flex()`, with or without automatic differentiation) each is one pass with a hand-written
//! backward, over Burn's own memory, without a copy. On every other device, for every other element type, and where the
//! environment variable `REGARD_FUSED` is `0`, the same meaning is [`composed`] of Burn's operations.

mod activation;
mod attention;
pub mod composed;
mod convolution;
mod cross_entropy;
mod dropout;
mod embedding;
mod feed_forward;
mod gelu;
mod kept;
mod layer_norm;
mod linear;
mod max_pool;
mod memory;
mod multi_head;
mod projected;
mod residual;
mod rotary;
mod storage;
mod vectors;

pub use activation::Activation;
pub use attention::{AttentionOptions, attention, attention_weights};
pub use convolution::{Windows, convolution};
pub use cross_entropy::{copying_cross_entropy, cross_entropy};
pub use embedding::embedding;
pub use feed_forward::{FeedForwardRules, feed_forward};
pub use gelu::gelu;
pub use layer_norm::{Normalisation, layer_norm};
pub use linear::{Map, ScoreTable, linear, table_scores};
pub use max_pool::max_pool;
pub use multi_head::{Heads, multi_head};
pub use residual::Residual;
pub use rotary::rotary;

pub(crate) use dropout::dropout;
pub(crate) use memory::give_back;
pub(crate) use storage::{FlexTensor, contiguous, flex, numbers, unflex};
pub(crate) use vectors::{log_sum_exp, run_widest, widest};

use std::sync::LazyLock;

use burn::tensor::{DType, Device, Tensor};

/// Whether the one-pass operations serve this tensor.
pub(crate) fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && has_own_products(&x.device())
}

/// Whether matrix products on this device are those of `regard-kernels`, so that a
/// [`Precision`](regard_kernels::Precision) holds for them: everywhere else they are Burn's.
pub fn has_own_products(device: &Device) -> bool {
    static WANTED: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("REGARD_FUSED").is_none_or(|value| value != "0"));
    *WANTED && *device == Device::flex()
}
