//! The same call in the words of each: ours, Burn's, candle's.

use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use candle_core::Tensor as CandleTensor;
use candle_nn::attention::{AttnMask, flash_attn};
use ndarray::Array4;
use regard_kernels::{Attention, Causal, Forward};

use crate::case::{Case, Numbers};

/// Ours.
pub struct Ours<'a> {
    attention: Attention<'a>,
    numbers: &'a Numbers,
}

pub fn ours<'a>(case: &Case, numbers: &'a Numbers) -> Ours<'a> {
    let mut attention = Attention::new();
    if case.causal {
        attention = attention.causal(Causal::TopLeft);
    }
    if let Some(visible_keys) = &numbers.visible_keys {
        attention = attention.visible_keys(visible_keys);
    }
    if let Some(bias) = &numbers.bias {
        attention = attention.bias(bias.view()).bias_gradient(true);
    }
    Ours { attention, numbers }
}

impl Ours<'_> {
    fn passed(&self) -> Forward {
        let Numbers { q, k, v, .. } = self.numbers;
        self.attention
            .forward(q.view(), k.view(), v.view())
            .expect("a good call")
    }

    pub fn forward(&self) -> Vec<f32> {
        self.passed().out.into_raw_vec_and_offset().0
    }

    /// Forward and backward: those of `q`, `k`, `v`, and of the bias if there is one.
    pub fn gradients(&self) -> Vec<Vec<f32>> {
        let Numbers { q, k, v, d_out, .. } = self.numbers;
        let forward = self.passed();
        let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
        let found = self
            .attention
            .backward(q.view(), k.view(), v.view(), out, lse, d_out.view());
        let found = found.expect("a good call");
        let all = [Some(found.q), Some(found.k), Some(found.v), found.bias];
        all.into_iter()
            .flatten()
            .map(|gradient| gradient.into_raw_vec_and_offset().0)
            .collect()
    }
}

/// Burn's, on its flex back end.
pub struct Burn {
    /// `q`, `k`, `v` and the bias, without and with gradients.
    plain: Arguments,
    learned: Arguments,
    d_out: Tensor<4>,
    group: usize,
    causal: bool,
}

struct Arguments {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    bias: Option<Tensor<4>>,
    /// `true` hides.
    hidden: Option<Tensor<4, Bool>>,
}

impl Arguments {
    fn of(case: &Case, numbers: &Numbers, device: &Device) -> Self {
        let tensor = |array: &Array4<f32>| burn_tensor(array, device);
        let hidden = |visible: &Vec<usize>| {
            let per_row = case.heads * case.queries;
            let row = |keys: usize| (0..case.keys).map(move |j| j >= keys);
            let all = visible
                .iter()
                .flat_map(|&keys| (0..per_row).flat_map(move |_| row(keys)));
            let shape = [case.batch, case.heads, case.queries, case.keys];
            Tensor::from_data(TensorData::new(all.collect::<Vec<bool>>(), shape), device)
        };
        Self {
            q: tensor(&numbers.q),
            k: tensor(&numbers.k),
            v: tensor(&numbers.v),
            bias: numbers.bias.as_ref().map(tensor),
            hidden: numbers.visible_keys.as_ref().map(hidden),
        }
    }

    fn learned(self) -> Self {
        Self {
            q: self.q.require_grad(),
            k: self.k.require_grad(),
            v: self.v.require_grad(),
            bias: self.bias.map(|bias| bias.require_grad()),
            hidden: self.hidden,
        }
    }
}

fn burn_tensor(array: &Array4<f32>, device: &Device) -> Tensor<4> {
    let data = TensorData::new(array.iter().copied().collect(), array.shape().to_vec());
    Tensor::from_data(data, device)
}

pub fn burn(case: &Case, numbers: &Numbers) -> Burn {
    let (plain, learned) = (Device::flex(), Device::flex().autodiff());
    Burn {
        plain: Arguments::of(case, numbers, &plain),
        learned: Arguments::of(case, numbers, &learned).learned(),
        d_out: burn_tensor(&numbers.d_out, &learned),
        group: case.heads / case.kv_heads,
        causal: case.causal,
    }
}

impl Burn {
    fn attention(&self, of: &Arguments) -> Tensor<4> {
        // It has no grouped heads: keys and values are repeated.
        let shared = |tensor: &Tensor<4>| {
            let [batch, heads, length, width] = tensor.dims();
            match self.group {
                1 => tensor.clone(),
                group => {
                    let apart = tensor.clone().reshape([batch, heads, 1, length, width]);
                    apart
                        .repeat_dim(2, group)
                        .reshape([batch, heads * group, length, width])
                }
            }
        };
        let options = AttentionModuleOptions {
            is_causal: self.causal,
            ..Default::default()
        };
        let shape = |bias: &Tensor<4>| {
            let [_, heads, queries, keys] = bias.dims();
            bias.clone().expand([of.q.dims()[0], heads, queries, keys])
        };
        let bias = of.bias.as_ref().map(shape);
        burn_attention(
            of.q.clone(),
            shared(&of.k),
            shared(&of.v),
            of.hidden.clone(),
            bias,
            options,
        )
    }

    pub fn run(&self) -> Tensor<4> {
        self.attention(&self.plain)
    }

    pub fn forward(&self) -> Vec<f32> {
        burn_numbers(self.run())
    }

    fn backward(&self) -> Vec<Tensor<4>> {
        let Arguments { q, k, v, bias, .. } = &self.learned;
        let loss = (self.attention(&self.learned) * self.d_out.clone()).sum();
        let gradients = loss.backward();
        let all = [Some(q), Some(k), Some(v), bias.as_ref()]
            .into_iter()
            .flatten();
        all.map(|of| of.grad(&gradients).expect("it is learned"))
            .collect()
    }

    pub fn step(&self) {
        drop(self.backward());
    }

    pub fn gradients(&self) -> Vec<Vec<f32>> {
        self.backward().into_iter().map(burn_numbers).collect()
    }
}

fn burn_numbers(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("f32")
}

/// candle's, which knows no padding for a batch, no bias of ours for one, and no gradient.
pub struct Candle {
    q: CandleTensor,
    k: CandleTensor,
    v: CandleTensor,
    scale: f32,
    causal: bool,
}

pub fn candle(case: &Case, numbers: &Numbers) -> Option<Candle> {
    // `[batch, sequence, heads, width]` in memory.
    let tensor = |array: &Array4<f32>| {
        let array = array.view().permuted_axes([0, 2, 1, 3]);
        let numbers: Vec<f32> = array.iter().copied().collect();
        CandleTensor::from_vec(numbers, array.dim(), &candle_core::Device::Cpu)
            .expect("as many numbers")
    };
    (!case.padded && !case.bias).then(|| Candle {
        q: tensor(&numbers.q),
        k: tensor(&numbers.k),
        v: tensor(&numbers.v),
        scale: 1.0 / (case.width as f32).sqrt(),
        causal: case.causal,
    })
}

impl Candle {
    pub fn run(&self) -> CandleTensor {
        let mask = if self.causal {
            AttnMask::causal()
        } else {
            AttnMask::None
        };
        flash_attn::<f32>(&self.q, &self.k, &self.v, self.scale, mask, None, None)
            .expect("a call that it knows")
    }

    /// What it gives is `[batch, heads, sequence, width]`.
    pub fn forward(&self) -> Vec<f32> {
        let flat = self.run().flatten_all().and_then(|out| out.to_vec1());
        flat.expect("f32")
    }
}
