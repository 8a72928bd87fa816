//! The words a model looked at: as a line whose background is the weight, or as bars.

use owo_colors::{OwoColorize, Style, XtermColors};
use regard_tasks::text_classification::{AttendedWord, Explanation};

use super::{Table, bar, one_line, shorten, visible};

/// Backgrounds from a little to much attention: pale yellow to orange of the 256 colours that terminals share.
const SHADES: [u8; 6] = [230, 229, 222, 221, 214, 208];

/// How many times an even share of the attention a word must have for the strongest background, at least: attention that
/// is spread evenly is shown as such, not as strong everywhere.
const STRONG: f32 = 3.0;

/// The text with each word on a background as strong as its weight. White space becomes single blanks.
///
/// Of a text longer than `most` words the stretch with the most attention is shown, with `…` for the rest.
pub(crate) fn attended_line(explanation: &Explanation, most: usize) -> String {
    let words = &explanation.words;
    let strength = strength(words);
    let (first, end) = stretch(words, most);
    let shown = &words[first..end];
    let text = explanation.text.as_str();
    let mut position = if first == 0 {
        0
    } else {
        shown.first().map_or(0, |word| word.start)
    };
    let mut line = if first == 0 {
        String::new()
    } else {
        "… ".dimmed().to_string()
    };
    for word in shown {
        push_blanks(&mut line, text.get(position..word.start).unwrap_or(" "));
        let written: String = word.text.chars().map(visible).collect();
        line += &written.style(shade(strength(word.weight))).to_string();
        position = word.end;
    }
    if end < words.len() {
        line += &" …".dimmed().to_string();
    } else {
        push_blanks(&mut line, text.get(position..).unwrap_or_default());
    }
    line.trim_end().to_owned()
}

/// The most attended words with their weights as bars; of equal words the most attended one stands for all.
pub(crate) fn attended_list(explanation: &Explanation, most: usize) -> String {
    let mut words: Vec<(String, f32, usize)> = Vec::new();
    for word in &explanation.words {
        let key = one_line(&word.text).to_lowercase();
        match words.iter_mut().find(|(known, _, _)| *known == key) {
            Some((_, weight, times)) => {
                *weight = weight.max(word.weight);
                *times += 1;
            }
            None => words.push((key, word.weight, 1)),
        }
    }
    words.sort_by(|a, b| b.1.total_cmp(&a.1));
    let largest = words.first().map_or(0.0, |(_, weight, _)| *weight);
    let mut table = Table::new([">weight", "", "word"]);
    for (word, weight, times) in words.iter().take(most) {
        let word = shorten(word, 40).into_owned();
        let word = if *times > 1 {
            format!("{word}  (the largest of {times})")
        } else {
            word
        };
        table.row([
            format!("{weight:.4}"),
            bar(f64::from(weight / largest), 20),
            word,
        ]);
    }
    if explanation.words.is_empty() {
        return table.render();
    }
    let even = 1.0 / explanation.words.len() as f32;
    let caption = format!(
        "{} words in the text: an even share is {even:.4}",
        explanation.words.len()
    );
    format!("{}  {}\n", table.render(), caption.dimmed())
}

/// From a weight to how strongly it is shown, 0 for an even share or less, 1 for the largest weight.
fn strength(words: &[AttendedWord]) -> impl Fn(f32) -> f32 {
    let count = words.len() as f32;
    let largest = words
        .iter()
        .map(|word| word.weight * count)
        .fold(STRONG, f32::max);
    move |weight| ((weight * count - 1.0) / (largest - 1.0)).max(0.0)
}

/// The words `first..end` of at most `most` whose weights sum to the most.
fn stretch(words: &[AttendedWord], most: usize) -> (usize, usize) {
    if words.len() <= most {
        return (0, words.len());
    }
    let weight = |first: usize| {
        words[first..first + most]
            .iter()
            .map(|word| word.weight)
            .sum::<f32>()
    };
    let first =
        (0..=words.len() - most).max_by(|a, b| weight(*a).total_cmp(&weight(*b)).then(b.cmp(a)));
    let first = first.unwrap_or(0);
    (first, first + most)
}

fn shade(strength: f32) -> Style {
    // A tenth of the strongest cannot be told from none.
    if strength.is_nan() || strength < 0.1 {
        return Style::new();
    }
    let index = (strength * SHADES.len() as f32) as usize;
    let background = XtermColors::from(SHADES[index.min(SHADES.len() - 1)]);
    Style::new()
        .color(XtermColors::from(16))
        .on_color(background)
}

/// What stands between two words, with white space as single blanks.
fn push_blanks(line: &mut String, between: &str) {
    for character in between.chars() {
        if !character.is_whitespace() {
            line.push(visible(character));
        } else if !line.is_empty() && !line.ends_with(' ') {
            line.push(' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regard_tasks::text_classification::Prediction;

    fn explanation(text: &str, words: &[(&str, f32)]) -> Explanation {
        let mut position = 0;
        let words = words.iter().map(|(word, weight)| {
            let start = position
                + text[position..]
                    .find(word)
                    .expect("the word is in the text");
            position = start + word.len();
            AttendedWord {
                text: (*word).to_owned(),
                start,
                end: position,
                weight: *weight,
            }
        });
        Explanation {
            text: text.to_owned(),
            words: words.collect(),
            prediction: Prediction {
                label: "spam".to_owned(),
                probability: 0.9,
                probabilities: Vec::new(),
                truncated_tokens: 0,
            },
            method: String::new(),
        }
    }

    fn spam() -> Explanation {
        let words = [
            ("You", 0.05),
            ("won", 0.3),
            ("a", 0.01),
            ("FREE", 0.4),
            ("prize", 0.16),
            ("free", 0.08),
        ];
        explanation("You won\n\n a FREE prize: \u{1b}[2Jfree!", &words)
    }

    #[test]
    fn the_background_is_stronger_where_the_weight_is_larger() {
        let line = attended_line(&spam(), 100).replace('\u{1b}', "␛");
        insta::assert_snapshot!(line, @"You ␛[38;5;16;48;5;222mwon␛[0m a ␛[38;5;16;48;5;214mFREE␛[0m prize: ·[2Jfree!");
    }

    #[test]
    fn without_colour_the_words_stand_in_a_list_of_bars() {
        let list = anstream::adapter::strip_str(&attended_list(&spam(), 3)).to_string();
        insta::assert_snapshot!(list, @r"
          weight                        word
          0.4000  ████████████████████  free  (the largest of 2)
          0.3000  ███████████████       won
          0.1600  ████████              prize
          6 words in the text: an even share is 0.1667
        ");
    }

    #[test]
    fn of_a_long_text_the_most_attended_stretch_is_shown() {
        let line = attended_line(&spam(), 3);
        assert_eq!(
            anstream::adapter::strip_str(&line).to_string(),
            "… won a FREE …"
        );
    }

    #[test]
    fn a_text_without_words_is_an_empty_line_and_an_empty_list() {
        let nothing = explanation("  \n", &[]);
        assert_eq!(attended_line(&nothing, 10), "");
        assert_eq!(
            anstream::adapter::strip_str(&attended_list(&nothing, 3)).to_string(),
            "  weight    word\n"
        );
    }

    #[test]
    fn spans_that_do_not_fit_the_text_do_no_harm() {
        let mut wrong = spam();
        wrong.words[1].start = 7_000;
        wrong.words[2].end = usize::MAX;
        attended_line(&wrong, 100);
    }
}
