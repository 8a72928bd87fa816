//! Scores of written texts: those of sacrebleu and rouge_score, on odd texts too.

use regard_tasks::text_metrics::{Bleu, BleuTokenizer, Chrf, CorpusScore, Rouge, Statistics, stem};
use serde_json::Value;

fn metric(name: &str) -> Box<dyn CorpusScore> {
    let bleu = |tokenizer| Box::new(Bleu { tokenizer });
    match name {
        "bleu.13a" => bleu(BleuTokenizer::V13a),
        "bleu.intl" => bleu(BleuTokenizer::Intl),
        "bleu.zh" => bleu(BleuTokenizer::Zh),
        "bleu.char" => bleu(BleuTokenizer::Char),
        "chrf" => Box::new(Chrf { words: 0 }),
        "chrf++" => Box::new(Chrf { words: 2 }),
        "rouge1.no" => Box::new(Rouge::runs(1, false)),
        "rouge2.no" => Box::new(Rouge::runs(2, false)),
        "rougeL.no" => Box::new(Rouge::longest(false)),
        "rouge1.porter" => Box::new(Rouge::runs(1, true)),
        "rouge2.porter" => Box::new(Rouge::runs(2, true)),
        "rougeL.porter" => Box::new(Rouge::longest(true)),
        other => panic!("no metric {other}"),
    }
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/text_metrics.json")).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    let texts = value.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_scores_are_those_of_sacrebleu_and_rouge_score() {
    let mut wrong = Vec::new();
    for case in golden()["cases"].as_array().unwrap() {
        let (hypotheses, references) = (texts(&case["hypotheses"]), texts(&case["references"]));
        for (name, expected) in case["scores"].as_object().unwrap() {
            let metric = metric(name);
            let found =
                Statistics::new(metric.as_ref(), &hypotheses, &references).score(metric.as_ref());
            if (found - expected.as_f64().unwrap()).abs() > 1e-6 {
                wrong.push(format!(
                    "{}: {name} {found}, expected {expected}",
                    case["name"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_stems_are_those_of_nltk() {
    for (word, expected) in golden()["stems"].as_object().unwrap() {
        assert_eq!(stem(word), expected.as_str().unwrap(), "{word}");
    }
}

#[test]
fn an_interval_holds_its_score_and_equal_outputs_do_not_differ() {
    let case = &golden()["cases"][0];
    let (hypotheses, references) = (texts(&case["hypotheses"]), texts(&case["references"]));
    let bleu = Bleu::default();
    let counts = Statistics::new(&bleu, &hypotheses, &references);
    let interval = counts.interval(&bleu, 1);
    assert!(interval.low < interval.value && interval.value < interval.high);
    assert_eq!(interval, counts.interval(&bleu, 1));
    let difference = counts.difference(&counts, &bleu, 1);
    assert_eq!((difference.low, difference.high), (0.0, 0.0));
    let perfect = Statistics::new(&bleu, &references, &references);
    assert!(perfect.difference(&counts, &bleu, 1).low > 0.0);
}
