//! Reading many pictures, on all cores: first their headers, to find a size; then their pixels at that size.

use std::fs::{self, File};
use std::io::Read;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::decode::{decode, header};
use super::source::LeftOut;
use super::{Item, MOST_BYTES, Origin, Picture, fit};
use crate::tables::hexadecimal;
use crate::trainer::{Event, Listener};
use crate::{Error, Result};

/// Pictures that are read between two looks at the listener.
const TOGETHER: usize = 512;
/// Bytes of all pictures at the model's size at most: they are kept in memory, so that no step waits for a disk.
const MOST_TOGETHER: usize = 16 << 30;

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
    /// `[pictures, height, width, channels]`
    pub(crate) pixels: Vec<u8>,
    /// Which of the items they are.
    pub(crate) kept: Vec<usize>,
    /// What was left out, counted and named.
    pub(crate) skipped: Vec<String>,
}

/// Decodes the pictures and brings them to one size.
pub(crate) fn load(
    items: &[Item],
    sides: [usize; 2],
    channels: usize,
    listener: &mut dyn Listener,
) -> Result<Loaded> {
    let of_one = sides[0] * sides[1] * channels;
    let room = free_memory().map_or(MOST_TOGETHER, |free| free.min(MOST_TOGETHER));
    if items.len().saturating_mul(of_one) > room {
        let found = format!("{} pictures of {of_one} bytes each", items.len());
        let expected = format!(
            "at most {} MiB, which is what this machine has room for: fewer pictures, or smaller ones (--set picture_height=, picture_width=)",
            room >> 20
        );
        return Err(Error::argument("--data", found, expected));
    }
    let mut loaded = Loaded {
        pixels: Vec::with_capacity(items.len() * of_one),
        kept: Vec::with_capacity(items.len()),
        skipped: Vec::new(),
    };
    let mut left_out = LeftOut::default();
    for (chunk_at, chunk) in items.chunks(TOGETHER).enumerate() {
        let read =
            |item: &Item| Ok::<_, String>(fit(&picture(item)?.with_channels(channels), sides));
        let pictures: Vec<_> = chunk.par_iter().map(read).collect();
        for (at, pixels) in pictures.into_iter().enumerate() {
            match pixels {
                Ok(pixels) => {
                    loaded.pixels.extend(pixels);
                    loaded.kept.push(chunk_at * TOGETHER + at);
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
    loaded.skipped = left_out.said();
    Ok(loaded)
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
