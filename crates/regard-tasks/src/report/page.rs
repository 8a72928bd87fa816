//! The report and an explanation as one self-contained page each: no script, nothing from the network, nothing of the
//! data unescaped; light and dark, and on paper.

use std::fmt::{Result, Write};

use super::{Report, attention, parts, scores};
use crate::metrics::Interval;
use crate::text_classification::Explanation;

const STYLE: &str = include_str!("page.css");

/// The whole report as a page, with the attended words of some texts.
pub fn html(report: &Report, examples: &[Explanation]) -> String {
    page_with(report, |html| {
        if examples.is_empty() {
            return Ok(());
        }
        html.push_str("<h2>What it looked at</h2>\n");
        for example in examples {
            attention::card(html, example)?;
        }
        writeln!(
            html,
            "<p><small>{} {METHOD}</small></p>",
            escape(&examples[0].method)
        )
    })
}

/// The whole report as a page, with what a task shows of its own between the scores and the details.
pub(crate) fn page_with(report: &Report, own: impl FnOnce(&mut String) -> Result) -> String {
    let title = report.task.replace('-', " ");
    page(&format!("Report: {title}"), |html| {
        write_report(html, &title, report, own)
    })
}

/// One explanation as a page.
pub fn explanation_html(explanation: &Explanation) -> String {
    let prediction = &explanation.prediction;
    page(&format!("Explanation: {}", prediction.label), |html| {
        writeln!(
            html,
            "<p class=\"eyebrow\">Regard explanation</p>\n<h1>What the model looked at</h1>"
        )?;
        attention::card(html, explanation)?;
        writeln!(
            html,
            "<p class=\"quiet\">{} {METHOD}</p>",
            escape(&explanation.method)
        )?;
        if prediction.probabilities.len() > 1 {
            html.push_str("<h2>Every label</h2>\n<div class=\"wide\"><table><tbody>\n");
            for one in &prediction.probabilities {
                writeln!(
                    html,
                    "<tr><td><bdi>{}</bdi></td><td class=\"number\">{:.4}</td><td style=\"width:60%\"><span class=\"bar\">\
                     <span style=\"width:{:.1}%\"></span></span></td></tr>",
                    escape(&one.label),
                    one.probability,
                    100.0 * one.probability.clamp(0.0, 1.0)
                )?;
            }
            html.push_str("</tbody></table></div>\n");
        }
        let mut words: Vec<_> = explanation.words.iter().collect();
        words.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        html.push_str("<h2>The most attended words</h2>\n<div class=\"wide\"><table><tbody>\n");
        let largest = words.first().map_or(1.0, |word| word.weight);
        for word in words.iter().take(20) {
            writeln!(
                html,
                "<tr><td><bdi>{}</bdi></td><td class=\"number\">{:.4}</td><td style=\"width:60%\"><span class=\"bar\">\
                 <span style=\"width:{:.1}%;background:var(--attention)\"></span></span></td></tr>",
                escape(&word.text),
                word.weight,
                100.0 * (word.weight / largest).clamp(0.0, 1.0)
            )?;
        }
        html.push_str("</tbody></table></div>\n");
        Ok(())
    })
}

const METHOD: &str = "The background is the stronger, the more than an even share of the attention a word has; attention says where \
                      the model looked, not that it was right to.";

/// A page of its own around what `body` writes.
pub(crate) fn page(title: &str, body: impl FnOnce(&mut String) -> Result) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(title)
    );
    // Writing to a string cannot fail.
    let _ = body(&mut html);
    let version = env!("CARGO_PKG_VERSION");
    html + &format!(
        "<footer>Made by Regard {version}. This page is one file and loads nothing from anywhere.</footer>\n</main>\n</body>\n</html>\n"
    )
}

