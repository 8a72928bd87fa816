//! Where pictures and their labels come from: a folder of folders, an IDX pair, or a table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Picture, idx};
use crate::error::{quoted, short};
use crate::tables::Table;
use crate::{Error, Result};

/// A picture that has not been read yet.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is called in messages: its path, or the row of its table.
    pub place: String,
    /// Where it is.
    pub origin: Origin,
    /// Its label; empty where none is known.
    pub label: String,
}

/// Where a picture is.
#[derive(Clone, Debug)]
pub enum Origin {
    /// In a file of its own.
    File(PathBuf),
    /// In memory, packed.
    Bytes(Vec<u8>),
    /// In memory, unpacked.
    Pixels(Picture),
}

/// Columns of a table of pictures that the user named.
#[derive(Clone, Debug, Default)]
pub struct PictureColumns {
    /// Paths, relative to the table, or the bytes of the pictures (Parquet).
    pub picture: Option<String>,
    /// Labels.
    pub label: Option<String>,
}

/// What is asked for: a source may hold one part to learn from and one to score on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Learn,
    Score,
}

/// Labelled pictures, found but not read.
#[derive(Debug, Default)]
pub(crate) struct Album {
    pub(crate) items: Vec<Item>,
    /// The parts that a folder keeps apart from what is learned from.
    pub(crate) validation: Option<Vec<Item>>,
    pub(crate) test: Option<Vec<Item>>,
    /// What was inferred, in sentences.
    pub(crate) notes: Vec<String>,
    /// What was left out, counted and named.
    pub(crate) skipped: Vec<String>,
}

/// Endings of the files that are looked at; what they hold decides.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// Folders in a folder at most: more is a circle, or no collection of pictures.
const DEEPEST: usize = 16;
/// Names of columns, the likeliest first.
const PICTURE_COLUMNS: [&str; 10] = [
    "picture",
    "image",
    "img",
    "photo",
    "path",
    "file",
    "filename",
    "file_name",
    "image_path",
    "bytes",
];
const LABEL_COLUMNS: [&str; 6] = ["label", "class", "category", "target", "tag", "y"];

/// Finds the pictures of `path`: a table, an IDX file, a folder with IDX files, one with `train` and `test` folders, or one with a folder
/// for each class.
pub(crate) fn find(path: &Path, purpose: Purpose, columns: &PictureColumns) -> Result<Album> {
    let about = fs::metadata(path).map_err(|source| Error::read(path, source))?;
    if !about.is_dir() {
        return match idx::around(path)? {
            Some(pair) => Ok(Album {
                items: idx_items(&pair)?,
                ..Album::default()
            }),
            None => table(path, columns),
        };
    }
    let [train, test] = [
        idx::find(path, &["train"])?,
        idx::find(path, &["t10k", "test"])?,
    ];
    match (purpose, train, test) {
        (Purpose::Learn, Some(train), test) => {
            let mut album = Album {
                items: idx_items(&train)?,
                ..Album::default()
            };
            if let Some(test) = test {
                album.notes.push(format!(
                    "{} is scored on, not learned from",
                    test.pictures.display()
                ));
                album.test = Some(idx_items(&test)?);
            }
            return Ok(album);
        }
        (Purpose::Score, _, Some(test)) => {
            return Ok(Album {
                notes: vec![format!("scored on {}", test.pictures.display())],
                items: idx_items(&test)?,
                ..Album::default()
            });
        }
        (Purpose::Score, Some(train), None) => {
            return Ok(Album {
                items: idx_items(&train)?,
                ..Album::default()
            });
        }
        (_, None, _) => {}
    }
    folder(path, purpose)
}

fn idx_items(pair: &idx::Pair) -> Result<Vec<Item>> {
    let contents = idx::read(pair)?;
    let name = pair
        .pictures
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let pictures = contents.pictures.into_iter().zip(contents.labels);
    let item = |(at, (picture, label)): (usize, (Picture, String))| Item {
        place: format!("{name}, picture {}", at + 1),
        origin: Origin::Pixels(picture),
        label,
    };
    Ok(pictures.enumerate().map(item).collect())
}

