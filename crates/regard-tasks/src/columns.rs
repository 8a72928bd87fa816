//! Which column is the text and which the label, from their names and their values, with the reasons.

use std::collections::HashSet;

use crate::error::{quoted, short};
use crate::tables::Table;
use crate::{Error, Result};

/// What the user said; `None` = infer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnChoice {
    /// `--text-column`
    pub text: Option<String>,
    /// `--label-column`
    pub label: Option<String>,
    /// `--group`
    pub group: Option<String>,
}

/// The columns to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The column with the texts.
    pub text: String,
    /// The column with the labels.
    pub label: String,
    /// The column whose equal values must not be torn apart by a split.
    pub group: Option<String>,
    /// Sentences: what was inferred, from what, and how to say otherwise.
    pub reasons: Vec<String>,
}

/// Names of the main text of a row.
const TEXT_NAMES: &[&str] = &[
    "text",
    "texts",
    "body",
    "content",
    "contents",
    "message",
    "msg",
    "sentence",
    "document",
    "doc",
    "review",
    "comment",
    "tweet",
    "post",
    "description",
    "abstract",
    "utterance",
    "query",
    "question",
    "email",
    "mail",
    "sms",
    "article",
    "正文",
    "文本",
    "内容",
    "评论",
];
/// Names of a short text, taken when there is no longer one.
const SHORT_TEXT_NAMES: &[&str] = &[
    "title", "headline", "subject", "summary", "input", "phrase", "标题",
];
/// Names that say nothing but "label"; the first that is there is it.
const LABEL_NAMES: &[&str] = &["label", "labels", "class", "target", "y", "标签", "类别"];
/// Names of things that can be labels.
const KIND_NAMES: &[&str] = &[
    "category",
    "categories",
    "section",
    "sentiment",
    "topic",
    "intent",
    "emotion",
    "genre",
    "spam",
    "polarity",
    "tag",
    "language",
    "lang",
    "department",
    "type",
    "kind",
    "rating",
    "stars",
    "output",
    "分类",
    "情感",
];
/// Names of what rows can have in common.
const GROUP_NAMES: &[&str] = &[
    "group",
    "source",
    "author",
    "user",
    "thread",
    "conversation",
    "patient",
    "session",
    "domain",
];
/// Parts of names of what is not a text.
const ID_NAMES: &[&str] = &[
    "id",
    "ids",
    "uuid",
    "guid",
    "index",
    "idx",
    "key",
    "hash",
    "url",
    "date",
    "time",
    "timestamp",
];

/// Finds the text and the label column; what the user named is taken as it is.
///
/// # Errors
///
/// When a named column is missing, or what is not named cannot be told: the message lists the candidates and the flag.
pub fn infer(table: &Table, choice: &ColumnChoice) -> Result<Columns> {
    let seen = Seen::of(table, choice)?;
    if let (Some(text), Some(label)) = (&choice.text, &choice.label)
        && text == label
    {
        return Err(Error::argument(
            "--label-column",
            format!("`{label}`, which is the text column"),
            "another column",
        ));
    }
    let mut reasons = table.notes().to_vec();
    // A label that is named as one is no text, however long: settle it first.
    let named_label = seen
        .named(LABEL_NAMES, |_| true)
        .into_iter()
        .next()
        .map(|profile| profile.name.as_str());
    let text = seen.text(choice.label.as_deref().or(named_label), &mut reasons)?;
    let label = seen.label(&text, &mut reasons)?;
    reasons.extend(seen.left_out(&text, &label));
    if choice.group.is_none() {
        reasons.extend(seen.group_hint(&text, &label));
    }
    Ok(Columns {
        text,
        label,
        group: choice.group.clone(),
        reasons,
    })
}

/// Finds the text column of a table that needs no labels, and says why it is that.
///
/// # Errors
///
/// As [`infer`].
pub fn infer_text(table: &Table, choice: &ColumnChoice) -> Result<(String, Vec<String>)> {
    let seen = Seen::of(table, choice)?;
    let mut reasons = table.notes().to_vec();
    let text = seen.text(choice.label.as_deref(), &mut reasons)?;
    Ok((text, reasons))
}

/// What a column looks like.
struct Profile {
    name: String,
    /// The name in parts, lower case: `review_text` and `reviewText` are `review`, `text`.
    parts: Vec<String>,
    filled: usize,
    distinct: usize,
    characters: f64,
    numeric: bool,
    examples: Vec<String>,
}

