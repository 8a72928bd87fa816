//! A pointer into the source: what is written may also be copied from there (See, Liu & Manning 2017).
//!
//! ```text
//! a_ti        = softmax_i(query(h_t) · key(source_i) / √width)      one head, over the source's positions
//! g_t         = σ(gate(h_t))
//! p(token | t) = g_t · softmax(h_t · rowsᵀ) + (1 − g_t) · Σ_{i: s_i = token} a_ti
//! ```
//!
//! Names and rare words need not be learned to be written again. Source and target must be of one vocabulary.

use burn::module::Module;
use burn::tensor::activation::{log_sigmoid, log_softmax, sigmoid};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::Noise;
use crate::layers::Linear;
use crate::operation::{AttentionOptions, attention_weights, log_sum_exp};

/// What is written may also be copied from the source (See, Liu & Manning 2017, "Get To The Point"):
/// `p(token | t) = g_t · softmax(h_t · rowsᵀ) + (1 − g_t) · Σ_{i: s_i = token} a_ti`, with `a_t` the attention of `h_t` over the
/// source and `g_t` the gate.
#[derive(Module, Debug)]
pub struct Pointer {
    /// `width → width`, of what is written.
    pub query: Linear,
    /// `width → width`, of the source.
    pub key: Linear,
    /// `width → 1`, whether to write rather than to copy.
    pub gate: Linear,
}

/// Where the tokens of one target were copied from, as far as they were.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The pointer's weights over the source, for each token and the end: `[target + 1, source]`.
    pub weights: Tensor<2>,
    /// For each of them the share of its probability that comes from copying.
    pub shares: Vec<f32>,
}

/// Where the pointer looks.
#[derive(Clone)]
pub(super) struct Look {
    /// `[batch, target, source]`: a_ti.
    pub(super) weights: Tensor<3>,
    /// `[batch, target]`: the logits of g_t.
    pub(super) gate: Tensor<2>,
}

/// Added to a probability before its logarithm: what cannot be copied is very unlikely to be, and not infinitely.
const LEAST: f32 = 1e-20;

impl Pointer {
    pub(super) fn new(width: usize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            query: Linear::new(width, width, noise, device),
            key: Linear::new(width, width, noise, device),
            gate: Linear::new(width, 1, noise, device),
        }
    }

    /// `h`: `[batch, target, width]`, `keys`: the pointer's keys of the source, `[batch, source, width]`, of which the first
    /// `visible` of each row are no padding.
    pub(super) fn look(&self, h: Tensor<3>, keys: Tensor<3>, visible: &[usize]) -> Look {
        let [batch, target, _] = h.dims();
        let source = keys.dims()[1];
        let options = AttentionOptions {
            visible_keys: Some(visible.to_vec()),
            ..AttentionOptions::default()
        };
        let query = self.query.forward(h.clone());
        let weights = attention_weights(query.unsqueeze_dim(1), keys.unsqueeze_dim(1), &options);
        Look {
            weights: weights.reshape([batch, target, source]),
            gate: self.gate.forward(h).reshape([batch, target]),
        }
    }
}

impl Look {
    /// Logarithms of the probabilities that each wanted token is written from the vocabulary at all, and that it is copied:
    /// one for each `place`, a position of `[batch · target]`, `[places]` each.
    pub(super) fn chances(
        self,
        sources: &[&[u32]],
        wanted: &[Vec<u32>],
        places: Tensor<1, Int>,
    ) -> [Tensor<1>; 2] {
        let [batch, target, source] = self.weights.dims();
        let mut same = vec![0.0_f32; batch * target * source];
        for (row, (ids, wanted)) in sources.iter().zip(wanted).enumerate() {
            for (at, token) in wanted.iter().enumerate() {
                let marks = &mut same[(row * target + at) * source..][..ids.len()];
                let marks = marks.iter_mut().zip(*ids);
                marks.for_each(|(mark, id)| *mark = f32::from(u8::from(id == token)));
            }
        }
        let device = self.weights.device();
        let same = Tensor::<3>::from_data(TensorData::new(same, [batch, target, source]), &device);
        let copied = (self.weights * same).sum_dim(2).reshape([batch * target]);
        let gate = self.gate.reshape([batch * target]);
        let (copied, gate) = (copied.select(0, places.clone()), gate.select(0, places));
        [
            log_sigmoid(gate.clone()),
            log_sigmoid(gate.neg()) + (copied + LEAST).log(),
        ]
    }

