//! Reading many pictures, on all cores: first their headers, to find a size; then their pixels at that size.

use std::fs::{self, File};
use std::io::Read;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::decode::{decode, header};
use super::source::LeftOut;
use super::{Item, MOST_BYTES, Origin, Picture, Store, fit};
use crate::tables::hexadecimal;
use crate::trainer::{Event, Listener};
use crate::{Error, Result};

/// Pictures that are read between two looks at the listener.
const TOGETHER: usize = 512;
/// Bytes of memory for pictures at the model's size at most. Those of one call share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room(usize);

impl Room {
    /// What the user gives, in MiB; else half of what the machine can still give, and at most 16 GiB.
    pub(crate) fn of(mebibytes: Option<usize>) -> Self {
        const MOST: usize = 16 << 30;
        Self(match mebibytes {
            Some(mebibytes) => mebibytes.saturating_mul(1 << 20),
            None => free_memory().map_or(MOST, |free| MOST.min(free / 2)),
        })
    }

    /// Takes the room for pictures, if there is so much left.
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// Bytes that the machine can still give, where it says so (Linux): a run that is killed for its memory says nothing.
fn free_memory() -> Option<usize> {
    let about = fs::read_to_string("/proc/meminfo").ok()?;
    let line = about
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What the headers say.
pub(crate) struct Sizes {
    /// The pictures whose header is right.
    pub(crate) items: Vec<Item>,
    /// Height and width of each.
    pub(crate) sides: Vec<[usize; 2]>,
    /// SHA-256 of the bytes of each: equal pictures are known by it.
    pub(crate) hashes: Vec<String>,
    /// Whether any has colours.
    pub(crate) colours: bool,
    /// What was left out, counted and named.
    pub(crate) skipped: Vec<String>,
}

/// Reads the headers.
pub(crate) fn sizes(items: Vec<Item>, listener: &mut dyn Listener) -> Result<Sizes> {
    let look = |item: &Item| -> std::result::Result<([usize; 2], bool, String), String> {
        let hash = |bytes: &[u8]| hexadecimal(&Sha256::digest(bytes));
        let of = |bytes: &[u8]| {
            let (sides, colours) = header(bytes)?;
            Ok((sides, colours, hash(bytes)))
        };
        match &item.origin {
            Origin::File(path) => of(&bytes_of(path)?),
            Origin::Bytes(bytes) => of(bytes),
            Origin::Pixels(picture) => Ok((
                [picture.height, picture.width],
                picture.channels == 3,
                hash(&picture.pixels),
            )),
        }
    };
    let mut found = Sizes {
        items: Vec::with_capacity(items.len()),
        sides: Vec::new(),
        hashes: Vec::new(),
        colours: false,
        skipped: Vec::new(),
    };
    let (total, mut done) = (items.len(), 0);
    let mut left_out = LeftOut::default();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let chunk: Vec<Item> = items.by_ref().take(TOGETHER).collect();
        let looks: Vec<_> = chunk.par_iter().map(look).collect();
        done += chunk.len();
        for (item, looked) in chunk.into_iter().zip(looks) {
            match looked {
                Ok((sides, colours, hash)) => {
                    found.items.push(item);
                    found.sides.push(sides);
                    found.hashes.push(hash);
                    found.colours |= colours;
                }
                Err(what) => left_out.add(UNREADABLE, format!("{}: {what}", item.place)),
            }
        }
        tell(listener, done, total, "pictures checked")?;
    }
    found.skipped = left_out.said();
    Ok(found)
}

/// The reason for which a picture is left out.
const UNREADABLE: &str = "pictures that cannot be read";

/// Pixels of many pictures of one size.
pub(crate) struct Loaded {
    pub(crate) store: Store,
    /// Which of the items they are.
    pub(crate) kept: Vec<usize>,
    /// What was left out, counted and named.
    pub(crate) skipped: Vec<String>,
}

/// Decodes all pictures and brings them to one size. Where they do not fit into `room` they are not kept, and [`Store`]
/// decodes them again.
pub(crate) fn load(
    items: &[Item],
    sides: [usize; 2],
    channels: usize,
    room: &mut Room,
    listener: &mut dyn Listener,
) -> Result<Loaded> {
    let of_one = sides[0] * sides[1] * channels;
    let all = items.len().saturating_mul(of_one);
    let in_memory = room.take(all);
    let mut together = Vec::with_capacity(if in_memory { all } else { 0 });
    let mut kept = Vec::with_capacity(items.len());
    let mut left_out = LeftOut::default();
    for (chunk_at, chunk) in items.chunks(TOGETHER).enumerate() {
        let read =
            |item: &Item| Ok::<_, String>(fit(&picture(item)?.with_channels(channels), sides));
        let pictures: Vec<_> = chunk.par_iter().map(read).collect();
        for (at, pixels) in pictures.into_iter().enumerate() {
            match pixels {
                Ok(pixels) => {
                    if in_memory {
                        together.extend(pixels);
                    }
                    kept.push(chunk_at * TOGETHER + at);
                }
                Err(what) => left_out.add(UNREADABLE, format!("{}: {what}", chunk[at].place)),
            }
        }
        let done = (chunk_at + 1) * TOGETHER;
        tell(
            listener,
            done.min(items.len()),
            items.len(),
            "pictures read",
        )?;
    }
    let store = match in_memory {
        true => Store::in_memory(of_one, together),
        false => {
            let items = kept.iter().map(|at| items[*at].clone()).collect();
            Store::at_source(items, sides, channels).map_err(|error| {
                Error::argument("--data", error, "threads that decode the pictures")
            })?
        }
    };
    Ok(Loaded {
        store,
        kept,
        skipped: left_out.said(),
    })
}

/// One picture, decoded.
pub(crate) fn picture(item: &Item) -> std::result::Result<Picture, String> {
    match &item.origin {
        Origin::File(path) => decode(&bytes_of(path)?),
        Origin::Bytes(bytes) => decode(bytes),
        Origin::Pixels(picture) => Ok(picture.clone()),
    }
}

fn tell(listener: &mut dyn Listener, done: usize, total: usize, what: &'static str) -> Result<()> {
    listener.hear(&Event::Counted { done, total, what });
    match listener.stop() {
        true => Err(Error::Interrupted { step: 0 }),
        false => Ok(()),
    }
}

/// The bytes of a file that is one, and not too large.
fn bytes_of(path: &std::path::Path) -> std::result::Result<Vec<u8>, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        // A pipe in its place would be waited for.
        return Err("no file".to_owned());
    }
    if about.len() > MOST_BYTES {
        return Err(format!(
            "{} bytes, expected at most {MOST_BYTES}",
            about.len()
        ));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}
