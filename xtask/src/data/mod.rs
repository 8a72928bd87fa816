//! `cargo xtask data NAME`: benchmark sets, texts as plain `train.csv` and `test.csv` with a header, pairs of texts as
//! `.tsv`, pictures as IDX files.
//!
//! None of this is ours to pass on, so it is fetched where it is wanted and never committed.

pub(crate) mod bible;
mod clients;
mod debian;
pub(crate) mod mail;
mod orange;
pub(crate) mod pairs;
mod pictures;
pub(crate) mod spam;
pub(crate) mod table;

use crate::Result;
use table::Parts;

/// What is fetched, and what must come out.
struct Set {
    name: &'static str,
    about: &'static str,
    make: Make,
    /// Rows or pictures for training and for testing, counted when the set was chosen.
    expected: (usize, usize),
}

/// How a set is made in its folder.
enum Make {
    /// Rows that are written here.
    Texts(fn(&std::path::Path) -> Result<Parts>),
    /// Files that are written and counted there.
    Files(fn(&std::path::Path) -> Result<(usize, usize)>),
    /// Pairs of texts: English and that language, or (none) descriptions and their synopses.
    Pairs(Option<&'static str>),
}

const SETS: [Set; 15] = [
    Set {
        name: "reuters-r8",
        about: "newswire, 8 topics; the split that papers use",
        make: Make::Texts(|folder| orange::make(folder, &orange::REUTERS_R8)),
        expected: (5_485, 2_189),
    },
    Set {
        name: "20newsgroups",
        about: "postings in 20 newsgroups",
        make: Make::Texts(|folder| orange::make(folder, &orange::NEWSGROUPS)),
        expected: (11_293, 7_528),
    },
    Set {
        name: "spam",
        about: "bodies of e-mails, ham or spam; trained on the older groups, tested on the newer",
        make: Make::Texts(spam::make),
        expected: (3_083, 2_463),
    },
    Set {
        name: "debian-sections",
        about: "descriptions of Debian packages, 12 topics; split by source package",
        make: Make::Texts(debian::make),
        expected: (11_304, 1_336),
    },
    Set {
        name: "digits",
        about: "handwritten digits of 8×8, from scikit-learn; a fifth of each class tests",
        make: Make::Files(pictures::digits),
        expected: (1_438, 359),
    },
    Set {
        name: "mnist",
        about: "handwritten digits of 28×28; the official split",
        make: Make::Files(pictures::mnist),
        expected: (60_000, 10_000),
    },
    Set {
        name: "fashion-mnist",
        about: "pieces of clothing of 28×28, 10 kinds; the official split",
        make: Make::Files(pictures::fashion_mnist),
        expected: (60_000, 10_000),
    },
    Set {
        name: "debian-en-it",
        about: "package descriptions, English → Italian",
        make: Make::Pairs(Some("it")),
        expected: (100_146, 10_618),
    },
    Set {
        name: "debian-en-da",
        about: "package descriptions, English → Danish",
        make: Make::Pairs(Some("da")),
        expected: (98_876, 10_918),
    },
    Set {
        name: "debian-en-fr",
        about: "package descriptions, English → French",
        make: Make::Pairs(Some("fr")),
        expected: (45_069, 4_637),
    },
    Set {
        name: "debian-en-de",
        about: "package descriptions, English → German",
        make: Make::Pairs(Some("de")),
        expected: (29_526, 3_056),
    },
    Set {
        name: "debian-en-ja",
        about: "package descriptions, English → Japanese",
        make: Make::Pairs(Some("ja")),
        expected: (13_464, 1_249),
    },
    Set {
        name: "debian-en-zh_CN",
        about: "package descriptions, English → Chinese",
        make: Make::Pairs(Some("zh_CN")),
        expected: (2_491, 230),
    },
    Set {
        name: "debian-synopsis",
        about: "package descriptions, long → one line",
        make: Make::Pairs(None),
        expected: (48_523, 5_551),
    },
    Set {
        name: "bible-en-es",
        about: "verses of the Bible, English → Spanish; seven books test",
        make: Make::Files(pairs::make_bible),
        expected: (28_840, 1_855),
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
        let found = match set.make {
            Make::Texts(make) => write(&folder, &make(&folder)?)?,
            Make::Files(make) => make(&folder)?,
            Make::Pairs(language) => pairs::make(&folder, language)?,
        };
        if found == set.expected {
            println!("  as expected");
        } else {
            println!(
                "  expected {:?}, found {found:?}: what is upstream has changed",
                set.expected
            );
        }
    }
    Ok(())
}

/// Writes both parts and counts their rows.
fn write(folder: &std::path::Path, parts: &Parts) -> Result<(usize, usize)> {
    for (file, rows) in [("train.csv", &parts.train), ("test.csv", &parts.test)] {
        table::write(&folder.join(file), rows)?;
        println!("  {}: {} rows", folder.join(file).display(), rows.len());
    }
    println!("  labels: {}", table::labels(parts));
    Ok((parts.train.len(), parts.test.len()))
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
