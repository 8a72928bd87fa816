//! A report of made-up values, with text in it that wants to be code.

use super::*;
use crate::answers::LabelProbability;
use crate::metrics::ClassScore;
use crate::text_classification::{AttendedWord, Explanation, Prediction};

const HOSTILE: &str = "</td><script>alert('1')</script> | \"spam\" & [ham](http://x) \u{0}";

fn interval(value: f64) -> Interval {
    Interval {
        value,
        low: value - 0.02,
        high: value + 0.01,
    }
}

fn report() -> Report {
    let labels = vec![HOSTILE.to_owned(), "垃圾邮件".to_owned()];
    let class = |label: &String| ClassScore {
        label: label.clone(),
        precision: 0.9,
        recall: 0.8,
        f1: 0.85,
        support: 10,
    };
    let point = |epoch: f64| CurvePoint {
        epoch,
        train_loss: 1.0 / epoch,
        validation_loss: 1.2 / epoch,
        validation_accuracy: 0.9,
    };
    Report {
        format: 1,
        task: "text-classification".to_owned(),
        data: DataFacts {
            files: vec![FileFacts {
                name: HOSTILE.to_owned(),
                rows: 20,
                sha256: "00ff".to_owned(),
            }],
            text_column: HOSTILE.to_owned(),
            label_column: "label".to_owned(),
            group_column: Some(HOSTILE.to_owned()),
            train_rows: 1_234,
            validation_rows: 20,
            test_rows: 0,
            labels: vec![(HOSTILE.to_owned(), 1_234)],
            skipped: vec![HOSTILE.to_owned()],
            truncated_texts: 3,
        },
        model: ModelFacts {
            kind: "pooling".to_owned(),
            parameters: 1_234_567,
            parts: vec![("embedding".to_owned(), 1_234_567)],
            vocabulary: 1_000,
            bytes: 4_938_268,
        },
        training: TrainingFacts {
            seed: 0,
            steps: 100,
            epochs: 3.0,
            seconds: 75.0,
            best_epoch: 2,
            curve: vec![point(1.0), point(2.0), point(3.0)],
            stopped: HOSTILE.to_owned(),
            notes: vec![HOSTILE.to_owned()],
        },
        scored_on: HOSTILE.to_owned(),
        scores: Evaluation {
            rows: 20,
            accuracy: interval(0.9),
            macro_f1: interval(0.88),
            classes: labels.iter().map(class).collect(),
            confusion: vec![vec![9, 1], vec![2, 8]],
            labels,
        },
        rivals: vec![Rival {
            name: "majority class".to_owned(),
            accuracy: interval(0.5),
            macro_f1: interval(0.33),
            difference: Difference {
                value: 0.4,
                low: 0.38,
                high: 0.42,
            },
        }],
        verdicts: vec![HOSTILE.to_owned()],
    }
}

fn explanation() -> Explanation {
    let word = |start: usize, end: usize, weight: f32| AttendedWord {
        text: HOSTILE[start..end].to_owned(),
        start,
        end,
        weight,
    };
    Explanation {
        text: HOSTILE.to_owned(),
        prediction: Prediction {
            label: HOSTILE.to_owned(),
            probability: 0.75,
            probabilities: vec![LabelProbability {
                label: HOSTILE.to_owned(),
                probability: 0.75,
            }],
            truncated_tokens: 2,
        },
        words: vec![word(6, 12, 0.8), word(13, 18, 0.2)],
        method: HOSTILE.to_owned(),
    }
}

#[test]
fn nothing_of_the_data_becomes_code_and_nothing_is_loaded() {
    for page in [
        html(&report(), &[explanation()]),
        explanation_html(&explanation()),
    ] {
        assert!(!page.contains("<script") && !page.contains('\0'));
        assert!(page.contains("&lt;/td&gt;&lt;"));
        for loads in ["src=", "href=", "url(", "@import", "<link"] {
            assert!(!page.contains(loads), "{loads}");
        }
    }
}

#[test]
fn the_page_shows_scores_rivals_curve_matrix_and_attention() {
    let page = html(&report(), &[explanation()]);
    for part in [
        "0.900",
        "majority class",
        "<svg",
        "垃圾邮件",
        "+0.400",
        "1.2 M",
        "1 min 15 s",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.contains("<mark style=\"--weight:0.30\" title=\"0.8000\">script</mark>"));
    assert!(page.contains("<td class=\"right\" style=\"--share:0.949\""));
}

#[test]
fn the_readme_is_a_table_that_no_label_breaks() {
    let text = readme(&report());
    assert!(text.contains("| **this model (pooling)** | **0.900 [0.880, 0.910]** |"));
    let mut in_table = 0;
    for line in text.lines() {
        // What a backslash or backticks protect is text; the rest is Markdown.
        let escaped = line
            .replace("\\|", "")
            .replace("\\<", "")
            .replace("\\[", "");
        let markdown: String = escaped.split('`').step_by(2).collect();
        assert!(
            !markdown.contains("<script") && !markdown.contains("[ham"),
            "{line}"
        );
        if line.starts_with("| \\<") {
            assert_eq!(markdown.matches('|').count(), 6, "{line}");
            in_table += 1;
        }
    }
    assert_eq!(in_table, 1, "{text}");
}
