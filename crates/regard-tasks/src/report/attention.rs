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

/// The text, with a `mark` around each word that has a share of the attention worth seeing.
fn marked(explanation: &Explanation) -> String {
    let text = explanation.text.as_str();
    let largest = explanation
        .words
        .iter()
        .map(|word| word.weight)
        .fold(0.0, f32::max);
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
        let share = word.weight / largest;
        // Less than a twentieth of the largest weight cannot be seen.
        match share >= 0.05 {
            true => {
                let title = format!("{:.4}", word.weight);
                html += &format!(
                    "<mark style=\"--weight:{share:.2}\" title=\"{title}\">{}</mark>",
                    escape(written)
                );
            }
            false => html += &escape(written),
        }
        position = word.end;
    }
    html + &escape(text.get(position..).unwrap_or_default())
}
