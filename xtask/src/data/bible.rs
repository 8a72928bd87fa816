//! The Bible, verse by verse, from two editions in the public domain: the World English Bible and Reina-Valera 1909. Notes,
//! headings and markup are left out and only verses that both have are taken, so what comes out is not the World English
//! Bible (a trademark of eBible.org) any more.
//!
//! Debian carries both as SWORD modules, three files a testament (<https://wiki.crosswire.org/File_Formats>): `.bzz` holds a
//! zlib stream for each block of text, `.bzs` three numbers for each block (offset, length packed, length unpacked), `.bzv`
//! three for each verse (block, offset in it, length). Chapter and verse are not named there: a chapter's heading has an entry of
//! its own before its verses, which are counted after it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

use super::clients::{self, Pinned};
use super::pairs::Pair;
use crate::Result;

const ENGLISH: Edition = Edition {
    package: Pinned {
        package: "sword-text-web",
        version: "426.0-1",
        file: "sword-text-web_426.0-1_all.deb",
        sha256: "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
    },
    module: "engWEB2015eb",
};

const SPANISH: Edition = Edition {
    package: Pinned {
        package: "sword-text-sparv",
        version: "2.60-1",
        file: "sword-text-sparv_2.60-1_all.deb",
        sha256: "5c87f9b2bc97457e8a872f5bae7ea7ce59cb3de1dcee73e4d4740451863694cf",
    },
    module: "spaRV1909eb",
};

/// Books that test: stories, a prophet, the gospel that shares least with the others, a letter and a vision; about one
/// verse in seventeen.
const HELD_OUT: [&str; 7] = ["Ruth", "Esth", "Hos", "Jonah", "John", "Jas", "Rev"];

struct Edition {
    package: Pinned,
    module: &'static str,
}

/// Chapter, as in `Gen.1`, and verse.
type Place = (String, usize);

/// Pairs for training and for testing, in the order of the books.
pub(crate) fn make(folder: &Path) -> Result<[Vec<Pair>; 2]> {
    let english = verses(&ENGLISH, folder)?;
    let spanish = verses(&SPANISH, folder)?;
    let pairs = aligned(&english, &spanish).into_iter();
    let (test, train) = pairs.partition(|pair| HELD_OUT.contains(&pair.group.as_str()));
    Ok([train, test])
}

/// The verses of an edition, in its order.
fn verses(edition: &Edition, folder: &Path) -> Result<Vec<(Place, String)>> {
    clients::debian(&edition.package, folder)?;
    let module = folder
        .join("usr/share/sword/modules/texts/ztext")
        .join(edition.module);
    let mut verses = Vec::new();
    for testament in ["ot", "nt"] {
        let entries = entries(&module.join(testament))?;
        verses.extend(numbered(entries.iter().map(String::as_str)));
    }
    Ok(verses)
}

/// The blocks of a testament one after the other, for Python's zlib.
const INFLATE: &str = r#"
import struct, sys, zlib
stem = sys.argv[1]
read = lambda end: open(stem + end, "rb").read()
sizes, packed = read(".bzs"), read(".bzz")
with open(stem + ".text", "wb") as text:
    for at in range(0, len(sizes), 12):
        offset, length, unpacked = struct.unpack_from("<III", sizes, at)
        block = zlib.decompress(packed[offset : offset + length])
        assert len(block) == unpacked
        text.write(block)
"#;

/// Every entry of a testament, markup and all; many are empty.
fn entries(stem: &Path) -> Result<Vec<String>> {
    clients::run(Command::new("python3").args(["-c", INFLATE]).arg(stem))?;
    let read = |end: &str| {
        let path = stem.with_extension(end);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (sizes, index, text) = (read("bzs")?, read("bzv")?, read("text")?);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let mut starts = vec![0];
    for block in sizes.chunks_exact(12) {
        starts.push(starts[starts.len() - 1] + number(&block[8..]));
    }
    let entry = |entry: &[u8]| -> Result<String> {
        let (block, offset, length) = (
            number(&entry[..4]),
            number(&entry[4..8]),
            number(&entry[8..]),
        );
        let start = starts
            .get(block)
            .copied()
            .unwrap_or(usize::MAX)
            .saturating_add(offset);
        let bytes = text.get(start..start.saturating_add(length));
        let bytes =
            bytes.ok_or_else(|| format!("{}: an entry outside of the text", stem.display()))?;
        Ok(String::from_utf8(bytes.to_vec())?)
    };
    index.chunks_exact(10).map(entry).collect()
}

/// Names the verses: those after a chapter's heading are its first, second, ….
fn numbered<'a>(entries: impl Iterator<Item = &'a str>) -> Vec<(Place, String)> {
    let (mut chapter, mut verse) = (String::new(), 0);
    let mut verses = Vec::new();
    for entry in entries {
        if let Some(name) = chapter_of(entry) {
            (chapter, verse) = (name.to_owned(), 0);
            continue;
        }
        verse += 1;
        let text = plain(entry);
        if !chapter.is_empty() && !text.is_empty() {
            verses.push(((chapter.clone(), verse), text));
        }
    }
    verses
}