impl Profile {
    fn of(table: &Table, name: &str) -> Result<Self> {
        let values = table.column(name)?;
        let filled: Vec<&str> = values
            .iter()
            .flatten()
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
            .collect();
        let distinct: HashSet<&str> = filled.iter().copied().collect();
        let numbers = filled
            .iter()
            .filter(|value| value.parse::<f64>().is_ok())
            .count();
        let characters: usize = filled.iter().map(|value| value.chars().count()).sum();
        let mut examples: Vec<String> = Vec::new();
        for value in &filled {
            if examples.len() == 3 {
                break;
            }
            if !examples.iter().any(|example| *example == short(value)) {
                examples.push(short(value));
            }
        }
        Ok(Self {
            name: name.to_owned(),
            parts: parts(name),
            filled: filled.len(),
            distinct: distinct.len(),
            characters: characters as f64 / filled.len().max(1) as f64,
            numeric: !filled.is_empty() && numbers * 10 >= filled.len() * 9,
            examples,
        })
    }

    /// How well the name fits, the best first: as a whole, or as its last or first part.
    fn fit(&self, names: &[&str]) -> Option<(usize, usize)> {
        let whole = self.name.trim().to_lowercase();
        if let Some(place) = names.iter().position(|name| *name == whole) {
            return Some((0, place));
        }
        let place = |part: Option<&String>| {
            part.and_then(|part| names.iter().position(|name| name == part))
        };
        place(self.parts.last())
            .or_else(|| place(self.parts.first()))
            .map(|place| (1, place))
    }

    fn is_id(&self) -> bool {
        self.parts
            .last()
            .is_some_and(|part| ID_NAMES.contains(&part.as_str()))
    }

    fn could_be_text(&self) -> bool {
        !self.numeric && !self.is_id() && self.filled > 0
    }

    /// Few values, each often; in a table of a few rows, at least one of them twice.
    fn could_be_label(&self) -> bool {
        let often = if self.filled >= 50 {
            self.distinct * 5 <= self.filled
        } else {
            self.distinct < self.filled
        };
        (2..=1000).contains(&self.distinct) && often && self.characters <= 60.0 && !self.is_id()
    }
}

fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before_lower = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() || (letter.is_uppercase() && before_lower) {
            parts.push(String::new());
        }
        if letter.is_alphanumeric() {
            parts
                .last_mut()
                .expect("one part at least")
                .extend(letter.to_lowercase());
        }
        before_lower = letter.is_lowercase();
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// All columns of a table that can be read, and what the user said.
struct Seen<'a> {
    table: &'a Table,
    choice: &'a ColumnChoice,
    profiles: Vec<Profile>,
}

impl<'a> Seen<'a> {
    fn of(table: &'a Table, choice: &'a ColumnChoice) -> Result<Self> {
        for name in [&choice.text, &choice.label, &choice.group]
            .into_iter()
            .flatten()
        {
            table.column(name)?;
        }
        // A column that holds lists is not a candidate; it is an error only when it is asked for.
        let profiles = table
            .names()
            .into_iter()
            .filter_map(|name| Profile::of(table, name).ok())
            .collect();
        Ok(Self {
            table,
            choice,
            profiles,
        })
    }

    /// Columns that bear one of the names, the best fit first, without what the user has given another part.
    fn named(&self, names: &[&str], can: impl Fn(&Profile) -> bool) -> Vec<&Profile> {
        let mut fits: Vec<_> = self
            .profiles
            .iter()
            .filter(|profile| can(profile) && !self.taken(&profile.name))
            .filter_map(|profile| Some((profile.fit(names)?, profile)))
            .collect();
        fits.sort_by_key(|(fit, _)| *fit);
        fits.into_iter().map(|(_, profile)| profile).collect()
    }

    fn taken(&self, name: &str) -> bool {
        [&self.choice.text, &self.choice.label, &self.choice.group]
            .into_iter()
            .flatten()
            .any(|taken| taken == name)
    }

    fn text(&self, label: Option<&str>, reasons: &mut Vec<String>) -> Result<String> {
        if let Some(text) = &self.choice.text {
            return Ok(text.clone());
        }
        let can =
            |profile: &Profile| profile.could_be_text() && Some(profile.name.as_str()) != label;
        for names in [TEXT_NAMES, SHORT_TEXT_NAMES] {
            let fits = self.named(names, can);
            if let Some(found) = longest_by_far(&fits) {
                let other = if fits.len() > 1 {
                    " and its length"
                } else {
                    ""
                };
                reasons.push(format!(
                    "the texts are in the column `{}`, by its name{other} ({:.0} characters on average); --text-column NAME \
                     says otherwise",
                    found.name, found.characters
                ));
                return Ok(found.name.clone());
            }
            if fits.len() > 1 {
                return Err(self.unclear("text", "--text-column", &fits));
            }
        }
        let all: Vec<&Profile> = self
            .profiles
            .iter()
            .filter(|profile| can(profile) && !self.taken(&profile.name))
            .collect();
        // No name helps. A column that could be the label is no text, unless there is nothing else.
        let long: Vec<&Profile> = all
            .iter()
            .copied()
            .filter(|profile| !profile.could_be_label())
            .collect();
        let candidates = if long.is_empty() { all } else { long };
        if let Some(found) = longest_by_far(&candidates) {
            reasons.push(format!(
                "the texts are in the column `{}`, which has the longest values ({:.0} characters on average); \
                 --text-column NAME says otherwise",
                found.name, found.characters
            ));
            return Ok(found.name.clone());
        }
        Err(self.unclear("text", "--text-column", &candidates))
    }

