//! The pictures of a run, split into what is learned from, what is stopped on and what is scored.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::TrainRequest;
use super::augment::Shape;
use crate::pictures::{self, Album, Item, Picture, PictureColumns, Purpose, Room, Sizes, Store};
use crate::report::{DataFacts, FileFacts};
use crate::splits::hold_out;
use crate::tables::hexadecimal;
use crate::trainer::{Event, Listener};
use crate::{Error, Result};

/// Labelled pictures of one purpose, at the size that the model reads.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// What they are, in words.
    pub(super) name: String,
    pub(super) shape: Shape,
    /// All pictures that were read together: parts of them share the memory.
    store: Arc<Store>,
    /// Which of them are this part's, in order.
    rows: Vec<usize>,
    /// Index into the labels; those of a test part may lie beyond what the model knows.
    pub(super) labels: Vec<usize>,
    /// What each picture is called.
    pub(super) places: Vec<String>,
}

impl Part {
    /// Pictures whose labels and names nobody asks for.
    pub(super) fn of(shape: Shape, pixels: Vec<u8>, count: usize) -> Self {
        assert_eq!(
            pixels.len(),
            count * shape.len(),
            "pixels for every picture"
        );
        Self {
            name: String::new(),
            shape,
            store: Arc::new(Store::in_memory(shape.len(), pixels)),
            rows: (0..count).collect(),
            labels: vec![0; count],
            places: vec![String::new(); count],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The pixels of some pictures.
    ///
    /// # Errors
    ///
    /// When they are not in memory, and one can no longer be decoded.
    pub(super) fn read(&self, rows: &[usize]) -> Result<Vec<Cow<'_, [u8]>>> {
        self.store.read(&self.in_store(rows))
    }

    /// Begins to decode the pictures that will be read next, if they are not in memory.
    pub(super) fn expect(&self, rows: &[usize]) {
        self.store.expect(&self.in_store(rows));
    }

    /// Hands the pixels of each of the rows to `look`.
    pub(super) fn each(
        &self,
        rows: impl IntoIterator<Item = usize>,
        mut look: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        /// Decoded at a time.
        const TOGETHER: usize = 512;
        let rows: Vec<usize> = rows.into_iter().collect();
        for rows in rows.chunks(TOGETHER) {
            for (row, pixels) in rows.iter().zip(self.read(rows)?) {
                look(*row, &pixels);
            }
        }
        Ok(())
    }

    pub(super) fn picture(&self, row: usize) -> Result<Picture> {
        Ok(Picture {
            height: self.shape.height,
            width: self.shape.width,
            channels: self.shape.channels,
            pixels: self.read(&[row])?.remove(0).into_owned(),
        })
    }

    fn in_store(&self, rows: &[usize]) -> Vec<usize> {
        rows.iter().map(|row| self.rows[*row]).collect()
    }

    fn select(&self, name: String, rows: &[usize]) -> Self {
        Self {
            name,
            shape: self.shape,
            store: Arc::clone(&self.store),
            rows: rows.iter().map(|row| self.rows[*row]).collect(),
            labels: rows.iter().map(|row| self.labels[*row]).collect(),
            places: rows.iter().map(|row| self.places[*row].clone()).collect(),
        }
    }
}

/// Everything a run reads.
#[derive(Debug)]
pub(super) struct Gallery {
    /// Labels of the training part, in alphabetical order.
    pub(super) labels: Vec<String>,
    /// Labels that only the test part has: no model can answer them.
    pub(super) unseen: Vec<String>,
    pub(super) train: Part,
    pub(super) validation: Part,
    pub(super) test: Option<Part>,
    pub(super) facts: DataFacts,
}

/// Share of the pictures held out when no validation part is given.
const VALIDATION_SHARE: f64 = 0.1;
/// Pictures of the held-out part at most: enough to tell epochs apart by half a percent.
const MOST_VALIDATION: usize = 5000;
/// Pixels of the longer side at most, unless the user says otherwise.
const LONGER_SIDE: usize = 64;

impl Gallery {
    /// Reads the pictures of the request; `shape` is that of a run which is continued, or of the model it begins with.
    pub(super) fn read(
        request: &TrainRequest,
        shape: Option<Shape>,
        listener: &mut dyn Listener,
    ) -> Result<Self> {
        let album = pictures::find(&request.data, Purpose::Learn, &request.columns)?;
        let more = |path: &Option<std::path::PathBuf>, found: Option<Vec<Item>>| -> Result<_> {
            let album = path
                .as_deref()
                .map(|path| pictures::find(path, Purpose::Score, &request.columns));
            Ok(match album.transpose()? {
                Some(Album { items, skipped, .. }) => (Some(items), skipped),
                None => (found, Vec::new()),
            })
        };
        let (validation, skipped_validation) = more(&request.validation, album.validation)?;
        let (test, skipped_test) = more(&request.test, album.test)?;
        let mut skipped = [album.skipped, skipped_validation, skipped_test].concat();
        listener.hear(&Event::Phase("checking the pictures".to_owned()));
        album
            .notes
            .iter()
            .for_each(|note| listener.hear(&Event::Said(note.clone())));
        let mut check = |items: Vec<Item>, listener: &mut dyn Listener| -> Result<Sizes> {
            let sizes = pictures::sizes(items, listener)?;
            skipped.extend(sizes.skipped.iter().cloned());
            Ok(sizes)
        };
        let learned = check(album.items, listener)?;
        let validation = validation.map(|items| check(items, listener)).transpose()?;
        let test = test.map(|items| check(items, listener)).transpose()?;
        let labels = labels_of(&learned, &request.data)?;
        let shape = match shape {
            Some(shape) => shape,
            None => shape_of(&learned, &request.settings),
        };
        let mut files = vec![file_facts(&request.data, &learned)];
        for (path, sizes) in [(&request.validation, &validation), (&request.test, &test)] {
            if let (Some(path), Some(sizes)) = (path, sizes) {
                files.push(file_facts(path, sizes));
            }
        }

        listener.hear(&Event::Phase(format!(
            "reading the pictures at {} × {} pixels",
            shape.height, shape.width
        )));
        let mut unseen = Vec::new();
        let mut room = Room::of(request.settings.memory_mib);
        let mut read = |name: &str,
                        sizes: &Sizes,
                        unseen: &mut Vec<String>,
                        listener: &mut dyn Listener|
         -> Result<_> {
            let (part, more, kept) =
                load(name, sizes, shape, &labels, unseen, &mut room, listener)?;
            skipped.extend(more);
            Ok((part, kept))
        };
        let (all, kept) = read("the training pictures", &learned, &mut Vec::new(), listener)?;
        let (train, validation) = match &validation {
            Some(validation) => {
                let mut strangers = Vec::new();
                let (part, _) = read(
                    "the validation pictures",
                    validation,
                    &mut strangers,
                    listener,
                )?;
                if let Some(label) = strangers.first() {
                    return Err(Error::argument(
                        "--validation",
                        format!("the label `{label}`"),
                        "labels of the training part only",
                    ));
                }
                (all, part)
            }
            None => {
                let hashes: Vec<&str> =
                    kept.iter().map(|at| learned.hashes[*at].as_str()).collect();
                split(&all, &hashes, request)?
            }
        };
        let test = match &test {
            Some(test) => {
                let (mut part, _) = read("test", test, &mut unseen, listener)?;
                part.name = format!("the {} test pictures", part.len());
                Some(part)
            }
            None => None,
        };
        for line in &skipped {
            listener.hear(&Event::Warned(line.clone()));
        }
        for label in &unseen {
            listener.hear(&Event::Warned(format!(
                "the label `{label}` is in the test part only: the model cannot answer it, and its pictures count as wrong"
            )));
        }
        let mut counts = vec![0; labels.len()];
        train.labels.iter().for_each(|label| counts[*label] += 1);
        if let Some(empty) = counts.iter().position(|count| *count == 0) {
            return Err(Error::argument(
                format!("--data {}", request.data.display()),
                format!("no readable picture of `{}` to learn from", labels[empty]),
                "at least two pictures of every label",
            ));
        }
        let facts = DataFacts {
            files,
            text_column: "picture".to_owned(),
            label_column: request
                .columns
                .label
                .clone()
                .unwrap_or_else(|| "label".to_owned()),
            group_column: None,
            train_rows: train.len(),
            validation_rows: validation.len(),
            test_rows: test.as_ref().map_or(0, Part::len),
            labels: labels.iter().cloned().zip(counts.iter().copied()).collect(),
            skipped,
            truncated_texts: 0,
        };
        let parts = [Some(&train), Some(&validation), test.as_ref()]
            .into_iter()
            .flatten();
        let (kept, others): (Vec<&Part>, Vec<&Part>) =
            parts.partition(|part| part.store.is_in_memory());
        let count = |parts: &[&Part]| parts.iter().map(|part| part.len()).sum::<usize>();
        let mut memory = format!(
            "{} MiB of memory hold decoded pictures",
            (count(&kept) * shape.len()).div_ceil(1 << 20)
        );
        if !others.is_empty() {
            memory += &format!(
                "; {} that would take {} MiB more are decoded while the step before them is taken (--set memory_mib=)",
                count(&others),
                (count(&others) * shape.len()).div_ceil(1 << 20)
            );
        }
        listener.hear(&Event::Said(format!(
            "{} pictures to learn from and {} to validate on, {} labels, the most frequent {:.1} % of them; {memory}",
            train.len(),
            validation.len(),
            labels.len(),
            100.0 * counts.iter().max().copied().unwrap_or(0) as f64 / train.len() as f64
        )));
        Ok(Self {
            labels,
            unseen,
            train,
            validation,
            test,
            facts,
        })
    }