fn write_report(
    html: &mut String,
    title: &str,
    report: &Report,
    own: impl FnOnce(&mut String) -> Result,
) -> Result {
    let (model, training, scores) = (&report.model, &report.training, &report.scores);
    writeln!(
        html,
        "<p class=\"eyebrow\">Regard report</p>\n<h1>{}</h1>",
        escape(&capital(title))
    )?;
    let accuracy = &scores.accuracy;
    writeln!(
        html,
        "<p>It answered {:.1} % of {} rightly; the 95 % interval of that share is {:.1} % to {:.1} %.</p>",
        100.0 * accuracy.value,
        escape(&report.scored_on),
        100.0 * accuracy.low,
        100.0 * accuracy.high
    )?;
    let facts = [
        (format!("{:.3}", accuracy.value), "accuracy".to_owned()),
        (
            format!("{:.3}", scores.macro_f1.value),
            "macro-F1, every class counts the same".to_owned(),
        ),
        (
            parts::short(model.parameters),
            format!("parameters, {} model", model.kind),
        ),
        (
            parts::duration(training.seconds),
            format!("of training on {} rows", thousands(report.data.train_rows)),
        ),
    ];
    parts::facts(html, &facts)?;
    html.push_str("<h2>Beside something simpler</h2>\n");
    scores::standings(html, report)?;
    html.push_str("<p><small>Drawn: accuracy with its bootstrap 95 % interval. All on the same rows.</small></p>\n");
    parts::verdicts(html, &report.verdicts)?;
    parts::learned(html, training, "validation accuracy", 1.0)?;
    html.push_str("<h2>By class</h2>\n");
    scores::classes(html, scores)?;
    html.push_str("<h2>What was taken for what</h2>\n");
    scores::confusions(html, scores)?;
    own(html)?;
    html.push_str("<h2>Data and training</h2>\n");
    details(html, report)
}

fn details(html: &mut String, report: &Report) -> Result {
    let (data, model, training) = (&report.data, &report.model, &report.training);
    html.push_str("<dl>\n");
    let columns = format!(
        "{} <code>{}</code>, labels <code>{}</code>",
        inputs(report),
        escape(&data.text_column),
        escape(&data.label_column)
    );
    let group = data
        .group_column
        .as_ref()
        .map(|group| format!(", kept together by <code>{}</code>", escape(group)));
    let rows = format!(
        "{} to learn from, {} to stop early on, {} to score on",
        thousands(data.train_rows),
        thousands(data.validation_rows),
        if data.test_rows == 0 {
            "none apart".to_owned()
        } else {
            thousands(data.test_rows)
        }
    );
    let labels: Vec<String> = data
        .labels
        .iter()
        .map(|(label, rows)| format!("<bdi>{}</bdi> {}", escape(label), thousands(*rows)))
        .collect();
    let all = |lines: &[String]| lines.iter().map(|line| escape(line)).collect::<Vec<_>>();
    let mut entry = |name: &str, values: &[String]| parts::entry(html, name, values);
    entry(
        "files",
        &data.files.iter().map(parts::file).collect::<Vec<_>>(),
    )?;
    entry("columns", &[columns + &group.unwrap_or_default()])?;
    entry("rows", &[rows])?;
    entry("labels", &[labels.join(" · ")])?;
    entry("left out", &all(&data.skipped))?;
    if data.truncated_texts > 0 {
        entry(
            "cut",
            &[format!(
                "{} texts are longer than the model reads",
                thousands(data.truncated_texts)
            )],
        )?;
    }
    parts::model_and_training(html, model, training)?;
    html.push_str("</dl>\n");
    Ok(())
}

/// What the task reads.
pub(super) fn inputs(report: &Report) -> &'static str {
    match report.model.vocabulary {
        0 => "pictures",
        _ => "texts",
    }
}

/// Text as HTML that says just that, in an element or an attribute. Characters that HTML forbids become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(character),
            '\r' => {}
            _ if character.is_control() => html.push('\u{fffd}'),
            _ => html.push(character),
        }
    }
    html
}

/// A score with its interval.
pub(super) fn interval(score: &Interval) -> String {
    format!(
        "{:.3} <small>[{:.3}, {:.3}]</small>",
        score.value, score.low, score.high
    )
}

/// 1234567 as `1,234,567`.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

/// With a large first letter.
pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
