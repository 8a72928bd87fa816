//! The scores of classes as HTML: beside the rivals, by class, what was taken for what.

use std::fmt::{Result, Write};

use super::Report;
use super::page::{escape, interval, thousands};
use super::standings::{Standing, Standings};
use crate::metrics::Evaluation;

/// The model and its rivals in one table.
pub(super) fn standings(html: &mut String, report: &Report) -> Result {
    let scores = &report.scores;
    let model = Standing {
        name: format!("this model ({})", report.model.kind),
        drawn: &scores.accuracy,
        cells: vec![
            interval(&scores.accuracy),
            interval(&scores.macro_f1),
            String::new(),
        ],
    };
    let rivals = report.rivals.iter().map(|rival| {
        let by = &rival.difference;
        let by = format!(
            "{:+.3} <small>[{:+.3}, {:+.3}]</small>",
            by.value, by.low, by.high
        );
        Standing {
            name: rival.name.clone(),
            drawn: &rival.accuracy,
            cells: vec![interval(&rival.accuracy), interval(&rival.macro_f1), by],
        }
    });
    let columns = ["accuracy", "macro-F1", "the model minus it"];
    Standings {
        columns: columns.map(str::to_owned).to_vec(),
        most: 1.0,
        rows: std::iter::once(model).chain(rivals).collect(),
    }
    .write(html)
}

/// Precision, recall and F1 of every class.
pub(super) fn classes(html: &mut String, scores: &Evaluation) -> Result {
    html.push_str(
        "<div class=\"wide\"><table>\n<thead><tr><th>class</th><th class=\"number\">rows</th>",
    );
    html.push_str("<th class=\"number\">precision</th><th class=\"number\">recall</th><th class=\"number\">F1</th><th></th></tr></thead>\n<tbody>\n");
    for class in &scores.classes {
        writeln!(
            html,
            "<tr><td><bdi>{}</bdi></td><td class=\"number\">{}</td><td class=\"number\">{:.3}</td><td class=\"number\">{:.3}</td>\
             <td class=\"number\">{:.3}</td><td><span class=\"bar\"><span style=\"width:{:.1}%\"></span></span></td></tr>",
            escape(&class.label),
            thousands(class.support),
            class.precision,
            class.recall,
            class.f1,
            100.0 * class.f1.clamp(0.0, 1.0)
        )?;
    }
    html.push_str("</tbody></table></div>\n");
    Ok(())
}

/// Classes up to which a matrix can still be read, and up to which it has room for labels that lie.
const MOST: usize = 40;
const FEW: usize = 8;

/// The confusion matrix as a shaded table, and the most frequent mistakes by name.
pub(super) fn confusions(html: &mut String, scores: &Evaluation) -> Result {
    if scores.labels.len() <= MOST {
        matrix(html, scores)?;
    }
    let mut mistakes = Vec::new();
    for (truth, row) in scores.confusion.iter().enumerate() {
        for (predicted, count) in row
            .iter()
            .enumerate()
            .filter(|(predicted, count)| *predicted != truth && **count > 0)
        {
            mistakes.push((*count, truth, predicted));
        }
    }
    mistakes.sort_by_key(|(count, truth, predicted)| (usize::MAX - count, *truth, *predicted));
    if scores.labels.len() > 2 && !mistakes.is_empty() {
        html.push_str("<p class=\"quiet\">The most frequent mistakes:</p>\n<ul>\n");
        for (count, truth, predicted) in mistakes.iter().take(8) {
            let [truth, predicted] = [truth, predicted].map(|index| escape(&scores.labels[*index]));
            writeln!(
                html,
                "<li><bdi>{truth}</bdi> taken for <bdi>{predicted}</bdi>: {}</li>",
                thousands(*count)
            )?;
        }
        html.push_str("</ul>\n");
    }
    Ok(())
}

fn matrix(html: &mut String, scores: &Evaluation) -> Result {
    let many = if scores.labels.len() > FEW {
        " many"
    } else {
        ""
    };
    write!(
        html,
        "<div class=\"wide\"><table class=\"matrix{many}\">\n<thead><tr><th><small>true ↓&ensp;answered →</small></th>"
    )?;
    for label in &scores.labels {
        let label = escape(label);
        write!(
            html,
            "<th title=\"{label}\"><span><bdi>{label}</bdi></span></th>"
        )?;
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (truth, (label, row)) in scores.labels.iter().zip(&scores.confusion).enumerate() {
        let label = escape(label);
        write!(html, "<tr><th title=\"{label}\"><bdi>{label}</bdi></th>")?;
        let total = row.iter().sum::<usize>().max(1) as f64;
        for (predicted, count) in row.iter().enumerate() {
            let share = *count as f64 / total;
            let class = if *count == 0 {
                "none"
            } else if truth == predicted {
                "right"
            } else {
                "wrong"
            };
            let shown = if *count == 0 {
                "·".to_owned()
            } else {
                thousands(*count)
            };
            write!(
                html,
                "<td class=\"{class}\" style=\"--share:{:.3}\" title=\"{:.1} % of {label}\">{shown}</td>",
                // The root makes rare mistakes visible beside frequent right answers.
                share.sqrt(),
                100.0 * share
            )?;
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    Ok(())
}
