//! Attention mechanisms, layers and models on [Burn](https://burn.dev), over the fused kernels of `regard-kernels`.
//!
//! - [`operation`]: the differentiable operations; on the CPU they are fused, elsewhere composed of Burn's own.
//! - [`mechanisms`]: the attention family, one file each.
//! - [`layers`]: multi-head attention, feed-forward, encoder, decoder with its cache, patches, positions.
//! - [`models`]: whole models.
//! - [`generation`]: greedy and beam search, sampling.
//! - [`optimizer`], [`Noise`], [`parameters`]: what training needs, so that a resumed run ends with the same bits.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use regard_nn::operation::{AttentionOptions, attention};
//!
//! let device = Device::flex().autodiff();
//! // [batch, heads, sequence, head_dim]
//! let x = Tensor::<4>::ones([2, 4, 10, 16], &device).require_grad();
//! let out = attention(x.clone(), x.clone(), x.clone(), &AttentionOptions::default());
//! let gradients = out.sum().backward();
//! assert_eq!(x.grad(&gradients).unwrap().dims(), [2, 4, 10, 16]);
//! ```

mod error;
mod noise;
mod sequences;

pub mod generation;
pub mod layers;
pub mod mechanisms;
pub mod models;
pub mod operation;
pub mod optimizer;
pub mod parameters;

use burn::tensor::Device;

pub use error::ConfigError;
pub use noise::Noise;
pub use regard_kernels::Causal;
pub use sequences::Sequences;

/// The device of that name: `cpu`, or a graphics processor where the crate was built with its feature.
///
/// # Errors
///
/// The names that this build knows, when it is none of them.
pub fn device(name: &str) -> Result<Device, String> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(0)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(Default::default())),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(Default::default())),
        _ => {
            let mut known = vec!["cpu"];
            let built = [
                ("cuda", cfg!(feature = "cuda")),
                ("rocm", cfg!(feature = "rocm")),
                ("vulkan", cfg!(feature = "vulkan")),
                ("metal", cfg!(feature = "metal")),
            ];
            known.extend(
                built
                    .iter()
                    .filter(|(_, built)| *built)
                    .map(|(name, _)| *name),
            );
            Err(format!(
                "one of the devices of this build: {}",
                known.join(", ")
            ))
        }
    }
}