    /// Label names by index, unseen ones last.
    pub(super) fn all_labels(&self) -> Vec<String> {
        self.labels.iter().chain(&self.unseen).cloned().collect()
    }
}

/// Reads the pictures of one part; what was left out, and which of the items were kept.
pub(super) fn load(
    name: &str,
    sizes: &Sizes,
    shape: Shape,
    labels: &[String],
    unseen: &mut Vec<String>,
    room: &mut Room,
    listener: &mut dyn Listener,
) -> Result<(Part, Vec<String>, Vec<usize>)> {
    let sides = [shape.height, shape.width];
    let loaded = pictures::load(&sizes.items, sides, shape.channels, room, listener)?;
    let known: BTreeMap<&str, usize> = labels
        .iter()
        .zip(0..)
        .map(|(label, at)| (label.as_str(), at))
        .collect();
    let mut index = |label: &str| {
        known.get(label).copied().unwrap_or_else(|| {
            let at = unseen.iter().position(|other| other == label);
            labels.len()
                + at.unwrap_or_else(|| {
                    unseen.push(label.to_owned());
                    unseen.len() - 1
                })
        })
    };
    let part = Part {
        name: name.to_owned(),
        shape,
        labels: loaded
            .kept
            .iter()
            .map(|at| index(&sizes.items[*at].label))
            .collect(),
        places: loaded
            .kept
            .iter()
            .map(|at| sizes.items[*at].place.clone())
            .collect(),
        rows: (0..loaded.kept.len()).collect(),
        store: Arc::new(loaded.store),
    };
    Ok((part, loaded.skipped, loaded.kept))
}

/// Labelled pictures to score a model on.
pub(super) fn labelled(
    path: &Path,
    columns: &PictureColumns,
    listener: &mut dyn Listener,
) -> Result<(Sizes, Vec<String>)> {
    let album = pictures::find(path, Purpose::Score, columns)?;
    let sizes = pictures::sizes(album.items, listener)?;
    let notes = [album.notes, album.skipped, sizes.skipped.clone()].concat();
    Ok((sizes, notes))
}

fn labels_of(sizes: &Sizes, path: &Path) -> Result<Vec<String>> {
    let labels: BTreeSet<&str> = sizes.items.iter().map(|item| item.label.as_str()).collect();
    if labels.len() < 2 {
        let found = match labels.first() {
            Some(label) => format!(
                "only the label `{label}`, on all {} pictures",
                sizes.items.len()
            ),
            None => match sizes.skipped.first() {
                Some(why) => format!("no readable picture ({why})"),
                None => "no picture".to_owned(),
            },
        };
        return Err(Error::argument(
            format!("--data {}", path.display()),
            found,
            "at least two labels",
        ));
    }
    Ok(labels.into_iter().map(str::to_owned).collect())
}

/// The size that pictures are read at: their own if they all have the same and it is small; otherwise that of the middle
/// one, with a longer side of 64 and sides that are multiples of 4.
fn shape_of(sizes: &Sizes, settings: &super::Settings) -> Shape {
    let first = sizes.sides[0];
    let same = sizes.sides.iter().all(|sides| *sides == first);
    let [height, width] = if same && first.iter().all(|side| (4..=LONGER_SIDE).contains(side)) {
        first
    } else {
        let middle = |axis: usize| {
            let mut sides: Vec<usize> = sizes.sides.iter().map(|sides| sides[axis]).collect();
            sides.sort_unstable();
            sides[sides.len() / 2] as f64
        };
        let [height, width] = [middle(0), middle(1)];
        let scale = (LONGER_SIDE as f64 / height.max(width)).min(1.0);
        [height, width].map(|side| ((side * scale / 4.0).round() as usize * 4).max(8))
    };
    let colours = if sizes.colours { 3 } else { 1 };
    Shape {
        height: settings.picture_height.unwrap_or(height),
        width: settings.picture_width.unwrap_or(width),
        channels: settings.channels.unwrap_or(colours),
    }
}

/// A name, a number and a fingerprint of all pictures with their labels, in their order.
fn file_facts(path: &Path, sizes: &Sizes) -> FileFacts {
    let mut hash = Sha256::new();
    for (item, picture) in sizes.items.iter().zip(&sizes.hashes) {
        hash.update(format!("{picture} {}\n", item.label));
    }
    FileFacts {
        name: path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned(),
        rows: sizes.items.len(),
        sha256: hexadecimal(&hash.finalize()),
    }
}

/// A part held out of every label; equal pictures stay together.
fn split(all: &Part, hashes: &[&str], request: &TrainRequest) -> Result<(Part, Part)> {
    let share = request
        .settings
        .validation_share
        .unwrap_or(VALIDATION_SHARE);
    let share = share.min(MOST_VALIDATION as f64 / all.len().max(1) as f64);
    let split = hold_out(hashes, &all.labels, None, share, request.seed);
    for (part, what) in [
        (&split.train, "learn from"),
        (&split.held_out, "validate on"),
    ] {
        if part.is_empty() {
            return Err(Error::argument(
                format!("--data {}", request.data.display()),
                format!(
                    "{} readable pictures, which leaves none to {what}",
                    all.len()
                ),
                "more pictures, or --validation",
            ));
        }
    }
    let name = format!(
        "{} held-out pictures that training stopped on",
        split.held_out.len()
    );
    Ok((
        all.select("the training pictures".to_owned(), &split.train),
        all.select(name, &split.held_out),
    ))
}