fn folder(path: &Path, purpose: Purpose) -> Result<Album> {
    let mut left_out = LeftOut::default();
    let part = |names: &[&str]| {
        names
            .iter()
            .map(|name| path.join(name))
            .find(|part| fs::symlink_metadata(part).is_ok_and(|about| about.is_dir()))
    };
    let [train, validation, test] = [
        part(&["train", "training"]),
        part(&["validation", "valid", "val"]),
        part(&["test", "testing"]),
    ];
    let mut album = Album::default();
    match (purpose, train, test) {
        (Purpose::Learn, Some(train), test) => {
            album.items = classes(&train, &mut left_out)?;
            for (found, slot, what) in [
                (validation, &mut album.validation, "stopped early on"),
                (test, &mut album.test, "scored on"),
            ] {
                if let Some(found) = found {
                    let items = classes(&found, &mut left_out)?;
                    let (count, shown) = (items.len(), found.display());
                    album
                        .notes
                        .push(format!("the {count} pictures of {shown} are {what}"));
                    *slot = Some(items);
                }
            }
        }
        (Purpose::Score, Some(_), Some(test)) => {
            album.notes.push(format!("scored on {}", test.display()));
            album.items = classes(&test, &mut left_out)?;
        }
        _ => album.items = classes(path, &mut left_out)?,
    }
    album.skipped = left_out.said();
    if album.items.is_empty() {
        let mut found = "no picture in a folder of its class".to_owned();
        if !album.skipped.is_empty() {
            found += &format!(" ({})", album.skipped.join("; "));
        }
        let expected = format!(
            "folders named like their class, with files that end in .{}",
            ENDINGS.join(", .")
        );
        return Err(Error::argument(
            format!("--data {}", path.display()),
            found,
            expected,
        ));
    }
    Ok(album)
}

/// The pictures of every class folder, class by class in the order of their names.
fn classes(root: &Path, left_out: &mut LeftOut) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for entry in entries(root)? {
        let name = entry.name.clone();
        match entry.kind {
            EntryKind::Hidden => {}
            EntryKind::Link => left_out.add("links, which are not followed", name),
            EntryKind::Folder => {
                let before = items.len();
                walk(&entry.path, &name, 1, &mut items, left_out)?;
                if items.len() == before {
                    left_out.add("folders without a picture", name);
                }
            }
            EntryKind::File if is_picture(&name) => {
                left_out.add("pictures outside of a class's folder", name);
            }
            EntryKind::File => left_out.add("files that are no pictures by their name", name),
        }
    }
    Ok(items)
}

fn walk(
    folder: &Path,
    label: &str,
    depth: usize,
    items: &mut Vec<Item>,
    left_out: &mut LeftOut,
) -> Result<()> {
    if depth > DEEPEST {
        left_out.add("folders too deep", folder.display().to_string());
        return Ok(());
    }
    for entry in entries(folder)? {
        let shown = || format!("{label}/{}", entry.name);
        match entry.kind {
            EntryKind::Hidden => {}
            EntryKind::Link => left_out.add("links, which are not followed", shown()),
            EntryKind::Folder => walk(&entry.path, label, depth + 1, items, left_out)?,
            EntryKind::File if is_picture(&entry.name) => items.push(Item {
                place: entry.path.display().to_string(),
                origin: Origin::File(entry.path.clone()),
                label: label.to_owned(),
            }),
            EntryKind::File => left_out.add("files that are no pictures by their name", shown()),
        }
    }
    Ok(())
}

struct Entry {
    name: String,
    path: PathBuf,
    kind: EntryKind,
}

