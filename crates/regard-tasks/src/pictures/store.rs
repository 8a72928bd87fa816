//! Pictures at the size that a model reads: in memory where there is room, otherwise decoded again by threads of their own
//! while the model takes the step before.

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::load::picture;
use super::{Item, fit};
use crate::{Error, Result};

/// Pictures of one size, by their number.
#[derive(Debug)]
pub(crate) struct Store {
    /// Bytes of one picture.
    of_one: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// `[pictures, height, width, channels]`
    Memory(Vec<u8>),
    /// Where they came from.
    Source(Source),
}

impl Store {
    /// Pictures of `of_one` bytes each, one after the other.
    pub(crate) fn in_memory(of_one: usize, pixels: Vec<u8>) -> Self {
        Self {
            of_one,
            place: Place::Memory(pixels),
        }
    }

    /// Pictures that have been decoded once, to know that they can be, and are decoded again whenever they are read.
    ///
    /// # Errors
    ///
    /// When the machine gives no threads.
    pub(super) fn at_source(
        items: Vec<Item>,
        sides: [usize; 2],
        channels: usize,
    ) -> std::io::Result<Self> {
        let threads = rayon::ThreadPoolBuilder::new()
            .thread_name(|at| format!("pictures {at}"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self {
            of_one: sides[0] * sides[1] * channels,
            place: Place::Source(Source {
                items: Arc::new(items),
                sides,
                channels,
                threads,
                expected: Mutex::default(),
            }),
        })
    }

    /// Whether nothing has to be decoded.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// The pixels of some pictures, in the order asked for.
    ///
    /// # Errors
    ///
    /// When a file can no longer be read.
    pub(crate) fn read(&self, rows: &[usize]) -> Result<Vec<Cow<'_, [u8]>>> {
        match &self.place {
            Place::Memory(pixels) => {
                let one = |row: &usize| Cow::Borrowed(&pixels[row * self.of_one..][..self.of_one]);
                Ok(rows.iter().map(one).collect())
            }
            Place::Source(source) => {
                let pictures = source.read(rows)?;
                Ok(pictures.into_iter().map(Cow::Owned).collect())
            }
        }
    }

    /// Begins to decode pictures that will be read in this order; returns at once.
    pub(crate) fn expect(&self, rows: &[usize]) {
        if let Place::Source(source) = &self.place {
            source.expect(rows);
        }
    }
}

type Pictures = Result<Vec<Vec<u8>>>;

#[derive(Debug)]
struct Source {
    items: Arc<Vec<Item>>,
    sides: [usize; 2],
    channels: usize,
    /// Threads of their own: those that multiply matrices would wait for a picture in their queue.
    threads: ThreadPool,
    /// What is being decoded, and where it will come from.
    expected: Mutex<Vec<(Vec<usize>, Receiver<Pictures>)>>,
}

impl Source {
    fn read(&self, rows: &[usize]) -> Pictures {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let at = expected.iter().position(|(other, _)| other == rows);
        let coming = at.map(|at| expected.remove(at).1);
        drop(expected);
        match coming.and_then(|coming| coming.recv().ok()) {
            Some(pictures) => pictures,
            None => self
                .threads
                .install(|| decoded(&self.items, rows, self.sides, self.channels)),
        }
    }

    fn expect(&self, rows: &[usize]) {
        let (give, take) = sync_channel(1);
        let (items, sides, channels) = (Arc::clone(&self.items), self.sides, self.channels);
        let order = rows.to_vec();
        self.threads.spawn(move || {
            // Nobody waits for it any more when the run has ended.
            let _ = give.send(decoded(&items, &order, sides, channels));
        });
        self.expected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((rows.to_vec(), take));
    }
}

fn decoded(items: &[Item], rows: &[usize], sides: [usize; 2], channels: usize) -> Pictures {
    let one = |row: &usize| {
        let item = &items[*row];
        let picture = picture(item).map_err(|what| Error::Picture {
            place: item.place.clone(),
            what: format!("{what} (it could be read when the pictures were checked)"),
        })?;
        Ok(fit(&picture.with_channels(channels), sides))
    };
    rows.par_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::{Origin, Picture};

    fn items(folder: &std::path::Path) -> Vec<Item> {
        let made = |at: u8| {
            let picture = Picture {
                height: 2,
                width: 2,
                channels: 1,
                pixels: vec![at, 2 * at, 3 * at, 4 * at],
            };
            let path = folder.join(format!("{at}.png"));
            std::fs::write(&path, picture.to_png()).expect("it can be written");
            Item {
                place: path.display().to_string(),
                origin: Origin::File(path),
                label: String::new(),
            }
        };
        (0..40).map(made).collect()
    }

    #[test]
    fn pictures_are_the_same_expected_or_not_and_in_any_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::at_source(items(folder.path()), [2, 2], 1).expect("there are threads");
        let batches = [vec![3, 1, 2], vec![7], vec![39, 0]];
        batches[..2].iter().for_each(|rows| store.expect(rows));
        for rows in [&batches[2], &batches[1], &batches[0], &batches[0]] {
            let found = store.read(rows).expect("they are there");
            for (row, pixels) in rows.iter().zip(found) {
                let at = *row as u8;
                assert_eq!(*pixels, [at, 2 * at, 3 * at, 4 * at]);
            }
        }
        assert!(!store.is_in_memory());
    }

    #[test]
    fn a_picture_that_is_gone_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::at_source(items(folder.path()), [2, 2], 1).expect("there are threads");
        std::fs::remove_file(folder.path().join("5.png")).expect("it was there");
        store.expect(&[4, 5]);
        for rows in [[4, 5], [5, 6]] {
            let message = store.read(&rows).expect_err("it is gone").to_string();
            assert!(
                message.contains("5.png") && message.contains("were checked"),
                "{message}"
            );
        }
    }
}