/// `Gen.1` of an entry with the beginning of a chapter, `<chapter n="1" osisID="Gen.1" sID="Gen.1"/>`.
fn chapter_of(entry: &str) -> Option<&str> {
    let tag = entry.split("<chapter ").nth(1)?.split('>').next()?;
    if !tag.contains("sID=") {
        return None;
    }
    tag.split("osisID=\"").nth(1)?.split('"').next()
}

/// A verse as it is read aloud: without its notes, headings and tags.
fn plain(entry: &str) -> String {
    let text = without(&without(entry, "note"), "title");
    let mut kept = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('<') {
        kept += before;
        rest = after.split_once('>').map_or("", |(_, after)| after);
    }
    kept += rest;
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands between `<name …>` and `</name>` is replaced by a space.
fn without(text: &str, name: &str) -> String {
    let (open, close) = (format!("<{name} "), format!("</{name}>"));
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&open) {
        kept += before;
        kept.push(' ');
        rest = after.split_once(&close).map_or("", |(_, after)| after);
    }
    kept + rest
}

/// Verses of the same place in both editions. Where a chapter has not the same number of verses in both, they count them
/// otherwise; and where one side is more than twice as long, its verse holds more than one.
fn aligned(english: &[(Place, String)], spanish: &[(Place, String)]) -> Vec<Pair> {
    let lengths = |verses: &[(Place, String)]| -> BTreeMap<String, usize> {
        // The last verse of a chapter stays.
        verses
            .iter()
            .map(|((chapter, verse), _)| (chapter.clone(), *verse))
            .collect()
    };
    let (of_english, of_spanish) = (lengths(english), lengths(spanish));
    let spanish: HashMap<&Place, &String> =
        spanish.iter().map(|(place, text)| (place, text)).collect();
    let pair = |(place, source): &(Place, String)| {
        let target = *spanish.get(place)?;
        let [long, short] = [source, target].map(|text| text.chars().count());
        let same = of_english.get(&place.0) == of_spanish.get(&place.0);
        (same && long <= 2 * short && short <= 2 * long).then(|| Pair {
            source: source.clone(),
            target: target.clone(),
            group: place.0.split('.').next().unwrap_or_default().to_owned(),
        })
    };
    english.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verse_loses_its_notes_and_headings_and_keeps_its_words() {
        let entry = "<title type=\"x\">Heading</title><w lemma=\"strong:G0976\">The book</w> of Christ,<note \
                     placement=\"foot\"><reference>1:1 </reference>Messiah</note> the son.";
        assert_eq!(plain(entry), "The book of Christ, the son.");
        assert_eq!(plain("<milestone n=\"1\"/>"), "");
    }

    #[test]
    fn verses_are_counted_after_the_heading_of_their_chapter() {
        let entries = [
            "<title type=\"main\">Matthew</title>",
            "<chapter n=\"1\" osisID=\"Matt.1\" sID=\"Matt.1\"/>",
            "One.",
            "",
            "Three.<chapter eID=\"Matt.1\"/>",
            "<div/><chapter n=\"2\" osisID=\"Matt.2\" sID=\"Matt.2\"/>",
            "One.",
        ];
        let places: Vec<(String, usize)> = numbered(entries.into_iter())
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        let expected = [("Matt.1", 1), ("Matt.1", 3), ("Matt.2", 1)];
        assert_eq!(
            places,
            expected.map(|(chapter, verse)| (chapter.to_owned(), verse))
        );
    }

    #[test]
    fn chapters_that_are_counted_otherwise_and_verses_of_other_lengths_are_left_out() {
        let edition = |verses: &[(&str, usize, &str)]| -> Vec<(Place, String)> {
            let one = |(chapter, verse, text): &(&str, usize, &str)| {
                (((*chapter).to_owned(), *verse), (*text).to_owned())
            };
            verses.iter().map(one).collect()
        };
        let english = edition(&[
            ("Gen.1", 1, "In the beginning"),
            ("Gen.1", 2, "light"),
            ("Gen.2", 1, "So"),
        ]);
        let spanish = edition(&[
            ("Gen.1", 1, "En el principio"),
            ("Gen.1", 2, "luz y mucho más todavía"),
            ("Gen.2", 1, "Y"),
            ("Gen.2", 2, "Y"),
        ]);
        let pairs = aligned(&english, &spanish);
        let found: Vec<(&str, &str)> = pairs
            .iter()
            .map(|pair| (pair.target.as_str(), pair.group.as_str()))
            .collect();
        assert_eq!(found, [("En el principio", "Gen")]);
    }
}
