//! Pairs of texts: descriptions of Debian packages with their translations, and with their one-line synopses; verses.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use super::table::field;
use super::{bible, debian};
use crate::{Result, sha256};

/// A text that is read, a text that is to be written, and what both come from, which is never split: a source package, a
/// book.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) group: String,
}

/// Words of a description that is worth a summary.
const LEAST_WORDS: usize = 20;

/// Fetches one set, counts and writes `train.tsv`, `test.tsv` and, for translations, `unseen.tsv`: the test pairs whose English
/// stands nowhere in the training part.
pub(super) fn make(folder: &Path, language: Option<&str>) -> Result<(usize, usize)> {
    let languages: Vec<&str> = ["en"].into_iter().chain(language).collect();
    let index = debian::fetch(folder, &languages)?;
    let packages = debian::packages(&index("_main_binary-amd64_Packages")?);
    let english = debian::descriptions(&index("_main_i18n_Translation-en")?, "en");
    let pairs = match language {
        Some(language) => {
            // apt writes `_` in a file's name as %5f.
            let suffix = format!("_main_i18n_Translation-{}", language.replace('_', "%5f"));
            let other = debian::descriptions(&index(&suffix)?, language);
            translations(&packages, &english, &other)
        }
        None => synopses(&packages, &english),
    };
    let (test, train): (Vec<Pair>, Vec<Pair>) = pairs
        .into_iter()
        .partition(|pair| sha256::modulo(pair.group.as_bytes(), 10) == 0);
    write(&folder.join("train.tsv"), "package", &train)?;
    write(&folder.join("test.tsv"), "package", &test)?;
    let counts = (train.len(), test.len());
    if language.is_some() {
        let seen: HashSet<&str> = train.iter().map(|pair| pair.source.as_str()).collect();
        let unseen: Vec<Pair> = test
            .into_iter()
            .filter(|pair| !seen.contains(pair.source.as_str()))
            .collect();
        write(&folder.join("unseen.tsv"), "package", &unseen)?;
    }
    Ok(counts)
}

/// Fetches and writes the Bible, English and Spanish.
pub(super) fn make_bible(folder: &Path) -> Result<(usize, usize)> {
    let [train, test] = bible::make(folder)?;
    write(&folder.join("train.tsv"), "book", &train)?;
    write(&folder.join("test.tsv"), "book", &test)?;
    Ok((train.len(), test.len()))
}

/// Synopses with synopses and paragraphs with paragraphs, where both have as many; each pair once. What was left as it is
/// is no translation.
fn translations(
    packages: &[(String, String)],
    english: &HashMap<String, String>,
    other: &HashMap<String, String>,
) -> Vec<Pair> {
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for (package, sum) in packages {
        let (Some(english), Some(other)) = (english.get(sum), other.get(sum)) else {
            continue;
        };
        let (english, other): (Vec<&str>, Vec<&str>) =
            (english.lines().collect(), other.lines().collect());
        if english.len() != other.len() {
            continue;
        }
        for (source, target) in english.into_iter().zip(other) {
            if source != target
                && !source.is_empty()
                && seen.insert((source.to_owned(), target.to_owned()))
            {
                pairs.push(Pair {
                    source: source.to_owned(),
                    target: target.to_owned(),
                    group: package.clone(),
                });
            }
        }
    }
    pairs
}

/// Bodies of some length with their synopses.
fn synopses(packages: &[(String, String)], english: &HashMap<String, String>) -> Vec<Pair> {
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for (package, sum) in packages {
        let Some((synopsis, body)) = english.get(sum).and_then(|text| text.split_once('\n')) else {
            continue;
        };
        let body = body.replace('\n', " ");
        if body.split_whitespace().count() >= LEAST_WORDS && seen.insert(body.clone()) {
            pairs.push(Pair {
                source: body,
                target: synopsis.to_owned(),
                group: package.clone(),
            });
        }
    }
    pairs
}

fn write(path: &Path, group: &str, pairs: &[Pair]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(file, "source\ttarget\t{group}")?;
    let cell = |text: &str| field(&text.replace(['\t', '\r', '\n'], " "));
    for pair in pairs {
        writeln!(
            file,
            "{}\t{}\t{}",
            cell(&pair.source),
            cell(&pair.target),
            pair.group
        )?;
    }
    file.flush()?;
    println!("  {}: {} pairs", path.display(), pairs.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_paired_where_there_are_as_many_and_each_once() {
        let map = |entries: &[(&str, &str)]| -> HashMap<String, String> {
            let owned = |(sum, text): &(&str, &str)| ((*sum).to_owned(), (*text).to_owned());
            entries.iter().map(owned).collect()
        };
        let packages: Vec<(String, String)> = ["1", "2", "3"]
            .map(|sum| ("chess".to_owned(), sum.to_owned()))
            .into();
        let english = map(&[
            ("1", "plays\nA game.\nX11"),
            ("2", "plays\nA game."),
            ("3", "one\ntwo"),
        ]);
        let italian = map(&[
            ("1", "gioca\nUn gioco.\nX11"),
            ("2", "gioca\nUn gioco."),
            ("3", "uno"),
        ]);
        let pairs = translations(&packages, &english, &italian);
        let shown: Vec<(&str, &str)> = pairs
            .iter()
            .map(|pair| (pair.source.as_str(), pair.target.as_str()))
            .collect();
        assert_eq!(shown, [("plays", "gioca"), ("A game.", "Un gioco.")]);
    }
}
