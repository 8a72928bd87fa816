//! Which span of the source a written word came from: what a reader of a summary asks.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::Alignment;
use super::alignment::Word;
use crate::report::{escape, page};

/// The span of the source that a written word came from: the fewest neighbouring words with half of its attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Number of its first source word.
    pub first: usize,
    /// Number of its last source word.
    pub last: usize,
    /// Its first byte in the source.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
    /// How much of the word's attention lies on it.
    pub weight: f32,
    /// Whether the written word stands there.
    pub origin: Origin,
}

/// Where a written word stands in the source; capitals and marks around a word do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// In the span.
    Span,
    /// In another place.
    Elsewhere,
    /// Nowhere: the model chose it itself.
    Nowhere,
}

/// Words of a span at most: attention that is spread wider points nowhere, and then the heaviest run of so many is shown.
const WIDEST: usize = 8;
/// Weight below which a word was not looked at.
const LEAST: f32 = 0.05;

/// The span of one written word, from the weights of the source words; `None` where it looked at no word.
pub(super) fn trace(written: &str, weights: &[f32], source: &[Word]) -> Option<Trace> {
    let all: f32 = weights.iter().sum();
    if all < LEAST {
        return None;
    }
    let widest = WIDEST.min(weights.len());
    let heaviest = |width: usize| {
        let runs = weights.windows(width).enumerate();
        let sums = runs.map(|(at, run)| (at, run.iter().sum::<f32>()));
        // The first of equals: `max_by` would give the last.
        sums.reduce(|best, one| if one.1 > best.1 { one } else { best })
    };
    let (width, (first, weight)) = (1..=widest)
        .filter_map(|width| Some((width, heaviest(width)?)))
        .find(|(width, (_, weight))| *width == widest || *weight >= all / 2.0)?;
    let last = first + width - 1;
    let plain = plain(written);
    let places = source.iter().enumerate();
    let mut found =
        places.filter(|(_, word)| !plain.is_empty() && self::plain(&word.text) == plain);
    let origin = match found.next() {
        None => Origin::Nowhere,
        Some((at, _)) if (first..=last).contains(&at) => Origin::Span,
        Some(_) if found.any(|(at, _)| (first..=last).contains(&at)) => Origin::Span,
        Some(_) => Origin::Elsewhere,
    };
    Some(Trace {
        first,
        last,
        start: source[first].start,
        end: source[last].end,
        weight,
        origin,
    })
}

/// A word in small letters, without the marks around it; a mark alone as it is.
fn plain(word: &str) -> String {
    let trimmed = word.trim_matches(|letter: char| !letter.is_alphanumeric());
    if trimmed.is_empty() { word } else { trimmed }.to_lowercase()
}

impl Alignment {
    /// A page with the source, the darker where the summary looked, and for each word a link to its span.
    pub fn tracing_html(&self) -> String {
        page("Explanation: where each word came from", |html| {
            self.write_spans(html)
        })
    }

    fn write_spans(&self, html: &mut String) -> std::fmt::Result {
        let mut looked = vec![0.0_f32; self.source_words.len()];
        for row in &self.weights {
            let sums = looked.iter_mut().zip(row);
            sums.for_each(|(most, weight)| *most = most.max(*weight));
        }
        html.push_str(
            "<p class=\"eyebrow\">Regard explanation</p>\n<h1>Where each word came from</h1>\n\
             <div class=\"example\"><p class=\"text\" dir=\"auto\">",
        );
        let mut at = 0;
        for (number, (word, weight)) in self.source_words.iter().zip(&looked).enumerate() {
            write!(
                html,
                "{}<mark id=\"w{number}\" style=\"--weight:{weight:.2}\" title=\"{weight:.2}\">{}</mark>",
                escape(&self.source[at..word.start]),
                escape(&word.text)
            )?;
            at = word.end;
        }
        writeln!(html, "{}</p></div>", escape(&self.source[at..]))?;
        html.push_str("<div class=\"wide\"><table class=\"texts\">\n<thead><tr><th>word</th><th>came from</th><th>share of its attention</th>");
        if self.copied.is_some() {
            html.push_str("<th>copied</th>");
        }
        html.push_str("<th></th></tr></thead>\n<tbody>\n");
        for (at, (word, trace)) in self.target_words.iter().zip(&self.traces).enumerate() {
            write!(html, "<tr><td dir=\"auto\">{}</td>", escape(&word.text))?;
            let copied = self.copied.as_ref().map(|copied| copied[at]);
            let copied = copied.map_or(String::new(), |share| format!("<td>{share:.2}</td>"));
            match trace {
                None => writeln!(
                    html,
                    "<td></td><td></td>{copied}<td>it looked at no word</td></tr>"
                )?,
                Some(trace) => writeln!(
                    html,
                    "<td dir=\"auto\"><a href=\"#w{}\">{}</a></td><td>{:.2}</td>{copied}<td>{}</td></tr>",
                    trace.first,
                    escape(&self.source[trace.start..trace.end]),
                    trace.weight,
                    trace.origin.said()
                )?,
            }
        }
        writeln!(
            html,
            "</tbody></table></div>\n<p class=\"quiet\">{}</p>",
            escape(&self.method)
        )
    }
}

impl Origin {
    /// In words, where there is something to say.
    pub fn said(self) -> &'static str {
        match self {
            Self::Span => "",
            Self::Elsewhere => "stands elsewhere in the text",
            Self::Nowhere => "not a word of the text",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        for part in text.split(' ') {
            let start = words.last().map_or(0, |last: &Word| last.end + 1);
            let end = start + part.len();
            words.push(Word {
                text: part.to_owned(),
                start,
                end,
            });
        }
        words
    }

    #[test]
    fn a_span_is_the_fewest_neighbours_with_half_of_the_attention() {
        let text = "a small, fast Viewer for images";
        let source = words(text);
        let found = trace("viewer", &[0.1, 0.1, 0.3, 0.3, 0.1, 0.0], &source).unwrap();
        assert_eq!(&text[found.start..found.end], "fast Viewer");
        assert_eq!(
            (found.first, found.last, found.origin),
            (2, 3, Origin::Span)
        );
        let found = trace("small", &[0.0, 0.1, 0.0, 0.7, 0.0, 0.0], &source).unwrap();
        assert_eq!(
            (found.first, found.last, found.origin),
            (3, 3, Origin::Elsewhere)
        );
        let found = trace("program", &[0.0, 0.0, 0.0, 0.0, 0.0, 0.6], &source).unwrap();
        assert_eq!(found.origin, Origin::Nowhere);
        assert_eq!(trace("viewer", &[0.0; 6], &source), None);
        assert_eq!(trace("viewer", &[], &[]), None);
    }

    #[test]
    fn attention_that_is_spread_over_everything_gives_a_span_of_some_words() {
        let source = words(&"word ".repeat(40));
        let found = trace("word", &[0.02; 41], &source).unwrap();
        assert_eq!((found.first, found.last), (0, 7));
    }
}
