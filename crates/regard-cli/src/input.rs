//! What a user types or pipes in: vectors, and lines of text.

use std::fs;
use std::io::{self, BufRead, Read};

use ndarray::Array2;

use crate::failure::Usage;

/// Reads the vectors of an argument: `1,0;0,1`, or `@FILE` or `-` (standard input) with a vector a line.
///
/// All vectors of one argument have the same length.
pub(crate) fn vectors(name: &str, argument: &str) -> anyhow::Result<Array2<f32>> {
    let text;
    let (places, parts): (_, Vec<(usize, &str)>) = match argument {
        "-" => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes)?;
            text = String::from_utf8_lossy(&bytes).into_owned();
            ("line", lines_with_numbers(&text))
        }
        _ => match argument.strip_prefix('@') {
            Some(path) => {
                let bytes = fs::read(path).map_err(|error| {
                    Usage::new(format!("{name}: cannot read `{path}`: {error}"))
                })?;
                text = String::from_utf8_lossy(&bytes).into_owned();
                ("line", lines_with_numbers(&text))
            }
            None => {
                let parts = argument.strip_suffix(';').unwrap_or(argument).split(';');
                (
                    "vector",
                    parts
                        .enumerate()
                        .map(|(index, part)| (index + 1, part))
                        .collect(),
                )
            }
        },
    };
    let mut numbers = Vec::new();
    let mut width = None;
    for (place, part) in &parts {
        let before = numbers.len();
        for word in part
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty())
        {
            let number = word.parse::<f32>().ok().filter(|number| number.is_finite()).ok_or_else(|| {
                Usage::new(format!("{name}: `{word}` in {places} {place} is not a finite number"))
                    .help("numbers are separated by commas, vectors by semicolons, as in \"1,0;0.5,-2\"")
            })?;
            numbers.push(number);
        }
        let found = numbers.len() - before;
        let expected = *width.get_or_insert(found);
        if found == 0 {
            return Err(Usage::new(format!("{name}: {places} {place} has no numbers")).into());
        }
        if found != expected {
            let first = parts[0].0;
            return Err(Usage::new(format!(
                "{name}: {places} {place} has {found} numbers, expected {expected} as in {places} {first}"
            ))
            .into());
        }
    }
    let width = width.ok_or_else(|| Usage::new(format!("{name}: no vectors found")))?;
    Ok(Array2::from_shape_vec((parts.len(), width), numbers)?)
}

/// Lines with their numbers from 1; empty lines and those that begin with `#` are left out.
fn lines_with_numbers(text: &str) -> Vec<(usize, &str)> {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    lines
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// One line of text as it came.
#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    /// The text without its line end.
    pub(crate) text: String,
    /// Its bytes were not UTF-8: what was wrong is U+FFFD now.
    pub(crate) repaired: bool,
}

/// Reads one line; `None` at the end. Line ends are `\n` or `\r\n`; a byte order mark is not part of the text.
pub(crate) fn next_line(from: &mut impl BufRead, first: bool) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    if from.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if first && bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(Some(match String::from_utf8(bytes) {
        Ok(text) => Line {
            text,
            repaired: false,
        },
        Err(error) => Line {
            text: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            repaired: true,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn problem(argument: &str) -> String {
        vectors("--keys", argument)
            .expect_err("it is wrong")
            .to_string()
    }

    #[test]
    fn vectors_are_separated_by_semicolons_and_numbers_by_commas_or_blanks() {
        let read = vectors("--keys", " 1, -2.5 ; 3e-1 4;").expect("it is right");
        assert_eq!(read, ndarray::array![[1.0, -2.5], [0.3, 4.0]]);
    }

    #[test]
    fn a_wrong_vector_is_named_with_what_was_found_and_expected() {
        let wrong = ["1,2;3", "1,x", "", ";", "1;;2", "nan", "1e99"].map(problem);
        insta::assert_snapshot!(wrong.join("\n"), @r"
        --keys: vector 2 has 1 numbers, expected 2 as in vector 1
        --keys: `x` in vector 1 is not a finite number
        --keys: vector 1 has no numbers
        --keys: vector 1 has no numbers
        --keys: vector 2 has no numbers
        --keys: `nan` in vector 1 is not a finite number
        --keys: `1e99` in vector 1 is not a finite number
        ");
    }

    #[test]
    fn lines_keep_their_place_whatever_their_bytes() {
        let mut bytes = Cursor::new(b"\xef\xbb\xbfone\r\n\nb\xffd\0\nlast".to_vec());
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut bytes, lines.is_empty()).expect("memory can be read")
        {
            lines.push((line.text, line.repaired));
        }
        let expected = [
            ("one", false),
            ("", false),
            ("b\u{fffd}d\0", true),
            ("last", false),
        ];
        assert_eq!(
            lines,
            expected.map(|(text, repaired)| (text.to_owned(), repaired))
        );
    }
}
