//! The options of a call, as `regard/_arguments.py` hands them over: names and shapes are checked there, what they mean
//! is checked by the kernels.

use half::{bf16, f16};
use numpy::{PyReadonlyArray2, PyReadonlyArray4, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use regard_kernels::{Attention, Blocks, Causal, Dropout, Isa};

use crate::arrays::read4;
use crate::errors::{refuse, refused};

/// What is given of them.
#[derive(Default, FromPyObject)]
#[pyo3(from_item_all)]
pub struct Options<'py> {
    scale: Option<f64>,
    causal: Option<String>,
    causal_offset: Option<isize>,
    offsets: Option<Vec<isize>>,
    window: (Option<usize>, Option<usize>),
    prefix: Option<Vec<usize>>,
    visible_keys: Option<Vec<usize>>,
    documents: Option<(PyReadonlyArray2<'py, i32>, PyReadonlyArray2<'py, i32>)>,
    blocks: Option<(PyReadonlyArray4<'py, bool>, (usize, usize))>,
    mask: Option<PyReadonlyArray4<'py, bool>>,
    bias: Option<Bound<'py, PyAny>>,
    softcap: Option<f64>,
    slopes: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
    dropout: Option<(f32, u64)>,
    isa: Option<String>,
}

/// A bias of any type of number.
pub enum Bias<'py> {
    None,
    F32(PyReadonlyArray4<'py, f32>),
    F64(PyReadonlyArray4<'py, f64>),
    Bf16(PyReadonlyArray4<'py, bf16>),
    F16(PyReadonlyArray4<'py, f16>),
}

impl<'py> Options<'py> {
    /// The bias, borrowed for the call.
    pub fn bias(&self) -> PyResult<Bias<'py>> {
        let Some(bias) = &self.bias else {
            return Ok(Bias::None);
        };
        let dtype = bias.cast::<PyUntypedArray>()?.dtype().to_string();
        Ok(match dtype.as_str() {
            "float32" => Bias::F32(read4("bias", bias)?),
            "float64" => Bias::F64(read4("bias", bias)?),
            "bfloat16" => Bias::Bf16(read4("bias", bias)?),
            "float16" => Bias::F16(read4("bias", bias)?),
            other => {
                return Err(refuse(
                    "bias",
                    &format!("an array of {other}"),
                    "float32, float64, float16 or bfloat16",
                ));
            }
        })
    }

    /// The kernels' options, for as long as these and the bias are borrowed.
    pub fn attention<'a>(&'a self, bias: &'a Bias<'_>) -> PyResult<Attention<'a>> {
        let mut attention = Attention::new().window(self.window.0, self.window.1);
        if let Some(scale) = self.scale {
            attention = attention.scale(scale);
        }
        match self.causal.as_deref() {
            None => {}
            Some("top_left") => attention = attention.causal(Causal::TopLeft),
            Some("bottom_right") => attention = attention.causal(Causal::BottomRight),
            Some(other) => {
                return Err(refuse(
                    "causal",
                    other,
                    "\"top_left\", \"bottom_right\", an offset, or one for each batch row",
                ));
            }
        }
        if let Some(offset) = self.causal_offset {
            attention = attention.causal(Causal::Offset(offset));
        }
        if let Some(offsets) = &self.offsets {
            attention = attention.offsets(offsets);
        }
        if let Some(prefix) = &self.prefix {
            attention = attention.prefix(prefix);
        }
        if let Some(visible_keys) = &self.visible_keys {
            attention = attention.visible_keys(visible_keys);
        }
        if let Some((of_query, of_key)) = &self.documents {
            attention = attention.documents(of_query.as_array(), of_key.as_array());
        }
        if let Some((visible, size)) = &self.blocks {
            attention = attention.blocks(Blocks {
                visible: visible.as_array(),
                size: *size,
            });
        }
        if let Some(mask) = &self.mask {
            attention = attention.mask(mask.as_array());
        }
        attention = match bias {
            Bias::None => attention,
            Bias::F32(bias) => attention.bias(bias.as_array()),
            Bias::F64(bias) => attention.bias(bias.as_array()),
            Bias::Bf16(bias) => attention.bias(bias.as_array()),
            Bias::F16(bias) => attention.bias(bias.as_array()),
        };
        if let Some(cap) = self.softcap {
            attention = attention.softcap(cap);
        }
        if let Some(slopes) = &self.slopes {
            attention = attention.slopes(slopes);
        }
        if let Some(sinks) = &self.sinks {
            attention = attention.sinks(sinks);
        }
        if let Some((probability, seed)) = self.dropout {
            attention = attention.dropout(Dropout { probability, seed });
        }
        if let Some(isa) = &self.isa {
            attention = attention.isa(isa.parse::<Isa>().map_err(refused)?);
        }
        Ok(attention)
    }
}
