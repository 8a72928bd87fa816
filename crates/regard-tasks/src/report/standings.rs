//! A model and what it stands beside in one table, with their intervals drawn on one axis.

use std::fmt::{Result, Write};

use super::page::escape;
use crate::metrics::Interval;

/// The table; the model is its first row.
pub(crate) struct Standings<'a> {
    /// Over the cells, as HTML.
    pub(crate) columns: Vec<String>,
    /// The best score there is: 1 or 100.
    pub(crate) most: f64,
    pub(crate) rows: Vec<Standing<'a>>,
}

/// A row of it.
pub(crate) struct Standing<'a> {
    pub(crate) name: String,
    /// What is drawn.
    pub(crate) drawn: &'a Interval,
    /// As HTML.
    pub(crate) cells: Vec<String>,
}

impl Standings<'_> {
    pub(crate) fn write(&self, html: &mut String) -> Result {
        let axis = Axis::over(self.rows.iter().map(|row| row.drawn), self.most);
        html.push_str("<div class=\"wide\"><table class=\"standings\">\n<thead><tr><th></th><th class=\"drawn\"><span class=\"axis\">");
        let digits = if self.most > 1.0 { 0 } else { 2 };
        for tick in &axis.ticks {
            write!(
                html,
                "<i style=\"left:{:.2}%\">{tick:.digits$}</i>",
                axis.percent(*tick)
            )?;
        }
        html.push_str("</span></th>");
        for column in &self.columns {
            write!(html, "<th>{column}</th>")?;
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for (at, row) in self.rows.iter().enumerate() {
            let class = if at == 0 { " class=\"model\"" } else { "" };
            write!(
                html,
                "<tr{class}><td>{}</td><td class=\"drawn\">{}</td>",
                escape(&row.name),
                axis.span(row.drawn)
            )?;
            for cell in &row.cells {
                write!(html, "<td>{cell}</td>")?;
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>\n");
        Ok(())
    }
}

/// The part of 0 to `most` that the drawn intervals share.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn over<'a>(intervals: impl Iterator<Item = &'a Interval>, most: f64) -> Self {
        let (mut low, mut high) = (most, 0.0_f64);
        for interval in intervals {
            low = low.min(interval.low).min(interval.value);
            high = high.max(interval.high).max(interval.value);
        }
        let margin = ((high - low) * 0.06).max(0.01 * most);
        let (low, high) = ((low - margin).max(0.0), (high + margin).min(most));
        let step = [0.01, 0.02, 0.05, 0.1, 0.2]
            .map(|share| share * most)
            .into_iter()
            .find(|step| (high - low) / step <= 5.0)
            .unwrap_or(0.25 * most);
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