enum EntryKind {
    File,
    Folder,
    Link,
    Hidden,
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let failed = |source| Error::read(folder, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = match () {
            () if name.starts_with('.') => EntryKind::Hidden,
            () if kind.is_symlink() => EntryKind::Link,
            () if kind.is_dir() => EntryKind::Folder,
            () => EntryKind::File,
        };
        found.push(Entry {
            name,
            path: entry.path(),
            kind,
        });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether a file is a picture by its name.
fn is_picture(name: &str) -> bool {
    let ending = name
        .rsplit_once('.')
        .map(|(_, ending)| ending.to_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// A row is a picture by its path, relative to the table, or by its bytes.
fn table(path: &Path, choice: &PictureColumns) -> Result<Album> {
    let table = Table::read(path)?;
    let column = |said: &Option<String>, likely: &[&str], flag: &str| -> Result<String> {
        if let Some(said) = said {
            return Ok(said.clone());
        }
        let names = table.names();
        let found = likely
            .iter()
            .find_map(|likely| names.iter().find(|name| name.eq_ignore_ascii_case(likely)));
        found.map(|name| (*name).to_owned()).ok_or_else(|| {
            let what = format!(
                "no column is called {}; it has {}: say which with {flag}",
                quoted(likely),
                quoted(&names)
            );
            Error::table(path, None, what)
        })
    };
    let picture = column(&choice.picture, &PICTURE_COLUMNS, "--picture-column")?;
    let label = column(&choice.label, &LABEL_COLUMNS, "--label-column")?;
    let labels = table.column(&label)?;
    let origins: Vec<Option<Origin>> = if table.holds_bytes(&picture) {
        let bytes = table.bytes(&picture)?.into_iter();
        bytes.map(|bytes| bytes.map(Origin::Bytes)).collect()
    } else {
        let folder = path.parent().unwrap_or(Path::new(""));
        let paths = table.column(&picture)?.into_iter();
        paths
            .map(|path| path.map(|path| Origin::File(folder.join(path.trim()))))
            .collect()
    };
    let mut left_out = LeftOut::default();
    let mut items = Vec::new();
    for (row, (origin, text)) in origins.into_iter().zip(labels).enumerate() {
        let line = || format!("line {}", table.line(row));
        let text = text.filter(|text| !text.trim().is_empty());
        match (origin, text) {
            (Some(origin), Some(text)) => items.push(Item {
                place: match &origin {
                    Origin::File(path) => path.display().to_string(),
                    _ => format!("{}, {}", path.display(), line()),
                },
                origin,
                label: text.trim().to_owned(),
            }),
            (None, _) => left_out.add(
                &format!("rows with nothing in `{}`", short(&picture)),
                line(),
            ),
            (_, None) => left_out.add(&format!("rows with nothing in `{}`", short(&label)), line()),
        }
    }
    Ok(Album {
        items,
        notes: vec![format!(
            "`{picture}` holds the pictures and `{label}` the labels (--picture-column, --label-column)"
        )],
        skipped: left_out.said(),
        ..Album::default()
    })
}

/// Names of what was left out, by the reason.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<String, Vec<String>>);

impl LeftOut {
    pub(super) fn add(&mut self, reason: &str, name: String) {
        self.0.entry(reason.to_owned()).or_default().push(name);
    }

    /// A sentence for each reason: how many, and the first of them.
    pub(super) fn said(&self) -> Vec<String> {
        const SHOWN: usize = 5;
        let sentence = |(reason, names): (&String, &Vec<String>)| {
            let shown: Vec<String> = names
                .iter()
                .take(SHOWN)
                .map(|name| format!("`{name}`"))
                .collect();
            let more = if names.len() > SHOWN { ", …" } else { "" };
            format!(
                "left out {} {reason}: {}{more}",
                names.len(),
                shown.join(", ")
            )
        };
        self.0.iter().map(sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn album(files: &[&str]) -> (tempfile::TempDir, Result<Album>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            fs::write(path, b"x").expect("it can be written");
        }
        let found = find(folder.path(), Purpose::Learn, &PictureColumns::default());
        (folder, found)
    }

    #[test]
    fn a_folder_a_class_gives_the_labels_and_the_rest_is_counted_and_named() {
        let (_folder, found) = album(&[
            "cat/a.png",
            "cat/more/b.JPG",
            "dog/c.webp",
            "dog/notes.txt",
            "d.png",
            "empty/x.gif",
        ]);
        let album = found.expect("there are pictures");
        let labels: Vec<&str> = album.items.iter().map(|item| item.label.as_str()).collect();
        assert_eq!(labels, ["cat", "cat", "dog"]);
        let expected = [
            "left out 2 files that are no pictures by their name: `dog/notes.txt`, `empty/x.gif`",
            "left out 1 folders without a picture: `empty`",
            "left out 1 pictures outside of a class's folder: `d.png`",
        ];
        assert_eq!(album.skipped, expected);
    }

    #[test]
    fn train_and_test_folders_are_kept_apart() {
        let (folder, found) = album(&[
            "train/cat/a.png",
            "train/dog/b.png",
            "test/cat/c.png",
            "val/dog/d.png",
        ]);
        let found = found.expect("there are pictures");
        let count = |items: &Option<Vec<Item>>| items.as_ref().map(Vec::len);
        assert_eq!(
            (
                found.items.len(),
                count(&found.test),
                count(&found.validation)
            ),
            (2, Some(1), Some(1))
        );
        let scored = find(folder.path(), Purpose::Score, &PictureColumns::default());
        assert_eq!(scored.expect("there are pictures").items.len(), 1);
    }

    #[test]
    fn a_folder_without_pictures_says_what_is_expected() {
        let (_folder, found) = album(&["notes.txt"]);
        let message = found.expect_err("there is nothing").to_string();
        assert!(
            message.contains("no picture in a folder of its class")
                && message.contains("notes.txt"),
            "{message}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let (folder, _) = album(&["cat/a.png", "dog/b.png"]);
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("cat/out.png"))
            .expect("a link");
        std::os::unix::fs::symlink("/", folder.path().join("everything")).expect("a link");
        std::os::unix::fs::symlink("/", folder.path().join("train")).expect("a link");
        let album = find(folder.path(), Purpose::Learn, &PictureColumns::default())
            .expect("there are pictures");
        assert_eq!(album.items.len(), 2);
        assert!(album.skipped[0].contains("3 links"), "{:?}", album.skipped);
    }
}
