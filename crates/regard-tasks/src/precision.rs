//! What the matrix products of training are computed with.

use burn::tensor::Device;
use regard_kernels::{Isa, Precision as Kernels};
use regard_nn::operation::has_own_products;
use serde::{Deserialize, Serialize};

use crate::trainer::Recipe;
use crate::{Error, Result};

/// What the numbers that training multiplies as matrices are rounded to. Weights, sums, loss, norms and the optimizer are f32
/// with either, and so are answers and validation: they show what is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where the processor multiplies it faster, f32 elsewhere.
    Auto,
    /// They are not rounded.
    #[default]
    F32,
    /// To bf16.
    Bf16,
}

impl Precision {
    /// Writes down what this means on this machine, and a sentence where it is not f32: a run keeps it when it is resumed.
    ///
    /// # Errors
    ///
    /// bf16 on a device whose products are not ours.
    pub(crate) fn settle(
        self,
        device: &Device,
        recipe: &mut Recipe,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        // A wrong name is refused by whoever begins to compute.
        let isa = Isa::chosen().unwrap_or(Isa::Scalar);
        let faster = Kernels::faster(isa) == Kernels::Bf16;
        let own = has_own_products(device);
        recipe.precision = match self {
            Self::Auto if own && faster => Self::Bf16,
            Self::Auto | Self::F32 => Self::F32,
            Self::Bf16 if own => Self::Bf16,
            Self::Bf16 => {
                return Err(Error::argument(
                    "--precision",
                    "bf16 where the products are Burn's own",
                    "f32 or auto; bf16 on the device `cpu`, with REGARD_FUSED unset",
                ));
            }
        };
        if recipe.precision == Self::Bf16 {
            let why = match faster {
                true => format!("which this processor ({isa}) multiplies faster than f32"),
                false => format!("as asked; this processor ({isa}) multiplies f32 faster"),
            };
            notes.push(format!(
                "matrix products of the training are rounded to bf16, {why}; everything else is f32 (--precision)"
            ));
        }
        Ok(())
    }

    /// Runs `step` with it.
    pub(crate) fn run<R>(self, step: impl FnOnce() -> R) -> R {
        match self {
            Self::Bf16 => Kernels::Bf16.run(step),
            Self::Auto | Self::F32 => Kernels::F32.run(step),
        }
    }
}
