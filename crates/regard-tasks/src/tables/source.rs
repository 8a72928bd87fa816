//! From a file to bytes, and from bytes to text that is UTF-8 without NUL.

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// Most bytes of a table, unpacked: a table is held in memory, and a kilobyte of gzip can unpack to a megabyte.
const LIMIT: u64 = 4 << 30;

/// The bytes of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let about = fs::metadata(path).map_err(|source| Error::read(path, source))?;
    if about.is_dir() {
        return Err(Error::table(
            path,
            None,
            "this is a folder, expected a file",
        ));
    }
    if about.len() > LIMIT {
        return Err(too_large(path, about.len()));
    }
    // `take`, because a pipe or a growing file has no length to check.
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|source| Error::read(path, source))?;
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::read(path, source))?;
    if bytes.len() as u64 > LIMIT {
        return Err(too_large(path, bytes.len() as u64));
    }
    Ok(bytes)
}

/// What a gzip file holds; several members one after the other are one file, as `gzip` has it.
pub(super) fn unzip(path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes)
        .take(LIMIT + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| {
            let what = format!(
                "not a whole gzip file ({error} after {} unpacked bytes)",
                unpacked.len()
            );
            Error::table(path, None, what)
        })?;
    if unpacked.len() as u64 > LIMIT {
        return Err(too_large(path, unpacked.len() as u64));
    }
    Ok(unpacked)
}

fn too_large(path: &Path, found: u64) -> Error {
    let what =
        format!("{found} bytes or more, expected at most {LIMIT} (4 GiB) in one file: split it");
    Error::table(path, None, what)
}

/// The text of a file, its byte order mark taken off; refuses what is not UTF-8 or holds NUL, and names the line.
pub(super) fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(Error::table(
            path,
            1,
            "the file is UTF-16, expected UTF-8: save it as UTF-8",
        ));
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let what = format!(
            "byte {} of the line is NUL, expected text: is this a binary or UTF-16 file?",
            column(bytes, at)
        );
        return Err(Error::table(path, line(bytes, at), what));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let what = format!(
            "byte {} of the line (0x{:02X}) is not UTF-8: save the file as UTF-8",
            column(bytes, at),
            bytes[at]
        );
        Error::table(path, line(bytes, at), what)
    })?;
    Ok(text.strip_prefix('\u{FEFF}').unwrap_or(text))
}

/// The line that a byte is on, from 1; a lone carriage return also ends one.
fn line(bytes: &[u8], at: usize) -> u64 {
    let ends =
        |at: usize| bytes[at] == b'\n' || (bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'));
    1 + (0..at).filter(|at| ends(*at)).count() as u64
}

/// The place of a byte in its line, from 1.
fn column(bytes: &[u8], at: usize) -> usize {
    let start = bytes[..at]
        .iter()
        .rposition(|byte| matches!(byte, b'\n' | b'\r'))
        .map_or(0, |end| end + 1);
    at - start + 1
}
