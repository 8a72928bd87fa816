//! Scores of what was written, beside what can be had without a model.

use super::data::Pairs;
use super::report::{Rival, SampleOutput};
use super::{Kind, report};
use crate::text_metrics::{Bleu, BleuTokenizer, Chrf, CorpusScore, Rouge, Statistics, TextScore};

/// The measures of a task, the deciding one first.
pub(super) fn metrics(kind: Kind) -> Vec<(&'static str, Box<dyn CorpusScore>)> {
    match kind {
        Kind::Translation => vec![
            ("BLEU", Box::new(Bleu::default())),
            ("chrF", Box::new(Chrf::default())),
        ],
        Kind::Summarization => vec![
            ("ROUGE-1", Box::new(Rouge::runs(1, true))),
            ("ROUGE-2", Box::new(Rouge::runs(2, true))),
            ("ROUGE-L", Box::new(Rouge::longest(true))),
        ],
    }
}

/// What decides which epoch is kept: it moves with every word, BLEU of a few sentences does not.
pub(super) fn deciding(kind: Kind) -> Box<dyn CorpusScore> {
    match kind {
        Kind::Translation => Box::new(Chrf::default()),
        Kind::Summarization => Box::new(Rouge::longest(true)),
    }
}

/// The measures of the report: those of the task and what else a reader may look for.
fn reported(kind: Kind, tokenizer: BleuTokenizer) -> Vec<(&'static str, Box<dyn CorpusScore>)> {
    match kind {
        Kind::Translation => vec![
            ("BLEU", Box::new(Bleu { tokenizer })),
            ("chrF", Box::new(Chrf::default())),
            ("chrF++", Box::new(Chrf { words: 2 })),
        ],
        Kind::Summarization => vec![
            ("ROUGE-1", Box::new(Rouge::runs(1, true))),
            ("ROUGE-2", Box::new(Rouge::runs(2, true))),
            ("ROUGE-L", Box::new(Rouge::longest(true))),
            ("chrF", Box::new(Chrf::default())),
        ],
    }
}

/// The tokenizer that fits what the references are written in.
pub(super) fn tokenizer_for(references: &[String]) -> BleuTokenizer {
    let (mut letters, mut han, mut kana) = (0_usize, 0_usize, 0_usize);
    for letter in references.iter().flat_map(|text| text.chars()) {
        letters += usize::from(letter.is_alphabetic());
        han += usize::from(matches!(u32::from(letter), 0x3400..=0x9FFF | 0xF900..=0xFAFF));
        kana += usize::from(matches!(u32::from(letter), 0x3040..=0x30FF));
    }
    if 10 * kana > letters {
        BleuTokenizer::Char
    } else if 4 * han > letters {
        BleuTokenizer::Zh
    } else {
        BleuTokenizer::V13a
    }
}

/// What is written without a model, by name.
fn trivial(kind: Kind, pairs: &Pairs) -> Vec<(String, Vec<String>)> {
    let each = |write: &dyn Fn(&str) -> String| -> Vec<String> {
        pairs.sources.iter().map(|source| write(source)).collect()
    };
    match kind {
        Kind::Translation => vec![("copy of the source".to_owned(), each(&str::to_owned))],
        Kind::Summarization => {
            let words = mean_words(&pairs.targets);
            vec![
                ("first sentence".to_owned(), each(&first_sentence)),
                (
                    format!("first {words} words"),
                    each(&|text| first_words(text, words)),
                ),
            ]
        }
    }
}

/// Up to the first mark that ends a sentence.
fn first_sentence(text: &str) -> String {
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let ends = match letter {
            '.' | '!' | '?' => letters.peek().is_none_or(|(_, next)| next.is_whitespace()),
            '。' | '！' | '？' | '।' | '؟' => true,
            _ => false,
        };
        if ends {
            return text[..at + letter.len_utf8()].to_owned();
        }
    }
    text.to_owned()
}

fn first_words(text: &str, count: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().take(count).collect();
    words.join(" ")
}

fn mean_words(texts: &[String]) -> usize {
    let words: usize = texts
        .iter()
        .map(|text| text.split_whitespace().count())
        .sum();
    (words as f64 / texts.len().max(1) as f64).round().max(1.0) as usize
}

/// Scores, rivals on the same pairs, and what the comparison says.
pub(super) fn judge(
    kind: Kind,
    pairs: &Pairs,
    written: &[String],
    seed: u64,
) -> (Vec<TextScore>, Vec<Rival>, Vec<String>) {
    let metrics = reported(kind, tokenizer_for(&pairs.targets));
    let counted = |texts: &[String]| -> Vec<Statistics> {
        metrics
            .iter()
            .map(|(_, metric)| Statistics::new(metric.as_ref(), texts, &pairs.targets))
            .collect()
    };
    let scored = |counts: &[Statistics]| -> Vec<TextScore> {
        metrics
            .iter()
            .zip(counts)
            .map(|((name, metric), counts)| TextScore {
                name: (*name).to_owned(),
                interval: counts.interval(metric.as_ref(), seed),
                signature: metric.signature(),
            })
            .collect()
    };
    let ours = counted(written);
    let (mut rivals, mut verdicts) = (Vec::new(), Vec::new());
    for (name, texts) in trivial(kind, pairs) {
        let theirs = counted(&texts);
        let (measure, metric) = &metrics[0];
        let difference = ours[0].difference(&theirs[0], metric.as_ref(), seed);
        verdicts.push(report::verdict(measure, &name, &difference));
        rivals.push(Rival {
            name,
            scores: scored(&theirs),
            difference,
        });
    }
    (scored(&ours), rivals, verdicts)
}

/// Pairs with what was written, evenly spread over all.
pub(super) fn samples(pairs: &Pairs, written: &[String], count: usize) -> Vec<SampleOutput> {
    let step = (pairs.len() / count.max(1)).max(1);
    (0..pairs.len())
        .step_by(step)
        .take(count)
        .map(|at| SampleOutput {
            source: pairs.sources[at].clone(),
            reference: pairs.targets[at].clone(),
            written: written[at].clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_where_its_script_ends_one() {
        assert_eq!(
            first_sentence("Version 2.0 is out. More."),
            "Version 2.0 is out."
        );
        assert_eq!(first_sentence("你好。再见。"), "你好。");
        assert_eq!(first_sentence("no end"), "no end");
    }

    #[test]
    fn the_tokenizer_follows_the_script_of_the_references() {
        let of = |text: &str| tokenizer_for(&[text.to_owned()]);
        assert_eq!(of("una frase"), BleuTokenizer::V13a);
        assert_eq!(of("网页浏览器"), BleuTokenizer::Zh);
        assert_eq!(of("軽量画像ビューア"), BleuTokenizer::Char);
    }
}