    fn label(&self, text: &str, reasons: &mut Vec<String>) -> Result<String> {
        if let Some(label) = &self.choice.label {
            return Ok(label.clone());
        }
        let mut found = |profile: &Profile, why: &str| {
            reasons.push(format!(
                "the labels are in the column `{}`, {why} ({} different values); --label-column NAME says otherwise",
                profile.name, profile.distinct
            ));
            Ok(profile.name.clone())
        };
        let free = |profile: &Profile| profile.name != text && profile.filled > 0;
        if let Some(profile) = self.named(LABEL_NAMES, free).first() {
            return found(profile, "by its name");
        }
        let fits = self.named(KIND_NAMES, |profile| {
            free(profile) && (profile.could_be_label() || profile.distinct == 1)
        });
        // `section` is nearer to a label than `stars_given`.
        let whole = |profile: &&&Profile| profile.fit(KIND_NAMES).is_some_and(|fit| fit.0 == 0);
        let exact: Vec<&Profile> = fits.iter().filter(whole).copied().collect();
        let fits = if exact.is_empty() { fits } else { exact };
        match fits.as_slice() {
            [] => {}
            [profile] => return found(profile, "by its name"),
            _ => return Err(self.unclear("label", "--label-column", &fits)),
        }
        let few = |profile: &&Profile| {
            free(profile) && profile.could_be_label() && !self.taken(&profile.name)
        };
        let candidates: Vec<&Profile> = self.profiles.iter().filter(few).collect();
        match candidates.as_slice() {
            [profile] => found(profile, "the only one with few values, each in many rows"),
            _ => Err(self.unclear("label", "--label-column", &candidates)),
        }
    }

    fn unclear(&self, what: &str, flag: &str, candidates: &[&Profile]) -> Error {
        let describe = |profile: &&Profile| {
            let examples = quoted(&profile.examples);
            format!(
                "`{}` ({} different values, such as {examples})",
                short(&profile.name),
                profile.distinct
            )
        };
        let what = if candidates.is_empty() {
            let names = quoted(&self.table.names());
            format!(
                "no column looks like the {what}; say which it is with {flag} NAME; the file has {names}"
            )
        } else {
            let list: Vec<String> = candidates.iter().take(8).map(describe).collect();
            format!(
                "more than one column could be the {what}; say which it is with {flag} NAME: {}",
                list.join("; ")
            )
        };
        Error::Columns {
            path: self.table.path().to_owned(),
            what,
        }
    }

    /// What was not used, and why it is nothing to learn from.
    fn left_out(&self, text: &str, label: &str) -> Option<String> {
        let used = |name: &str| {
            name == text || name == label || self.choice.group.as_deref() == Some(name)
        };
        let mut parts: Vec<String> = Vec::new();
        for name in self
            .table
            .names()
            .into_iter()
            .filter(|name| !used(name))
            .take(8)
        {
            let why = match self.profiles.iter().find(|profile| profile.name == name) {
                None => " (not text)",
                Some(profile) if profile.filled == 0 => " (empty)",
                Some(profile) if profile.filled > 1 && profile.distinct == profile.filled => {
                    " (different in every row)"
                }
                Some(profile) if profile.numeric => " (numbers)",
                Some(_) => "",
            };
            parts.push(format!("`{}`{why}", short(name)));
        }
        (!parts.is_empty()).then(|| format!("not used: {}", parts.join(", ")))
    }

    fn group_hint(&self, text: &str, label: &str) -> Option<String> {
        let repeats = |profile: &Profile| {
            profile.name != text
                && profile.name != label
                && profile.distinct > 1
                && profile.distinct < profile.filled
        };
        let name = &self.named(GROUP_NAMES, repeats).first()?.name;
        Some(format!(
            "if rows with the same `{name}` are alike, --group {name} keeps them on one side of every split"
        ))
    }
}

/// The column with the longest values, if it is the only one or they are twice as long as the next one's.
fn longest_by_far<'a>(profiles: &[&'a Profile]) -> Option<&'a Profile> {
    let longest = profiles
        .iter()
        .max_by(|a, b| a.characters.total_cmp(&b.characters))?;
    let clear = |other: &&Profile| {
        std::ptr::eq(*other, *longest) || longest.characters >= 2.0 * other.characters
    };
    profiles.iter().all(clear).then_some(*longest)
}
