//! Tables whose columns line up, whatever the script.

use owo_colors::{OwoColorize, Style};

use super::width;

/// One cell: its text and how it looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            style: Style::new(),
        }
    }
}

/// A table without lines: columns are kept apart by two blanks.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these column names; one that begins with `>` is set to the right, as numbers are.
    pub(crate) fn new<S: AsRef<str>>(columns: impl IntoIterator<Item = S>) -> Self {
        let (right, header) = columns
            .into_iter()
            .map(|name| match name.as_ref().strip_prefix('>') {
                Some(name) => (true, name.to_owned()),
                None => (false, name.as_ref().to_owned()),
            })
            .unzip();
        Self {
            header,
            right,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The lines of the table, each indented by two blanks and ended by a line feed.
    pub(crate) fn render(&self) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|name| width(name)).collect();
        for row in &self.rows {
            for (column, cell) in widths.iter_mut().zip(row) {
                *column = width(&cell.text).max(*column);
            }
        }
        let mut text = String::new();
        if self.header.iter().any(|name| !name.is_empty()) {
            let dim = Style::new().dimmed();
            let header = self.header.iter().map(|name| Cell::styled(name, dim));
            text += &self.line(header.collect::<Vec<_>>().iter(), &widths);
        }
        for row in &self.rows {
            text += &self.line(row.iter(), &widths);
        }
        text
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a Cell>, widths: &[usize]) -> String {
        let mut line = String::new();
        let mut gap = 2;
        for ((cell, columns), right) in cells.zip(widths).zip(&self.right) {
            let missing = columns.saturating_sub(width(&cell.text));
            let (before, after) = if *right {
                (gap + missing, 2)
            } else {
                (gap, missing + 2)
            };
            // Blanks wait in `gap`, so that no line ends with them.
            if !cell.text.is_empty() {
                line += &" ".repeat(before);
                line += &cell.text.style(cell.style).to_string();
                gap = after;
            } else {
                gap += columns + 2;
            }
        }
        line + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chinese_arabic_and_emoji_line_up() {
        let mut table = Table::new(["label", ">rows", "note"]);
        table.row(["spam", "12", "latin"]);
        table.row(["垃圾邮件", "3456", "two columns a character"]);
        table.row(["بريد", "7", "right to left"]);
        table.row(["👩‍💻 ✉️", "8", "joined emoji"]);
        table.row(["", "9", ""]);
        let plain = anstream::adapter::strip_str(&table.render()).to_string();
        insta::assert_snapshot!(plain, @r"
          label     rows  note
          spam        12  latin
          垃圾邮件  3456  two columns a character
          بريد         7  right to left
          👩‍💻 ✉️        8  joined emoji
                       9
        ");
    }
}
