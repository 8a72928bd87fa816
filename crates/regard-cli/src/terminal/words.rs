//! The words a model looked at: as a line whose background is the weight, or as bars.

use owo_colors::{OwoColorize, Style, XtermColors};
use regard_tasks::text_classification::{AttendedWord, Explanation};

use super::{Table, bar, one_line, shorten, visible};

/// Backgrounds from a little to much attention: pale yellow to orange of the 256 colours that terminals share.
const SHADES: [u8; 6] = [230, 229, 222, 221, 214, 208];

/// A word is shaded when it has at least this share of the largest weight.
const FAINTEST: f32 = 0.12;

/// The text with each word on a background as strong as its weight. White space becomes single blanks.
///
/// Of a text longer than `most` words the stretch with the most attention is shown, with `…` for the rest.
pub(crate) fn attended_line(explanation: &Explanation, most: usize) -> String {
    let words = &explanation.words;
    let largest = words.iter().map(|word| word.weight).fold(0.0, f32::max);
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
        line += &written.style(shade(word.weight / largest)).to_string();
        position = word.end;
    }
    if end < words.len() {
        line += &" …".dimmed().to_string();
    } else {
        push_blanks(&mut line, text.get(position..).unwrap_or_default());
    }
    line.trim_end().to_owned()
}

/// The most attended words with their weights as bars; equal words are added up.
pub(crate) fn attended_list(explanation: &Explanation, most: usize) -> String {
    let mut sums: Vec<(String, f32, usize)> = Vec::new();
    for word in &explanation.words {
        let key = word.text.to_lowercase();
        match sums.iter_mut().find(|(known, _, _)| *known == key) {
            Some((_, weight, times)) => {
                *weight += word.weight;
                *times += 1;
            }
            None => sums.push((key, word.weight, 1)),
        }
    }
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    let largest = sums.first().map_or(0.0, |(_, weight, _)| *weight);
    let mut table = Table::new([">weight", "", "word"]);
    for (word, weight, times) in sums.iter().take(most) {
        let word = shorten(&one_line(word), 40).into_owned();
        let word = if *times > 1 {
            format!("{word} ×{times}")
        } else {
            word
        };
        table.row([
            format!("{weight:.3}"),
            bar(f64::from(weight / largest), 20),
            word,
        ]);
    }
    let mut text = table.render();
    if sums.len() > most {
        let rest: f32 = sums[most..].iter().map(|(_, weight, _)| weight).sum();
        text += &format!("  {rest:.3}  in {} other words\n", sums.len() - most);
    }
    text
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

fn shade(share: f32) -> Style {
    if share.is_nan() || share < FAINTEST {
        return Style::new();
    }
    let strength = (share - FAINTEST) / (1.0 - FAINTEST);
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
        insta::assert_snapshot!(line, @"␛[38;5;16;48;5;230mYou␛[0m ␛[38;5;16;48;5;214mwon␛[0m a ␛[38;5;16;48;5;208mFREE␛[0m ␛[38;5;16;48;5;229mprize␛[0m: ·[2J␛[38;5;16;48;5;230mfree␛[0m!");
    }

    #[test]
    fn without_colour_the_words_stand_in_a_list_of_bars() {
        let list = anstream::adapter::strip_str(&attended_list(&spam(), 3)).to_string();
        insta::assert_snapshot!(list, @r"
          weight                        word
           0.480  ████████████████████  free ×2
           0.300  ████████████▌         won
           0.160  ██████▋               prize
          0.060  in 2 other words
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
