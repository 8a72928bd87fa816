//! `cargo xtask data NAME`: benchmark sets as plain `train.csv` and `test.csv` with a header.
//!
//! None of these texts is ours to pass on, so they are fetched where they are wanted and never committed.

mod clients;
mod debian;
pub(crate) mod mail;
mod orange;
pub(crate) mod spam;
pub(crate) mod table;

use crate::Result;
use table::Parts;

/// What is fetched, and what must come out.
struct Set {
    name: &'static str,
    about: &'static str,
    make: fn(&std::path::Path) -> Result<Parts>,
    /// Rows for training and for testing, counted when the set was chosen.
    expected: (usize, usize),
}

const SETS: [Set; 4] = [
    Set {
        name: "reuters-r8",
        about: "newswire, 8 topics; the split that papers use",
        make: |folder| orange::make(folder, &orange::REUTERS_R8),
        expected: (5_485, 2_189),
    },
    Set {
        name: "20newsgroups",
        about: "postings in 20 newsgroups",
        make: |folder| orange::make(folder, &orange::NEWSGROUPS),
        expected: (11_293, 7_528),
    },
    Set {
        name: "spam",
        about: "bodies of e-mails, ham or spam; trained on the older groups, tested on the newer",
        make: spam::make,
        expected: (3_083, 2_463),
    },
    Set {
        name: "debian-sections",
        about: "descriptions of Debian packages, 12 topics; split by source package",
        make: debian::make,
        expected: (11_304, 1_336),
    },
];

/// Fetches one set, or `all`.
pub(crate) fn fetch(name: &str) -> Result<()> {
    let chosen: Vec<&Set> = SETS
        .iter()
        .filter(|set| name == "all" || name == set.name)
        .collect();
    if chosen.is_empty() {
        return Err(format!("there is no set `{name}`; the sets are:\n{}", list()).into());
    }
    for set in chosen {
        let folder = folder(set.name)?;
        println!("{}: {}", set.name, set.about);
        let parts = (set.make)(&folder)?;
        for (file, rows) in [("train.csv", &parts.train), ("test.csv", &parts.test)] {
            table::write(&folder.join(file), rows)?;
            println!("  {}: {} rows", folder.join(file).display(), rows.len());
        }
        println!("  labels: {}", table::labels(&parts));
        let found = (parts.train.len(), parts.test.len());
        if found == set.expected {
            println!("  as expected");
        } else {
            println!(
                "  expected {:?} rows, found {found:?}: what is upstream has changed",
                set.expected
            );
        }
    }
    Ok(())
}

/// The sets, one a line.
pub(crate) fn list() -> String {
    SETS.iter()
        .map(|set| format!("  {:<16} {}\n", set.name, set.about))
        .collect()
}

/// `data/NAME`, made if it is missing; git ignores it.
pub(crate) fn folder(name: &str) -> Result<std::path::PathBuf> {
    let folder = crate::root().join("data").join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
