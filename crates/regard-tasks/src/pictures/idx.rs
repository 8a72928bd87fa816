//! IDX, the format of MNIST: two zero bytes, the type of an element, the number of axes, the length of each axis as four
//! bytes with the highest first, then the elements with the last axis running fastest. Each file may be gzipped; a text file
//! `labels.txt` beside them may name the labels, one a line, from 0.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::{MOST_SIDE, Picture};
use crate::{Error, Result};

/// Bytes of a file at most, unpacked: twenty times MNIST.
const MOST_BYTES: u64 = 1 << 30;

/// The files of one part: pictures and labels.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) pictures: PathBuf,
    pub(super) labels: PathBuf,
}

/// What a pair holds.
pub(super) struct Contents {
    pub(super) pictures: Vec<Picture>,
    /// A name for each picture.
    pub(super) labels: Vec<String>,
}

/// The pair of files in a folder whose names begin with one of `parts` and hold `images` and `labels`, as MNIST's do
/// (`train-images-idx3-ubyte`, also with `.gz`).
pub(super) fn find(folder: &Path, parts: &[&str]) -> Result<Option<Pair>> {
    let failed = |source| Error::read(folder, source);
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            names.push(entry.path());
        }
    }
    names.sort();
    let find = |what: &str| {
        names.iter().find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let idx = name.contains("idx") && parts.iter().any(|part| name.starts_with(part));
            idx && name.contains(what)
        })
    };
    match (find("images"), find("labels")) {
        (Some(pictures), Some(labels)) => Ok(Some(Pair {
            pictures: pictures.clone(),
            labels: labels.clone(),
        })),
        (None, None) => Ok(None),
        (Some(found), None) | (None, Some(found)) => Err(alone(found)),
    }
}

/// The pair that a file of that name belongs to; none if it is called otherwise.
pub(super) fn around(path: &Path) -> Result<Option<Pair>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains("idx") || !(name.contains("images") || name.contains("labels")) {
        return Ok(None);
    }
    let sibling = |name: String| path.with_file_name(name);
    let pair = Pair {
        pictures: sibling(name.replace("labels", "images").replace("idx1", "idx3")),
        labels: sibling(name.replace("images", "labels").replace("idx3", "idx1")),
    };
    match pair.pictures.is_file() && pair.labels.is_file() {
        true => Ok(Some(pair)),
        false => Err(alone(path)),
    }
}

fn alone(path: &Path) -> Error {
    let what =
        "an IDX file of pictures and one of labels belong together, and the other is missing";
    Error::table(path, None, what)
}

/// Reads both files.
pub(super) fn read(pair: &Pair) -> Result<Contents> {
    let (bytes, labels) = (unpacked(&pair.pictures)?, unpacked(&pair.labels)?);
    let (axes, elements) = parts(&pair.pictures, &bytes, 3)?;
    let (label_axes, label_elements) = parts(&pair.labels, &labels, 1)?;
    let [count, height, width] = [axes[0], axes[1], axes[2]];
    for (name, side) in [("height", height), ("width", width)] {
        if side == 0 || side > MOST_SIDE as usize {
            let what = format!("pictures of {name} {side}, expected 1 to {MOST_SIDE}");
            return Err(Error::table(&pair.pictures, None, what));
        }
    }
    if label_axes[0] != count {
        let of = pair.pictures.display();
        let what = format!("{} labels for the {count} pictures of {of}", label_axes[0]);
        return Err(Error::table(&pair.labels, None, what));
    }
    let pictures = elements.chunks(height * width).map(|pixels| Picture {
        height,
        width,
        channels: 1,
        pixels: pixels.to_vec(),
    });
    Ok(Contents {
        pictures: pictures.collect(),
        labels: named(&pair.labels, label_elements)?,
    })
}

/// The labels by the names of `labels.txt`, or as numbers where there is none.
fn named(path: &Path, labels: &[u8]) -> Result<Vec<String>> {
    let names = path.with_file_name("labels.txt");
    let text = match fs::read_to_string(&names) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(labels.iter().map(u8::to_string).collect());
        }
        Err(source) => return Err(Error::read(&names, source)),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let name = |label: &u8| match lines.get(usize::from(*label)) {
        Some(name) if !name.is_empty() => Ok((*name).to_owned()),
        _ => {
            let what = format!(
                "no name for the label {label}, expected one on line {}",
                u16::from(*label) + 1
            );
            Err(Error::table(&names, None, what))
        }
    };
    labels.iter().map(name).collect()
}

/// The bytes of a file, gunzipped where they are gzip.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let read = |from: &mut dyn Read| -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        from.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let failed = |source| Error::read(path, source);
    let mut bytes = read(&mut fs::File::open(path).map_err(failed)?).map_err(failed)?;
    if bytes.starts_with(&[0x1F, 0x8B]) {
        bytes = read(&mut MultiGzDecoder::new(bytes.as_slice())).map_err(failed)?;
    }
    match bytes.len() as u64 > MOST_BYTES {
        true => {
            let what = format!("more than {MOST_BYTES} bytes unpacked, expected less");
            Err(Error::table(path, None, what))
        }
        false => Ok(bytes),
    }
}

/// The lengths of the axes and the elements, which are exactly as many as the header says.
fn parts<'a>(path: &Path, bytes: &'a [u8], axes: usize) -> Result<(Vec<usize>, &'a [u8])> {
    let wrong = |what: String| Error::table(path, None, what);
    let Some((header, elements)) = bytes.split_at_checked(4 + 4 * axes) else {
        let expected = 4 + 4 * axes;
        return Err(wrong(format!(
            "{} bytes, expected an IDX header of {expected}",
            bytes.len()
        )));
    };
    if header[..4] != [0, 0, 8, axes as u8] {
        let expected = [0, 0, 8, axes as u8];
        return Err(wrong(format!(
            "begins with the bytes {:?}, expected {expected:?}: IDX, unsigned bytes, {axes} axes",
            &header[..4]
        )));
    }
    let lengths: Vec<usize> = header[4..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|length| u32::from_be_bytes(*length) as usize)
        .collect();
    let claimed = lengths
        .iter()
        .try_fold(1_usize, |all, length| all.checked_mul(*length));
    if claimed != Some(elements.len()) {
        return Err(wrong(format!(
            "claims {lengths:?} elements, and {} follow: the file is cut off or altered",
            elements.len()
        )));
    }
    Ok((lengths, elements))
}
