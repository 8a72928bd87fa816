//! Looking into a writer: the attention over the source for each word, and how probable a text is.

use burn::tensor::Tensor;
use regard_nn::generation::score;

use super::alignment::{Alignment, AttentionPart, Reading, words_of};
use super::data::{begun, tidy};
use super::run::Writer;
use super::tracing::trace;
use super::vocabularies::encoded;
use crate::tokenizer::Encoded;
use crate::{Error, Result, Task};

fn elements<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

impl Writer {
    /// Natural logarithm of the probability of `target` and its end, given `source`, of which what is too long is not read.
    ///
    /// # Errors
    ///
    /// When the target has more than twice the pieces that the model writes at most.
    pub fn log_probability(&self, source: &str, target: &str) -> Result<f32> {
        let (source, _) = self.read(source)?;
        Ok(self.probability_of(&source, &self.target(target)?))
    }

    /// The attention that wrote `target` (`None`: what the model writes) for `source`, word by word: of one layer and head,
    /// or averaged over those of the decoder; recomputed by the definition.
    ///
    /// # Errors
    ///
    /// When the decoder has no such layer or head, or as [`log_probability`](Self::log_probability).
    pub fn explain(
        &self,
        source: &str,
        target: Option<&str>,
        part: &AttentionPart,
    ) -> Result<Alignment> {
        let source = tidy(source);
        let target = match target {
            Some(target) => tidy(target),
            None => self.run(std::slice::from_ref(&source))?.swap_remove(0).text,
        };
        let (read, cut_source_pieces) = self.read(&source)?;
        let wrote = self.target(&target)?;
        let looked = self.model.copied(&read.ids, &wrote.ids);
        let (mut pieces, mut part_said) = self.attention(&read, &wrote, part)?;
        if let (Some(looked), None, None) = (&looked, part.layer, part.head) {
            let pointed = elements(&looked.weights);
            let rows = pieces.chunks_mut(read.ids.len());
            for ((row, pointed), share) in
                rows.zip(pointed.chunks(read.ids.len())).zip(&looked.shares)
            {
                let weights = row.iter_mut().zip(pointed);
                weights.for_each(|(weight, pointed)| *weight += share * (pointed - *weight));
            }
            part_said =
                format!("of the pointer as far as the word was copied, otherwise {part_said}");
        }
        // The texts were cut with a blank before them.
        let (mut source_words, source_of) = words_of(&begun(&source), &read.spans);
        let (mut target_words, target_of) = words_of(&begun(&target), &wrote.spans);
        // A word of which nothing was read was not looked at.
        let end = read.spans.last().map_or(0, |(_, end)| *end);
        source_words.retain(|word| word.start < end);
        if let Some(last) = source_words.last_mut().filter(|last| last.end > end) {
            last.text
                .truncate(last.text.floor_char_boundary(end - last.start));
            last.end = last.start + last.text.len();
        }
        for word in source_words.iter_mut().chain(&mut target_words) {
            (word.start, word.end) = (word.start - 1, word.end - 1);
        }
        let later = usize::from(part.reading == Reading::Input);
        let mut weights = vec![vec![0.0; source_words.len()]; target_words.len()];
        let mut counts = vec![0.0_f32; target_words.len()];
        for (row, word) in pieces.chunks(read.ids.len()).skip(later).zip(&target_of) {
            let Some(word) = *word else { continue };
            counts[word] += 1.0;
            for (weight, source) in row.iter().zip(&source_of) {
                if let Some(source) = source {
                    weights[word][*source] += weight;
                }
            }
        }
        let copied = looked.map(|looked| {
            let mut copied = vec![0.0; target_words.len()];
            for (share, word) in looked.shares.iter().zip(&target_of) {
                if let Some(word) = word {
                    copied[*word] += share / counts[*word];
                }
            }
            copied
        });
        for (row, count) in weights.iter_mut().zip(&counts) {
            row.iter_mut().for_each(|weight| *weight /= count.max(1.0));
        }
        let written = target_words.iter().zip(&weights);
        let traces = written.map(|(word, row)| trace(&word.text, row, &source_words));
        let position = match part.reading {
            Reading::Output => "the word is the output: the attention that chose it",
            Reading::Input => "the word is the input: the attention after it was chosen",
        };
        Ok(Alignment {
            links: Alignment::strongest(&weights),
            traces: traces.collect(),
            copied,
            cut_source_pieces,
            log_probability: self.probability_of(&read, &wrote),
            source,
            target,
            source_words,
            target_words,
            weights,
            reading: part.reading,
            method: format!(
                "attention over the source at the position where {position}; {part_said}, summed over a source word's \
                 pieces; it mixes what the encoder has mixed before"
            ),
        })
    }

    /// The mean of the chosen layers and heads, a row of source pieces for each target piece and its end; and its name.
    fn attention(
        &self,
        read: &Encoded,
        wrote: &Encoded,
        part: &AttentionPart,
    ) -> Result<(Vec<f32>, String)> {
        let layers = self.model.source_weights(&read.ids, &wrote.ids);
        let [_, heads, rows, columns] = layers[0].dims();
        let chosen_layers = part.one_of("--layer", part.layer, layers.len())?;
        let chosen_heads = part.one_of("--head", part.head, heads)?;
        let count = (chosen_layers.len() * chosen_heads.len()) as f32;
        let mut mean = vec![0.0_f32; rows * columns];
        for layer in &layers[chosen_layers] {
            let weights = elements(layer);
            let heads = &weights[chosen_heads.start * rows * columns..];
            for head in heads.chunks(rows * columns).take(chosen_heads.len()) {
                let sums = mean.iter_mut().zip(head);
                sums.for_each(|(mean, weight)| *mean += weight / count);
            }
        }
        Ok((mean, part.said(layers.len(), heads)))
    }

    fn probability_of(&self, source: &Encoded, target: &Encoded) -> f32 {
        let scores = score(&self.model, &[&source.ids], &[&target.ids]);
        scores[0].iter().sum()
    }

    /// A source as far as it is read, and how many of its pieces are not.
    fn read(&self, text: &str) -> Result<(Encoded, usize)> {
        let most = self.config.model.max_source;
        let mut source = encoded(self.vocabularies.source(), &tidy(text))?;
        let cut = source.ids.len().saturating_sub(most);
        source.ids.truncate(most);
        source.spans.truncate(most);
        Ok((source, cut))
    }

    /// A target is not cut: the probability of a part says nothing of the whole.
    fn target(&self, text: &str) -> Result<Encoded> {
        let most = 2 * self.config.model.max_target;
        let target = encoded(self.vocabularies.target(), &tidy(text))?;
        match target.ids.len() {
            count if count <= most => Ok(target),
            count => {
                let found = format!("a text of {count} pieces");
                Err(Error::argument(
                    "--target",
                    found,
                    format!("at most {most}"),
                ))
            }
        }
    }
}
