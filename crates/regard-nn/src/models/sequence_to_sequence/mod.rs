//! A Transformer that reads one sequence and writes another (Vaswani et al. 2017), normalising first.
//!
//! ```text
//! x_i    = dropout(√width · row(s_i) + sinusoid_i)       the source; so for the target, begun with the end token
//! source = norm(encoder(x))
//! h      = norm(decoder(y, source))
//! logits = h · rowsᵀ                                     one table for source, target and output (Press & Wolf 2017)
//! ```
//!
//! A source in a language with other pieces can have a table of its own; where both sides have one, a [`Pointer`] can copy.
//!
//! [`forward`](SequenceToSequence::forward) teaches: all positions of the target at once.
//! [`start`](SequenceToSequence::start) and [`step`](SequenceToSequence::step) write: one position at a time, over keys
//! and values that were computed once; [`generation`](crate::generation) chooses the tokens.

mod config;
mod decoding;
mod pointer;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

pub use config::SequenceToSequenceConfig;
pub use decoding::Decoding;
pub use pointer::{Copied, Pointer};

use crate::layers::{
    DecoderLayer, DecoderLayerConfig, Embedding, EncoderLayer, EncoderLayerConfig, LayerNorm,
    MultiHeadConfig, sinusoidal,
};
use crate::operation::{ScoreTable, copying_cross_entropy, cross_entropy, embedding, table_scores};
use crate::{Noise, Sequences};
use pointer::Look;

/// The model; see the [module](self).
#[derive(Module, Debug)]
pub struct SequenceToSequence {
    /// A vector for each token; the last is the end.
    pub tokens: Embedding,
    /// A vector for each token of a source, where sources have a table of their own.
    pub source_tokens: Option<Embedding>,
    /// What reads the source.
    pub encoder: Vec<EncoderLayer>,
    /// On what was read.
    pub encoder_norm: LayerNorm,
    /// What writes the target.
    pub decoder: Vec<DecoderLayer>,
    /// Before the table.
    pub decoder_norm: LayerNorm,
    /// What copies from the source, in a model that does.
    pub pointer: Option<Pointer>,
    dropout: f64,
}

impl SequenceToSequenceConfig {
    /// A model whose numbers are a function of the configuration and the seed.
    ///
    /// # Panics
    ///
    /// If [`validate`](Self::validate) refuses the configuration.
    pub fn init(&self, seed: u64, device: &Device) -> SequenceToSequence {
        let built = self.validate().and_then(|()| {
            // Step u64::MAX is no step of training.
            let mut noise = Noise::at(seed, u64::MAX);
            let reads = EncoderLayerConfig {
                attention: MultiHeadConfig::new(self.width, self.heads),
                feed_forward: self.feed_forward,
                dropout: self.dropout,
                stochastic_depth: 0.0,
            };
            let writes = DecoderLayerConfig {
                width: self.width,
                heads: self.heads,
                feed_forward: self.feed_forward,
                dropout: self.dropout,
            };
            let deviation = 1.0 / (self.width as f32).sqrt();
            Ok(SequenceToSequence {
                tokens: Embedding::new(self.vocabulary, self.width, deviation, &mut noise, device),
                source_tokens: self
                    .source_vocabulary
                    .map(|rows| Embedding::new(rows, self.width, deviation, &mut noise, device)),
                encoder: (0..self.encoder_layers)
                    .map(|_| reads.init(&mut noise, device))
                    .collect::<Result<_, _>>()?,
                encoder_norm: LayerNorm::new(self.width, device),
                decoder: (0..self.decoder_layers)
                    .map(|_| writes.init(&mut noise, device))
                    .collect::<Result<_, _>>()?,
                decoder_norm: LayerNorm::new(self.width, device),
                pointer: self
                    .pointer
                    .then(|| Pointer::new(self.width, &mut noise, device)),
                dropout: self.dropout,
            })
        });
        match built {
            Ok(model) => model,
            Err(error) => panic!("sequence to sequence: {error}"),
        }
    }
}

/// The positions of a padded `[batch, longest + 1]` that stand for the tokens of the targets and for their ends.
fn places(targets: &[&[u32]], device: &Device) -> Tensor<1, Int> {
    let longest = targets.iter().map(|target| target.len() + 1).max();
    let longest = longest.unwrap_or(0);
    let places = targets
        .iter()
        .enumerate()
        .flat_map(|(row, target)| (0..=target.len()).map(move |at| (row * longest + at) as i32));
    numbers(places, device)
}

fn numbers(numbers: impl Iterator<Item = i32>, device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i32> = numbers.collect();
    let count = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [count]), device)
}

impl SequenceToSequence {
    /// The token that ends a text and stands before a target.
    pub fn end(&self) -> u32 {
        self.tokens.weight.dims()[0] as u32 - 1
    }

    /// Logits of what follows each prefix of each target: one row for each of its tokens and for its end, target after
    /// target, `[Σ (length + 1), vocabulary]`. Padding costs nothing at the table.
    ///
    /// # Panics
    ///
    /// If there are not as many targets as sources, a source is empty, or an id is not in the table.
    pub fn forward(&self, sources: &[&[u32]], targets: &[&[u32]], noise: &mut Noise) -> Tensor<2> {
        let (h, look) = self.written(sources, targets, noise);
        let logits = self.logits(h);
        match look {
            Some(look) => look.mixed(logits, sources, places(targets, &self.device())),
            None => logits,
        }
    }

