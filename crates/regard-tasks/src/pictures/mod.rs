//! Pictures: found in a folder, an IDX pair or a table, checked before anything is allocated, decoded, brought to one size.
//!
//! | rule | |
//! |---|---|
//! | formats | PNG, JPEG and WebP, known by their first bytes and not by their name; no animations |
//! | limits | 8,192 pixels a side, 40 million pixels, 256 MiB |
//! | turned pictures | EXIF's orientation is honoured |
//! | colours | 16 bits become 8; a palette and CMYK become RGB; grey stays grey; what is transparent shows white |
//! | links | not followed: a folder means what is in it |

mod decode;
mod fit;
mod idx;
mod load;
mod source;
mod store;

use std::io::Cursor;
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

pub use decode::decode;
pub(crate) use fit::scaled;
pub use fit::{Frame, fit, frame};
use load::picture;
pub(crate) use load::{Room, Sizes, load, sizes};
pub(crate) use source::{Album, Purpose, find};
pub use source::{Item, Origin, PictureColumns};
pub(crate) use store::Store;

use crate::{Error, Result};

/// Pixels of a side at most.
pub const MOST_SIDE: u32 = 8192;
/// Pixels of a picture at most.
pub const MOST_PIXELS: u64 = 40_000_000;
/// Bytes of a picture at most, packed and unpacked.
pub const MOST_BYTES: u64 = 256 << 20;

/// A picture: rows of pixels from the top, the numbers of a pixel one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// `[height, width, channels]`
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Reads and decodes a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is not a picture within the limits; the message names it.
    pub fn open(path: &Path) -> Result<Self> {
        let item = Item {
            place: path.display().to_string(),
            origin: Origin::File(path.to_owned()),
            label: String::new(),
        };
        picture(&item).map_err(|what| Error::Picture {
            place: item.place,
            what,
        })
    }

    /// The picture as a PNG.
    ///
    /// # Panics
    ///
    /// If it has other pixels than its sides and channels say, or no channel or two.
    pub fn to_png(&self) -> Vec<u8> {
        let kind = match self.channels {
            1 => ExtendedColorType::L8,
            3 => ExtendedColorType::Rgb8,
            other => panic!("a picture of {other} channels, expected 1 or 3"),
        };
        let mut bytes = Cursor::new(Vec::new());
        PngEncoder::new(&mut bytes)
            .write_image(&self.pixels, self.width as u32, self.height as u32, kind)
            .expect("the pixels are as many as the sides say, and memory can be written");
        bytes.into_inner()
    }

    /// The same picture with so many channels: grey is three times the same number, and colour becomes grey by the weights
    /// of ITU-R BT.709, as the `image` crate has them.
    ///
    /// # Panics
    ///
    /// If `channels` is neither 1 nor 3.
    pub fn with_channels(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (1, 3) => self.pixels.iter().flat_map(|grey| [*grey; 3]).collect(),
            (3, 1) => {
                let grey = |pixel: &[u8; 3]| {
                    let [red, green, blue] = pixel.map(u32::from);
                    ((2126 * red + 7152 * green + 722 * blue) / 10_000) as u8
                };
                self.pixels.as_chunks::<3>().0.iter().map(grey).collect()
            }
            (same, wanted) => {
                assert_eq!(same, wanted, "a picture has 1 or 3 channels");
                self.pixels
            }
        };
        Self {
            channels,
            pixels,
            ..self
        }
    }
}
