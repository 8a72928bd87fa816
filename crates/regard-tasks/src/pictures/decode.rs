//! Decoding with limits: what a file claims is compared with them before anything is allocated.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, Limits};

use super::{MOST_BYTES, MOST_PIXELS, MOST_SIDE, Picture};

/// Bytes of what stands in a PNG beside its pixels, unpacked: profiles are of kilobytes, and one of a megabyte may unpack to a
/// gigabyte.
const MOST_BESIDE: u64 = 16 << 20;

/// Unpacked bytes above which pictures are decoded one after the other, however many threads there are: decoding takes up to
/// three times the bytes that come out.
const LARGE: u64 = 32 << 20;
static ONE_LARGE: Mutex<()> = Mutex::new(());

/// Decodes a PNG, JPEG or WebP picture; the [module](super) has the rules.
///
/// # Errors
///
/// What was found and what is expected, without the name of the file.
pub fn decode(bytes: &[u8]) -> Result<Picture, String> {
    guarded(|| {
        let mut decoder = decoder(bytes)?;
        let orientation = decoder.orientation().map_err(|error| damaged(&error))?;
        let _turn = (decoder.total_bytes() > LARGE)
            .then(|| ONE_LARGE.lock().unwrap_or_else(PoisonError::into_inner));
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| damaged(&error))?;
        picture.apply_orientation(orientation);
        Ok(plain(picture))
    })
}

/// Height and width as [`decode`] would give them, and whether the picture has colours, from the header alone.
///
/// # Errors
///
/// As [`decode`], as far as the header tells.
pub(super) fn header(bytes: &[u8]) -> Result<([usize; 2], bool), String> {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    guarded(|| {
        let mut decoder = decoder(bytes)?;
        let (width, height) = decoder.dimensions();
        let colours = decoder.color_type().has_color();
        let orientation = decoder.orientation().map_err(|error| damaged(&error))?;
        let lies = matches!(
            orientation,
            Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH
        );
        let sides = if lies {
            [width, height]
        } else {
            [height, width]
        };
        Ok((sides.map(|side| side as usize), colours))
    })
}

/// The decoder of the format that the bytes begin like, with all that its header says checked.
fn decoder(bytes: &[u8]) -> Result<Box<dyn ImageDecoder + '_>, String> {
    if bytes.is_empty() {
        return Err("the file is empty, expected a picture".to_owned());
    }
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!(
            "{} bytes, expected at most {MOST_BYTES}",
            bytes.len()
        ));
    }
    let animated = || "an animation, expected a still picture".to_owned();
    let read = Cursor::new(bytes);
    let decoder: Box<dyn ImageDecoder + '_> = match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => {
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MOST_BESIDE);
            let decoder = PngDecoder::with_limits(read, limits).map_err(|error| damaged(&error))?;
            if decoder.is_apng().map_err(|error| damaged(&error))? {
                return Err(animated());
            }
            Box::new(decoder)
        }
        Ok(ImageFormat::Jpeg) => {
            whole_jpeg(bytes)?;
            Box::new(JpegDecoder::new(read).map_err(|error| damaged(&error))?)
        }
        Ok(ImageFormat::WebP) => {
            whole_webp(bytes)?;
            let decoder = WebPDecoder::new(read).map_err(|error| damaged(&error))?;
            if decoder.has_animation() {
                return Err(animated());
            }
            Box::new(decoder)
        }
        Ok(other) => {
            return Err(format!(
                "a picture in the format {other:?}, expected PNG, JPEG or WebP"
            ));
        }
        Err(_) => return Err("no picture, expected PNG, JPEG or WebP".to_owned()),
    };
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || width.max(height) > MOST_SIDE {
        return Err(format!(
            "{width} × {height} pixels, expected 1 to {MOST_SIDE} a side"
        ));
    }
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!(
            "{width} × {height} pixels, expected at most {MOST_PIXELS} in all"
        ));
    }
    if decoder.total_bytes() > MOST_BYTES {
        return Err(format!(
            "{} bytes unpacked, expected at most {MOST_BYTES}",
            decoder.total_bytes()
        ));
    }
    Ok(decoder)
}

/// The decoder fills what is missing of a JPEG with grey, so its segments are walked to the end marker: a picture that a
/// thumbnail or a film follows in the same file, as cameras write them, is whole; one that breaks off is not.
fn whole_jpeg(bytes: &[u8]) -> Result<(), String> {
    const END: u8 = 0xD9;
    let broken = || "a JPEG that breaks off, expected a whole one".to_owned();
    let mut rest = bytes.get(2..).ok_or_else(broken)?;
    loop {
        // A marker is 255 and a byte that is neither 0, which stands for 255 in the data of a scan, nor 255, which fills up.
        let marker = rest
            .windows(2)
            .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF));
        let at = marker.ok_or_else(broken)?;
        let (marker, after) = (rest[at + 1], &rest[at + 2..]);
        let length = match marker {
            END => return Ok(()),
            // These stand alone: restarts inside a scan, another beginning.
            0x01 | 0xD0..=0xD8 => 0,
            _ => match after {
                [high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])).max(2),
                _ => return Err(broken()),
            },
        };
        rest = after.get(length..).ok_or_else(broken)?;
    }
}

/// A WebP says in its first bytes how long it is (RIFF: a length without its own eight bytes).
fn whole_webp(bytes: &[u8]) -> Result<(), String> {
    let said = bytes.get(4..8).and_then(|said| said.try_into().ok());
    let said = said.map_or(u64::MAX, |said| 8 + u64::from(u32::from_le_bytes(said)));
    match said <= bytes.len() as u64 {
        true => Ok(()),
        false => Err(format!(
            "a WebP of {} bytes that says it has {said}: it breaks off",
            bytes.len()
        )),
    }
}

/// Eight bits, grey or RGB; what is transparent shows white.
fn plain(picture: DynamicImage) -> Picture {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (colours, alpha) = (picture.color().has_color(), picture.color().has_alpha());
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let pixels = match (colours, alpha) {
        (false, false) => picture.into_luma8().into_raw(),
        (true, false) => picture.into_rgb8().into_raw(),
        (false, true) => {
            let raw = picture.into_luma_alpha8().into_raw();
            let pixels = raw.as_chunks::<2>().0.iter();
            pixels
                .map(|[grey, alpha]| over_white(*grey, *alpha))
                .collect()
        }
        (true, true) => {
            let raw = picture.into_rgba8().into_raw();
            let pixels = raw.as_chunks::<4>().0.iter();
            pixels
                .flat_map(|[red, green, blue, alpha]| {
                    [red, green, blue].map(|colour| over_white(*colour, *alpha))
                })
                .collect()
        }
    };
    Picture {
        height,
        width,
        channels: if colours { 3 } else { 1 },
        pixels,
    }
}

fn damaged(error: &image::ImageError) -> String {
    format!("not a whole picture: {error}")
}

/// A decoder meets files that nobody has tried, and none of them may end the program.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("a picture that the decoder cannot make sense of".to_owned()))
}