    /// Summed cross-entropy of the targets and their ends, and of how many tokens it is: what
    /// [`cross_entropy`] gives for [`forward`](Self::forward), without its logits.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn loss(
        &self,
        sources: &[&[u32]],
        targets: &[&[u32]],
        smoothing: f32,
        noise: &mut Noise,
    ) -> (Tensor<1>, usize) {
        let (h, look) = self.written(sources, targets, noise);
        let ended = targets
            .iter()
            .map(|target| [*target, &[self.end()]].concat());
        let ended: Vec<Vec<u32>> = ended.collect();
        let wanted: Vec<usize> = ended.concat().iter().map(|id| *id as usize).collect();
        let table = self.tokens.weight.val();
        let loss = match look {
            None => cross_entropy(h, table, &wanted, smoothing),
            Some(look) => {
                let chances = look.chances(sources, &ended, places(targets, &self.device()));
                copying_cross_entropy(h, table, chances, &wanted, smoothing)
            }
        };
        (loss, wanted.len())
    }

    /// What the table is multiplied with, `[Σ (length + 1), width]`, and where the pointer looks.
    fn written(
        &self,
        sources: &[&[u32]],
        targets: &[&[u32]],
        noise: &mut Noise,
    ) -> (Tensor<2>, Option<Look>) {
        let (source, sources) = self.encode(sources, noise);
        let (mut h, targets) = self.begun(targets, noise);
        for layer in &self.decoder {
            h = layer.forward(h, &targets, source.clone(), &sources, noise);
        }
        let h = self.decoder_norm.forward(h);
        let look = self.pointer.as_ref().map(|pointer| {
            let keys = sources.padded(pointer.key.forward(source));
            let lengths: Vec<usize> = sources.lengths().collect();
            pointer.look(targets.padded(h.clone()), keys, &lengths)
        });
        (h, look)
    }

    /// Where the tokens of one target were copied from; `None` for a model without a pointer.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn copied(&self, source: &[u32], target: &[u32]) -> Option<Copied> {
        let (h, look) = self.written(&[source], &[target], &mut Noise::off());
        let look = look?;
        let ended = [target, &[self.end()]].concat();
        let places = places(&[target], &self.device());
        Some(look.copied(self.logits(h), source, ended, places))
    }

    /// The weights over the source with which each token of one target, and its end, was written: for every decoder layer
    /// `[1, heads, target + 1, source]`, by the definition. Computed only here.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn source_weights(&self, source: &[u32], target: &[u32]) -> Vec<Tensor<4>> {
        let noise = &mut Noise::off();
        let (source, sources) = self.encode(&[source], noise);
        let (mut h, targets) = self.begun(&[target], noise);
        let mut weights = Vec::with_capacity(self.decoder.len());
        for layer in &self.decoder {
            weights.push(layer.source_weights(h.clone(), &targets, source.clone(), &sources));
            h = layer.forward(h, &targets, source.clone(), &sources, noise);
        }
        weights
    }

    /// What was read, `[Σ length, width]`, source after source.
    fn encode(&self, sources: &[&[u32]], noise: &mut Noise) -> (Tensor<2>, Sequences) {
        assert!(
            sources.iter().all(|source| !source.is_empty()),
            "a source has at least one token"
        );
        let table = self.source_tokens.as_ref().unwrap_or(&self.tokens);
        let lengths = Sequences::new(sources.iter().map(|source| source.len()));
        let mut x = self.embedded(table, sources.concat(), &lengths, noise);
        for layer in &self.encoder {
            x = layer.forward(x, &lengths, noise);
        }
        (self.encoder_norm.forward(x), lengths)
    }

    /// The decoder's input, target after target: the end token and then the target, `[Σ (length + 1), width]`.
    fn begun(&self, targets: &[&[u32]], noise: &mut Noise) -> (Tensor<2>, Sequences) {
        let first = [self.end()];
        let begun = targets.iter().flat_map(|target| [&first[..], target]);
        let begun: Vec<&[u32]> = begun.collect();
        let lengths = Sequences::new(targets.iter().map(|target| target.len() + 1));
        let x = self.embedded(&self.tokens, begun.concat(), &lengths, noise);
        (x, lengths)
    }

    /// Whether the parameter of that path is a matrix of a layer; the table of vectors is none, though it is used as one.
    pub fn is_hidden(parameter: &str) -> bool {
        parameter.starts_with("encoder.") || parameter.starts_with("decoder.")
    }

    fn embedded(
        &self,
        table: &Embedding,
        ids: Vec<u32>,
        sequences: &Sequences,
        noise: &mut Noise,
    ) -> Tensor<2> {
        let device = self.device();
        let x = table.forward(numbers(ids.into_iter().map(|id| id as i32), &device));
        let width = x.dims()[1];
        let device = device.inner();
        let positions = sinusoidal(sequences.longest(), width, &device);
        let at = sequences.positions().map(|at| at as i32);
        let positions = embedding(positions, numbers(at, &device));
        noise.dropout(
            x.mul_scalar((width as f32).sqrt()) + positions,
            self.dropout,
        )
    }

    /// `[rows, width]` → `[rows, vocabulary]`, of the table alone
    fn logits(&self, h: Tensor<2>) -> Tensor<2> {
        let table = self.tokens.weight.val();
        match h.is_autodiff() {
            true => table_scores(h, table),
            false => ScoreTable::new(table).scores(h),
        }
    }

    fn device(&self) -> Device {
        self.tokens.weight.val().device()
    }
}
