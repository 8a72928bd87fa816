//! What `regard explain` shows is the attention of the definition, computed here again from the files of the model
//! folder alone: no layer, no fused operation, f64.

use std::fs;

use ndarray::Array4;
use regard_kernels::reference;
use regard_nn::models::text_classifier::bigram_bucket;
use regard_tasks::Task;
use regard_tasks::text_classification::{ModelKind, TextClassifier, train};
use regard_tasks::tokenizer::TextTokenizer;
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::training::{Ears, request};

#[test]
fn the_words_of_an_explanation_have_the_weights_that_the_reference_gives() {
    let folder = TempDir::new().unwrap();
    let request = request(folder.path(), "model", ModelKind::Pooling);
    train(&request, &mut Ears::default()).unwrap();
    let classifier = TextClassifier::open(&request.out).unwrap();

    let bytes = fs::read(request.out.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let table = |name: &str| {
        let view = weights.tensor(name).unwrap();
        let (values, _) = view.data().as_chunks::<4>();
        let values: Vec<f64> = values
            .iter()
            .map(|value| f64::from(f32::from_le_bytes(*value)))
            .collect();
        (values, view.shape()[0], view.shape()[1])
    };
    let (tokens, _, width) = table("tokens.weight");
    let (pairs, buckets, _) = table("bigrams.weight");
    let (queries, heads, _) = table("pooling.attention.queries");
    let tokenizer =
        TextTokenizer::from_json(&fs::read(request.out.join("tokenizer.json")).unwrap()).unwrap();

    for text in [
        "please take the free prize",
        "Our  next MEETING, today: 5 reports!",
        "winner",
    ] {
        let encoded = tokenizer.encode(text).unwrap();
        let length = encoded.ids.len();
        // x_i = token row + word-pair row
        let x = Array4::from_shape_fn((1, 1, length, width), |(_, _, at, column)| {
            let before = if at == 0 { 0 } else { encoded.ids[at - 1] };
            let bucket = bigram_bucket(before, encoded.ids[at], buckets) as usize;
            tokens[encoded.ids[at] as usize * width + column] + pairs[bucket * width + column]
        });
        let q = Array4::from_shape_fn((1, 1, heads, width), |(_, _, head, column)| {
            queries[head * width + column]
        });
        let options = reference::Options {
            scale: Some(32.0),
            ..reference::Options::default()
        };
        let expected = reference::weights(q.view(), x.view(), &options); // [1, 1, heads, length]

        let explained = classifier.explain(text).unwrap();
        for (word, shown) in explained.words.iter().enumerate() {
            let pieces = (0..length).filter(|at| {
                encoded.spans[*at].0 >= shown.start && encoded.spans[*at].1 <= shown.end
            });
            let weight: f64 = pieces
                .map(|at| {
                    (0..heads)
                        .map(|head| expected[[0, 0, head, at]])
                        .sum::<f64>()
                        / heads as f64
                })
                .sum();
            let found = f64::from(shown.weight);
            assert!(
                (found - weight).abs() < 1e-6,
                "word {word} `{}` of {text:?}: {found} and {weight}",
                shown.text
            );
        }
        assert_eq!(
            explained.words.last().unwrap().end,
            encoded.spans[length - 1].1
        );
    }
}
