//! Texts with the attention on their words, as HTML.

use std::fmt::{Result, Write};

use super::page::escape;
use crate::text_classification::Explanation;

/// Labels whose probability is shown beside the answer.
const LABELS: usize = 3;

/// A text on its card: the answer above, each word on a background as strong as its weight.
pub(super) fn card(html: &mut String, explanation: &Explanation) -> Result {
    let prediction = &explanation.prediction;
    writeln!(
        html,
        "<div class=\"example\">\n<p class=\"answer\"><b dir=\"auto\">{}</b>",
        escape(&prediction.label)
    )?;
    for one in prediction.probabilities.iter().take(LABELS) {
        writeln!(
            html,
            "<span class=\"quiet\"><bdi>{}</bdi> {:.3}</span>",
            escape(&one.label),
            one.probability
        )?;
    }
    writeln!(
        html,
        "</p>\n<p class=\"text\" dir=\"auto\">{}</p>",
        marked(explanation)
    )?;
    if prediction.truncated_tokens > 0 {
        writeln!(
            html,
            "<p><small>The last {} tokens were not read.</small></p>",
            prediction.truncated_tokens
        )?;
    }
    html.push_str("</div>\n");
    Ok(())
}

/// How many times an even share of the attention a word must have for the strongest background, at least: attention that
/// is spread evenly is shown as such, not as strong everywhere.
const STRONG: f32 = 3.0;

/// The text, with a `mark` around each word that has more than an even share of the attention.
fn marked(explanation: &Explanation) -> String {
    let text = explanation.text.as_str();
    let count = explanation.words.len() as f32;
    let shares = explanation.words.iter().map(|word| word.weight * count);
    let largest = shares.fold(STRONG, f32::max);
    let mut html = String::with_capacity(text.len() * 2);
    let mut position = 0;
    for word in &explanation.words {
        let (Some(before), Some(written)) = (
            text.get(position..word.start),
            text.get(word.start..word.end),
        ) else {
            continue;
        };
        html += &escape(before);
        let strength = (word.weight * count - 1.0) / (largest - 1.0);
        let (title, written) = (format!("{:.4}", word.weight), escape(written));
        // Less than a twentieth of the strongest cannot be seen.
        html += &match strength >= 0.05 {
            true => {
                format!("<mark style=\"--weight:{strength:.2}\" title=\"{title}\">{written}</mark>")
            }
            false => format!("<span title=\"{title}\">{written}</span>"),
        };
        position = word.end;
    }
    html + &escape(text.get(position..).unwrap_or_default())
}
