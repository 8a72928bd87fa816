//! Writing a position at a time: what was read is kept, what was written is cached.

use burn::tensor::Tensor;

use super::{SequenceToSequence, numbers};
use crate::Noise;
use crate::layers::{KeyValueCache, SourceKeys, sinusoidal};
use crate::operation::ScoreTable;

/// Targets under way: some hypotheses for each of some sentences.
#[derive(Clone, Debug)]
pub struct Decoding {
    sources: Vec<SourceKeys>,
    lengths: Vec<usize>,
    caches: Vec<KeyValueCache>,
    /// `[positions, width]`
    positions: Tensor<2>,
    table: ScoreTable,
    /// Of the last step, `[sentences · hypotheses, vocabulary]`.
    logits: Vec<f32>,
    /// The pointer's keys of the sources, `[sentences, source, width]`, and the sources.
    copied: Option<(Tensor<3>, Vec<Vec<u32>>)>,
    at: usize,
    hypotheses: usize,
}

impl SequenceToSequence {
    /// Reads the sources and begins `hypotheses` targets of each, of at most `positions` tokens.
    ///
    /// # Panics
    ///
    /// If there is no source, one is empty, or an id is not in the table.
    pub fn start(&self, sources: &[&[u32]], hypotheses: usize, positions: usize) -> Decoding {
        let (source, lengths) = self.encode(sources, &mut Noise::off());
        let source = lengths.padded(source);
        let lengths = lengths.lengths().collect();
        let [sentences, _, width] = source.dims();
        let device = source.device();
        Decoding {
            sources: self
                .decoder
                .iter()
                .map(|layer| layer.source_keys(source.clone()))
                .collect(),
            caches: self
                .decoder
                .iter()
                .map(|layer| layer.cache(sentences * hypotheses, positions, &device))
                .collect(),
            positions: sinusoidal(positions, width, &device),
            table: ScoreTable::new(self.tokens.weight.val()),
            logits: Vec::new(),
            copied: self.pointer.as_ref().map(|pointer| {
                let sources = sources.iter().map(|source| source.to_vec()).collect();
                (pointer.key.forward(source), sources)
            }),
            lengths,
            at: 0,
            hypotheses,
        }
    }

    /// Writes one token to each hypothesis; the logits of what follows, `[sentences · hypotheses, vocabulary]`, one row after
    /// the other.
    ///
    /// # Panics
    ///
    /// If there is not one token for each hypothesis, or all `positions` are written.
    pub fn step<'a>(&self, decoding: &'a mut Decoding, tokens: &[u32]) -> &'a [f32] {
        let rows = decoding.lengths.len() * decoding.hypotheses;
        assert_eq!(tokens.len(), rows, "one token for each hypothesis");
        let ids = tokens.iter().map(|token| *token as i32);
        let x = self.tokens.forward(numbers(ids, &self.device()));
        let width = x.dims()[1];
        let position = decoding.positions.clone().narrow(0, decoding.at, 1);
        let x = x.mul_scalar((width as f32).sqrt()) + position;
        let mut x = x.reshape([rows, 1, width]);
        let layers = self.decoder.iter().zip(&decoding.sources);
        for ((layer, source), cache) in layers.zip(&mut decoding.caches) {
            x = layer.step(x, source, &decoding.lengths, cache);
        }
        decoding.at += 1;
        let h = self.decoder_norm.forward(x.reshape([rows, width]));
        let logits = &mut decoding.logits;
        decoding.table.scores_into(h.clone(), logits);
        if let (Some(pointer), Some((keys, sources))) = (&self.pointer, &decoding.copied) {
            let h = h.reshape([sources.len(), decoding.hypotheses, width]);
            let look = pointer.look(h, keys.clone(), &decoding.lengths);
            look.mix(logits, sources);
        }
        logits
    }
}

impl Decoding {
    /// Keeps these hypotheses, in this order, by their row.
    pub fn reorder(&mut self, rows: &[usize]) {
        if rows.iter().enumerate().all(|(at, row)| at == *row)
            && rows.len() == self.lengths.len() * self.hypotheses
        {
            return;
        }
        self.caches.iter_mut().for_each(|cache| cache.select(rows));
    }

    /// Keeps these sentences, in ascending order, with all their hypotheses.
    ///
    /// # Panics
    ///
    /// If a sentence comes before one of a lower number.
    pub fn keep(&mut self, sentences: &[usize]) {
        if sentences.len() == self.lengths.len() {
            return;
        }
        let per = self.hypotheses;
        let rows: Vec<usize> = sentences
            .iter()
            .flat_map(|sentence| sentence * per..(sentence + 1) * per)
            .collect();
        self.reorder(&rows);
        self.lengths = sentences.iter().map(|at| self.lengths[*at]).collect();
        if let Some((keys, sources)) = &mut self.copied {
            let kept = sentences.iter().map(|at| *at as i32);
            let kept = numbers(kept, &self.positions.device());
            *keys = keys.clone().select(0, kept);
            *sources = sentences
                .iter()
                .map(|at| std::mem::take(&mut sources[*at]))
                .collect();
        }
        self.sources
            .iter_mut()
            .for_each(|source| source.keep(sentences));
    }
}
