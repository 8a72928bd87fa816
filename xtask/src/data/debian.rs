//! Descriptions of Debian packages and the section each belongs to, from apt's own index.
//!
//! apt runs on a configuration and a state of its own inside the data folder: the machine's is untouched,
//! and the index is verified by Debian's signature. The mirror is the machine's own.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clients;
use super::table::{Parts, Row};
use crate::{Result, sha256};

/// The sections that are topics; the others name a language or a role (libs, doc, python, …).
const TOPICS: [&str; 12] = [
    "admin", "devel", "editors", "games", "graphics", "mail", "math", "net", "science", "sound",
    "text", "web",
];

/// Names a mirror where the machine's own sources have none.
const MIRROR_VARIABLE: &str = "REGARD_DEBIAN_MIRROR";

/// Fetches the index of bookworm/main and splits its descriptions by source package.
pub(super) fn make(folder: &Path) -> Result<Parts> {
    let index = fetch(folder, &["en"])?;
    parts(
        &index("_main_binary-amd64_Packages")?,
        &index("_main_i18n_Translation-en")?,
    )
}

/// Fetches the index of bookworm/main with descriptions in these languages; what comes back reads a file of it by the end
/// of its name.
pub(super) fn fetch(folder: &Path, languages: &[&str]) -> Result<impl Fn(&str) -> Result<String>> {
    let apt = folder.join("apt");
    for inside in ["lists/partial", "cache/archives/partial", "state"] {
        std::fs::create_dir_all(apt.join(inside))?;
    }
    std::fs::write(apt.join("debian.sources"), source(&mirror()?))?;
    std::fs::write(apt.join("apt.conf"), configuration(&apt, languages))?;
    std::fs::write(apt.join("status"), "")?;
    println!(
        "  apt-get update, with a state of its own in {}",
        apt.display()
    );
    clients::run(
        Command::new("apt-get")
            .arg("update")
            .env("APT_CONFIG", apt.join("apt.conf")),
    )?;
    Ok(move |suffix: &str| -> Result<String> {
        let path = find(&apt.join("lists"), suffix)?;
        Ok(std::fs::read_to_string(path)?)
    })
}

/// Source package and sum of the description of every package.
pub(super) fn packages(index: &str) -> Vec<(String, String)> {
    let one = |stanza| {
        let (package, sum) = (value(stanza, "Package")?, value(stanza, "Description-md5")?);
        Some((origin(stanza, package).to_owned(), sum.to_owned()))
    };
    stanzas(index).filter_map(one).collect()
}

/// The descriptions of a language by their sum: the synopsis, then a paragraph a line.
pub(super) fn descriptions(index: &str, language: &str) -> HashMap<String, String> {
    let one = |stanza| {
        Some((
            value(stanza, "Description-md5")?.to_owned(),
            description(stanza, language)?,
        ))
    };
    stanzas(index).filter_map(one).collect()
}

/// `Source: name (version)` is written only where it differs from the package.
fn origin<'a>(stanza: &'a str, package: &'a str) -> &'a str {
    value(stanza, "Source")
        .and_then(|source| source.split(' ').next())
        .unwrap_or(package)
}

fn find(lists: &Path, suffix: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(lists)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            return Ok(path);
        }
    }
    Err(format!("apt-get left no file *{suffix} in {}", lists.display()).into())
}

/// The first Debian archive in the machine's sources that is not the security archive.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var(MIRROR_VARIABLE) {
        return Ok(mirror);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files
        .iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "sources" || end == "list")
        })
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find_map(|text| first_mirror(&text))
        .ok_or_else(|| {
            format!(
                "this machine's apt sources name no Debian mirror; set {MIRROR_VARIABLE} to one"
            )
            .into()
        })
}

/// The first word of an apt source file that is the address of a Debian archive.
fn first_mirror(sources: &str) -> Option<String> {
    let words = sources
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace);
    words
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.ends_with("/debian"))
        .map(str::to_owned)
}

fn source(mirror: &str) -> String {
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: bookworm\nComponents: main\nArchitectures: amd64\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
}

