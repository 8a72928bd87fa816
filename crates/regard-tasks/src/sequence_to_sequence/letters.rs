//! What the letters of texts say: that two sides are swapped, that a script is new to the model.

use std::collections::BTreeMap;

use super::data::Pairs;

/// The letters that occur, the most frequent first, equals in their order.
pub(super) fn letters(texts: &[String]) -> String {
    let mut counts = BTreeMap::<char, usize>::new();
    let all = texts.iter().flat_map(|text| text.chars());
    for letter in all.filter(|letter| letter.is_alphabetic()) {
        *counts.entry(letter).or_default() += 1;
    }
    let mut counts: Vec<(char, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(letter, count)| (std::cmp::Reverse(*count), *letter));
    counts.into_iter().map(|(letter, _)| letter).collect()
}

/// Evidence that the sides of `pairs` are swapped: letters that one side of the training had and the other did not, or
/// rarely. `sources` and `targets` are the [`letters`] of the training.
pub(super) fn swapped(sources: &str, targets: &str, pairs: &Pairs) -> Option<String> {
    let only = |yes: &str, no: &str| -> Vec<char> {
        let rank = |letters: &str, letter: char| letters.chars().position(|one| one == letter);
        let is_rare =
            |(yes, letter): &(usize, char)| rank(no, *letter).is_none_or(|no| no > 2 * yes + 10);
        let ranked = yes.chars().enumerate().filter(is_rare);
        ranked.map(|(_, letter)| letter).collect()
    };
    let (of_source, of_target) = (only(sources, targets), only(targets, sources));
    let count = |texts: &[String], letters: &[char]| -> usize {
        let all = texts.iter().flat_map(|text| text.chars());
        all.filter(|letter| letters.contains(letter)).count()
    };
    let right = count(&pairs.sources, &of_source) + count(&pairs.targets, &of_target);
    let wrong = count(&pairs.sources, &of_target) + count(&pairs.targets, &of_source);
    (wrong > 20 && wrong > 3 * right).then(|| {
        format!(
            "the columns look swapped: {wrong} letters stand on the side where training had few of them, {right} where it had \
             most (--source-column, --target-column)"
        )
    })
}

/// What a text has that the training never had: the share of its letters and some of them; `None` where it is less than
/// half. `known` are the [`letters`] of the training's sources.
pub(super) fn unseen(known: &str, text: &str) -> Option<String> {
    let letters: Vec<char> = text
        .chars()
        .filter(|letter| letter.is_alphabetic())
        .collect();
    let mut unseen = letters.clone();
    unseen.retain(|letter| !known.contains(*letter));
    if 2 * unseen.len() <= letters.len() {
        return None;
    }
    let count = unseen.len();
    unseen.truncate(8);
    let shown: String = unseen.into_iter().collect();
    Some(format!(
        "{count} of {} letters never occurred in the sources of training ({shown} …): do not trust what is written",
        letters.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_that_are_swapped_show_by_their_letters() {
        let texts = |text: &str| vec![text.to_owned(); 3];
        let (english, russian) = (
            texts("a small cat and a dog"),
            texts("маленькая кошка и собака"),
        );
        let (sources, targets) = (letters(&english), letters(&russian));
        let pairs = |sources: &[String], targets: &[String]| Pairs {
            sources: sources.to_vec(),
            targets: targets.to_vec(),
            ..Pairs::default()
        };
        assert_eq!(
            swapped(&sources, &targets, &pairs(&english, &russian)),
            None
        );
        let said = swapped(&sources, &targets, &pairs(&russian, &english)).unwrap();
        assert!(
            said.starts_with("the columns look swapped: 111 letters"),
            "{said}"
        );
    }

    #[test]
    fn a_script_that_was_never_seen_is_said_and_a_few_new_letters_are_not() {
        let known = letters(&["a small cat".to_owned()]);
        assert_eq!(unseen(&known, "a small cat, 😀 42"), None);
        assert_eq!(unseen(&known, "a smäll cat"), None);
        assert!(
            unseen(&known, "猫 cat 小さい猫")
                .unwrap()
                .starts_with("5 of 8 letters")
        );
    }
}
