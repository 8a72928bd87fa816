//! The scores as HTML: beside the rivals, by class, what was taken for what.

use std::fmt::{Result, Write};

use super::Report;
use super::page::{escape, interval, thousands};
use crate::metrics::{Evaluation, Interval};

/// The model and its rivals in one table, with their intervals drawn on one axis.
pub(super) fn standings(html: &mut String, report: &Report) -> Result {
    let scores = &report.scores;
    let axis = Axis::over(
        [&scores.accuracy]
            .into_iter()
            .chain(report.rivals.iter().map(|rival| &rival.accuracy)),
    );
    html.push_str("<div class=\"wide\"><table class=\"standings\">\n<thead><tr><th></th><th class=\"drawn\"><span class=\"axis\">");
    for tick in &axis.ticks {
        write!(
            html,
            "<i style=\"left:{:.2}%\">{tick:.2}</i>",
            axis.percent(*tick)
        )?;
    }
    html.push_str("</span></th><th>accuracy</th><th>macro-F1</th><th>the model minus it</th></tr></thead>\n<tbody>\n");
    let row = |html: &mut String,
               class: &str,
               name: &str,
               accuracy: &Interval,
               macro_f1: &Interval,
               by: &str| {
        writeln!(
            html,
            "<tr{class}><td>{}</td><td class=\"drawn\">{}</td><td>{}</td><td>{}</td><td>{by}</td></tr>",
            escape(name),
            axis.span(accuracy),
            interval(accuracy),
            interval(macro_f1)
        )
    };
    let model = format!("this model ({})", report.model.kind);
    row(
        html,
        " class=\"model\"",
        &model,
        &scores.accuracy,
        &scores.macro_f1,
        "",
    )?;
    for rival in &report.rivals {
        let by = &rival.difference;
        let by = format!(
            "{:+.3} <small>[{:+.3}, {:+.3}]</small>",
            by.value, by.low, by.high
        );
        row(html, "", &rival.name, &rival.accuracy, &rival.macro_f1, &by)?;
    }
    html.push_str("</tbody></table></div>\n");
    Ok(())
}

/// The part of 0 to 1 that the drawn intervals share.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn over<'a>(intervals: impl Iterator<Item = &'a Interval>) -> Self {
        let (mut low, mut high) = (1.0_f64, 0.0_f64);
        for interval in intervals {
            low = low.min(interval.low).min(interval.value);
            high = high.max(interval.high).max(interval.value);
        }
        let margin = ((high - low) * 0.06).max(0.01);
        let (low, high) = ((low - margin).max(0.0), (high + margin).min(1.0));
        let step = [0.01, 0.02, 0.05, 0.1, 0.2]
            .into_iter()
            .find(|step| (high - low) / step <= 5.0)
            .unwrap_or(0.25);
        let first = (low / step).ceil() as usize;
        let ticks = (first..)
            .map(|index| index as f64 * step)
            .take_while(|tick| *tick <= high + 1e-9)
            .collect();
        Self { low, high, ticks }
    }

    fn percent(&self, value: f64) -> f64 {
        (100.0 * (value - self.low) / (self.high - self.low)).clamp(0.0, 100.0)
    }

    fn span(&self, interval: &Interval) -> String {
        let [low, high, value] =
            [interval.low, interval.high, interval.value].map(|x| self.percent(x));
        let ticks = self
            .ticks
            .iter()
            .map(|tick| format!("<u style=\"left:{:.2}%\"></u>", self.percent(*tick)));
        format!(
            "<span class=\"span\">{}<s style=\"left:{low:.2}%;width:{:.2}%\"></s><b style=\"left:{value:.2}%\"></b></span>",
            ticks.collect::<String>(),
            high - low
        )
    }
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