fn configuration(apt: &Path, languages: &[&str]) -> String {
    let languages: String = languages.iter().map(|one| format!("\"{one}\"; ")).collect();
    let apt = apt.display();
    // `Dir::Etc::Parts` points nowhere because a container image may forbid translations there.
    format!(
        r#"Dir::Etc::Parts "/nonexistent";
Dir::Etc::sourceparts "-";
Dir::Etc::sourcelist "{apt}/debian.sources";
Dir::State "{apt}/state";
Dir::State::Lists "{apt}/lists";
Dir::State::status "{apt}/status";
Dir::Cache "{apt}/cache";
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Languages {{ {languages}}};
Acquire::GzipIndexes "false";
"#
    )
}

/// Joins the two indexes. A description that several packages share is kept once, with the first package's section.
fn parts(packages: &str, translations: &str) -> Result<Parts> {
    let texts: HashMap<&str, String> = stanzas(translations)
        .filter_map(|stanza| {
            Some((
                value(stanza, "Description-md5")?,
                description(stanza, "en")?,
            ))
        })
        .collect();
    let mut seen = HashSet::new();
    let mut parts = Parts::default();
    for stanza in stanzas(packages) {
        let (Some(package), Some(section), Some(sum)) = (
            value(stanza, "Package"),
            value(stanza, "Section"),
            value(stanza, "Description-md5"),
        ) else {
            continue;
        };
        let Some(text) = texts.get(sum) else { continue };
        if !seen.insert(text) || !TOPICS.contains(&section) {
            continue;
        }
        let origin = origin(stanza, package);
        let row = Row {
            text: text.clone(),
            label: section.to_owned(),
            group: Some(origin.to_owned()),
        };
        let held_out = sha256::modulo(origin.as_bytes(), 10) == 0;
        if held_out {
            &mut parts.test
        } else {
            &mut parts.train
        }
        .push(row);
    }
    Ok(parts)
}

/// The paragraphs of a control file: separated by an empty line.
fn stanzas(file: &str) -> impl Iterator<Item = &str> {
    file.split("\n\n")
        .filter(|stanza| !stanza.trim().is_empty())
}

/// The value of a one-line field.
fn value<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// `Description-LANGUAGE`: the synopsis, then the body; ` .` alone parts two paragraphs, each of which becomes one line.
fn description(stanza: &str, language: &str) -> Option<String> {
    let field = format!("Description-{language}:");
    let mut lines = stanza.lines().skip_while(|line| !line.starts_with(&field));
    let synopsis = lines.next()?.strip_prefix(field.as_str())?.trim();
    let mut text = synopsis.to_owned();
    let mut glue = '\n';
    for line in lines.map_while(|line| line.strip_prefix(' ')) {
        if line.trim() == "." {
            glue = '\n';
            continue;
        }
        text.push(glue);
        text.push_str(line.trim());
        glue = ' ';
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSLATIONS: &str = "Package: a\nDescription-md5: 1\nDescription-en: plays chess\n It is\n a game.\n .\n Really.\n\n\
                                Package: b\nDescription-md5: 2\nDescription-en: parses\n Text.\n";

    #[test]
    fn paragraphs_become_lines() {
        let text = description(TRANSLATIONS.split("\n\n").next().unwrap(), "en").unwrap();
        assert_eq!(text, "plays chess\nIt is a game.\nReally.");
    }

    #[test]
    fn a_shared_description_and_a_section_that_is_no_topic_are_left_out() {
        let packages = "Package: a\nSource: chess (1.2)\nSection: games\nDescription-md5: 1\n\n\
                        Package: a2\nSource: chess\nSection: games\nDescription-md5: 1\n\n\
                        Package: b\nSection: libs\nDescription-md5: 2\n";
        let parts = parts(packages, TRANSLATIONS).unwrap();
        let rows: Vec<_> = parts.train.iter().chain(&parts.test).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].label.as_str(), rows[0].group.as_deref()),
            ("games", Some("chess"))
        );
    }

    #[test]
    fn a_mirror_is_found_in_both_formats_and_comments_are_not_read() {
        let one_line = "# deb http://old.example/debian x main\ndeb http://mirror.example/debian/ bookworm main\n";
        assert_eq!(
            first_mirror(one_line).as_deref(),
            Some("http://mirror.example/debian")
        );
        let stanza = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(
            first_mirror(stanza).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(
            first_mirror("URIs: http://mirror.example/debian-security\n"),
            None
        );
    }
}
