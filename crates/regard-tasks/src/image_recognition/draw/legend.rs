//! The legend under a map: its colours from no weight to the most, and what the two ends weigh. The few letters it needs
//! are drawn from a table, since a font would be a dependency and a file.

use super::viridis;

/// Rows of the colours, and of the numbers under them.
const COLOURS: usize = 16;
const NUMBERS: usize = 22;
/// Rows of the legend.
pub(super) const HEIGHT: usize = COLOURS + NUMBERS;

/// Pixels of a dot of a letter, and dots from one letter to the next.
const DOT: usize = 2;
const ADVANCE: usize = 6;
/// Pixels around the numbers.
const MARGIN: usize = 4;

/// Seven rows of five dots, the leftmost dot the highest of five bits.
const LETTERS: [(char, [u8; 7]); 13] = [
    ('0', [14, 17, 19, 21, 25, 17, 14]),
    ('1', [4, 12, 4, 4, 4, 4, 14]),
    ('2', [14, 17, 1, 2, 4, 8, 31]),
    ('3', [31, 2, 4, 2, 1, 17, 14]),
    ('4', [2, 6, 10, 18, 31, 2, 2]),
    ('5', [31, 16, 30, 1, 1, 17, 14]),
    ('6', [6, 8, 16, 30, 17, 17, 14]),
    ('7', [31, 1, 2, 4, 8, 8, 8]),
    ('8', [14, 17, 17, 14, 17, 17, 14]),
    ('9', [14, 17, 17, 15, 1, 2, 12]),
    ('.', [0, 0, 0, 0, 0, 12, 12]),
    ('%', [24, 25, 2, 4, 8, 19, 3]),
    (' ', [0; 7]),
];

/// RGB pixels of a legend of that width; `largest` is the share of the whole weight that the most is. Numbers that do not fit
/// beside each other are left out.
pub(super) fn legend(width: usize, largest: f32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(HEIGHT * width * 3);
    for _ in 0..COLOURS {
        for column in 0..width {
            pixels.extend(viridis(column as f32 / (width - 1).max(1) as f32));
        }
    }
    pixels.resize(HEIGHT * width * 3, 255);
    let percent = 100.0 * largest;
    let ends = [
        "0 %".to_owned(),
        match percent < 10.0 {
            true => format!("{percent:.1} %"),
            false => format!("{percent:.0} %"),
        },
    ];
    let [first, last] = ends.each_ref().map(|text| text.len() * ADVANCE * DOT);
    if 3 * MARGIN + first + last <= width {
        write(&mut pixels, width, MARGIN, &ends[0]);
        write(&mut pixels, width, width - MARGIN - last, &ends[1]);
    }
    pixels
}

/// Draws a text into the rows under the colours, black, from column `left` on.
fn write(pixels: &mut [u8], width: usize, left: usize, text: &str) {
    let top = COLOURS + (NUMBERS - 7 * DOT) / 2;
    for (at, letter) in text.chars().enumerate() {
        let known = LETTERS.iter().find(|(known, _)| *known == letter);
        let rows = known.map_or([0; 7], |(_, rows)| *rows);
        for (row, column) in
            (0..7 * DOT).flat_map(|row| (0..5 * DOT).map(move |column| (row, column)))
        {
            if rows[row / DOT] >> (4 - column / DOT) & 1 == 1 {
                let place = (top + row) * width + left + at * ADVANCE * DOT + column;
                pixels[place * 3..place * 3 + 3].fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_has_its_colours_above_and_its_numbers_below_where_they_fit() {
        for (width, fits) in [(1, false), (60, false), (448, true)] {
            let pixels = legend(width, 0.123);
            assert_eq!(pixels.len(), HEIGHT * width * 3);
            assert_eq!(pixels[..3], viridis(0.0));
            let below = &pixels[COLOURS * width * 3..];
            assert_eq!(below.contains(&0), fits, "{width}");
        }
    }

    #[test]
    fn every_letter_of_a_number_is_known() {
        let known = |letter| LETTERS.iter().any(|(known, _)| *known == letter);
        assert!("0123456789. %".chars().all(known));
    }
}