    /// What of one target, `ended`, was copied; `logits`: the vocabulary's, `[target + 1, vocabulary]`.
    pub(super) fn copied(
        self,
        logits: Tensor<2>,
        source: &[u32],
        ended: Vec<u32>,
        places: Tensor<1, Int>,
    ) -> Copied {
        let rows = ended.len();
        let ids: Vec<i32> = ended.iter().map(|id| *id as i32).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [rows, 1]), &logits.device());
        let log_p = log_softmax(logits, 1).gather(1, ids).reshape([rows]);
        let weights = self.weights.clone().reshape([rows, source.len()]);
        let [own, copied] = self.chances(&[source], &[ended], places);
        let shares = sigmoid(copied - own - log_p).to_data();
        Copied {
            weights,
            shares: shares.iter::<f32>().collect(),
        }
    }

    /// Logarithms of the probabilities of all tokens, `[places, vocabulary]`, for the vocabulary's `logits` of these places.
    pub(super) fn mixed(
        self,
        logits: Tensor<2>,
        sources: &[&[u32]],
        places: Tensor<1, Int>,
    ) -> Tensor<2> {
        let [batch, target, source] = self.weights.dims();
        let [rows, vocabulary] = logits.dims();
        let device = logits.device();
        let mut ids = vec![0_i32; batch * target * source];
        for (row, ids_of_row) in ids.chunks_mut(target * source).zip(sources) {
            for ids in row.chunks_mut(source) {
                let ids = ids.iter_mut().zip(*ids_of_row);
                ids.for_each(|(slot, id)| *slot = *id as i32);
            }
        }
        let ids =
            Tensor::<2, Int>::from_data(TensorData::new(ids, [batch * target, source]), &device);
        let ids = ids.select(0, places.clone());
        let weights = self
            .weights
            .reshape([batch * target, source])
            .select(0, places.clone());
        let gate = self.gate.reshape([batch * target, 1]).select(0, places);
        let copied = Tensor::<2>::zeros([rows, vocabulary], &device).scatter(
            1,
            ids,
            weights * sigmoid(gate.clone().neg()),
            IndexingUpdateOp::Add,
        );
        let (own, copied) = (
            log_softmax(logits, 1) + log_sigmoid(gate),
            (copied + LEAST).log(),
        );
        let larger = own.clone().max_pair(copied.clone());
        larger.clone() + ((own - larger.clone()).exp() + (copied - larger).exp()).log()
    }

    /// The same for one step of writing, up to a constant for each row and in the memory of the logits,
    /// `[batch · target · vocabulary]`: with e^x_j / Σ e^x for the vocabulary, the probabilities are in proportion to
    /// `e^x_j + (1 − g) / g · Σ e^x · Σ a_i`, and only what can be copied changes.
    pub(super) fn mix(self, logits: &mut [f32], sources: &[Vec<u32>]) {
        let [batch, target, source] = self.weights.dims();
        let numbers = |tensor: Tensor<1>| -> Vec<f32> { tensor.to_data().iter::<f32>().collect() };
        let weights = numbers(self.weights.reshape([batch * target * source]));
        let gates = numbers(self.gate.reshape([batch * target]));
        let vocabulary = logits.len() / (batch * target).max(1);
        logits
            .par_chunks_mut(vocabulary)
            .zip(weights.par_chunks(source))
            .zip(gates.par_iter().enumerate())
            .for_each(|((logits, weights), (row, gate))| {
                let odds = log_sum_exp(logits) - gate;
                for (id, weight) in sources[row / target].iter().zip(weights) {
                    let (own, copied) = (logits[*id as usize], odds + (weight + LEAST).ln());
                    let larger = own.max(copied);
                    logits[*id as usize] =
                        larger + ((own - larger).exp() + (copied - larger).exp()).ln();
                }
            });
    }
}
