//! What a terminal shows: tables, bars, attended words, progress.
//!
//! Everything here makes strings with colours in them; [`anstream`] takes the colours out where nobody can see them.

mod bars;
mod progress;
mod scores;
mod table;
mod words;

use std::borrow::Cow;
use std::io::{self, Write};

use owo_colors::OwoColorize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub(crate) use bars::bar;
pub(crate) use progress::{Counter, TrainingProgress};
pub(crate) use scores::{confusions, per_class, standings};
pub(crate) use table::{Cell, Table};
pub(crate) use words::{attended_line, attended_list};

/// Writes data to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Tells the user something that is not data, on standard error.
pub(crate) fn tell(text: &str) {
    // A closed standard error must not stop the work.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Tells the user something that needs attention.
pub(crate) fn warn(text: &str) {
    tell(&format!("{}: {text}", "warning".yellow().bold()));
}

/// Tells the user something worth knowing about the result.
pub(crate) fn note(text: &str) {
    tell(&format!("{}: {text}", "note".cyan().bold()));
}

/// Whether what is written to standard output may be coloured.
pub(crate) fn colour() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` on one line: white space is one blank, and a character that would steer the terminal is shown as `·`.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_whitespace() {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else {
            line.push(visible(character));
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// The character, or `·` for one that moves the cursor or turns the writing direction.
pub(crate) fn visible(character: char) -> char {
    let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if character.is_control() || turns {
        '·'
    } else {
        character
    }
}

/// `text`, cut to at most `columns` columns; an ellipsis stands for what is cut.
pub(crate) fn shorten(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut kept = String::new();
    let mut used = 1;
    for character in text.chars() {
        used += character.width().unwrap_or(0);
        if used > columns {
            break;
        }
        kept.push(character);
    }
    kept.push('…');
    Cow::Owned(kept)
}

/// 1234567 as `1,234,567`.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as people read them.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Seconds as people read them.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A line that begins a part of the output.
pub(crate) fn heading(text: &str) -> String {
    text.bold().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_on_one_line_cannot_steer_the_terminal() {
        assert_eq!(
            one_line("  a\r\n\tb \u{1b}[31mc\u{202e}d\n"),
            "a b ·[31mc·d"
        );
    }

    #[test]
    fn a_shortened_text_never_takes_more_columns_than_asked() {
        assert_eq!(shorten("垃圾邮件分类", 7), "垃圾邮…");
        assert_eq!(shorten("垃圾邮件分类", 6), "垃圾…");
        assert_eq!(shorten("spam", 4), "spam");
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [999, 1_500, 2_500_000].map(size),
            ["999 bytes", "1.5 kB", "2.5 MB"]
        );
        assert_eq!(
            [4.4, 65.0, 3_700.0].map(duration),
            ["4 s", "1 min 05 s", "1 h 01 min"]
        );
    }
}
