//! The settings of a training run from a file and from `--set key=value`; the later wins.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::failure::Usage;

/// The settings of a task: every one of them may be left out.
pub(crate) trait Settings: Default + Serialize + DeserializeOwned {}

impl<S: Default + Serialize + DeserializeOwned> Settings for S {}

/// Reads the settings of a TOML file, if one is given, and then of each `key=value`.
pub(crate) fn read<S: Settings>(file: Option<&Path>, pairs: &[String]) -> anyhow::Result<S> {
    let mut table = match file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("--config: cannot read {}", path.display()))?;
            let table: Table = text.parse().map_err(|error: toml::de::Error| {
                Usage::new(format!(
                    "--config {}: {}",
                    path.display(),
                    error.to_string().trim_end()
                ))
            })?;
            for (key, value) in &table {
                check::<S>(&format!("--config {}, {key}", path.display()), key, value)?;
            }
            table
        }
        None => Table::new(),
    };
    for pair in pairs {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Usage::new(format!("--set {pair}: no `=` found"))
                .help("write it as `--set key=value`, for example `--set width=64`")
        })?;
        let (key, value) = (key.trim(), value.trim());
        let value = parsed(value);
        check::<S>(&format!("--set {pair}"), key, &value)?;
        table.insert(key.to_owned(), value);
    }
    Ok(table.try_into()?)
}

/// A number, a truth value or a list as TOML writes it; everything else is text.
fn parsed(text: &str) -> Value {
    let table = format!("value = {text}").parse::<Table>();
    table
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Checks one setting alone, so that the message can name where it came from.
fn check<S: Settings>(place: &str, key: &str, value: &Value) -> Result<(), Usage> {
    let known = names::<S>();
    if !known.iter().any(|name| name == key) {
        let nearest = known
            .iter()
            .min_by_key(|name| distance(name, key))
            .filter(|name| distance(name, key) <= 3);
        let nearest = nearest
            .map(|name| format!("; did you mean `{name}`?"))
            .unwrap_or_default();
        return Err(Usage::new(format!("{place}: no setting `{key}`{nearest}"))
            .help(format!("the settings are {}", known.join(", "))));
    }
    let alone = Table::from_iter([(key.to_owned(), value.clone())]);
    match alone.try_into::<S>() {
        Ok(_) => Ok(()),
        Err(error) => {
            // The names of Rust's types mean nothing to who writes a setting.
            let message = error
                .message()
                .trim_end()
                .replace("usize", "a whole number")
                .replace("u64", "a whole number");
            Err(Usage::new(format!(
                "{place}: {}",
                message.replace("f64", "a number")
            )))
        }
    }
}

/// The names of all settings, as they are written.
fn names<S: Settings>() -> Vec<String> {
    match serde_json::to_value(S::default()) {
        Ok(serde_json::Value::Object(settings)) => settings.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Letters to insert, delete or replace to turn one name into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::read;
    use regard_tasks::text_classification::{ModelKind, Settings};
    use std::io::Write;

    fn set(pairs: &[&str]) -> anyhow::Result<Settings> {
        read(
            None,
            &pairs
                .iter()
                .map(|pair| (*pair).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_later_value_wins_over_an_earlier_one_and_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        writeln!(file, "width = 32\ndropout = 0.1\nmodel = \"mean\"").expect("it can be written");
        let pairs = [
            "width=64".to_owned(),
            "width = 96".to_owned(),
            "model=pooling".to_owned(),
        ];
        let settings: Settings = read(Some(file.path()), &pairs).expect("they are right");
        assert_eq!(settings.width, Some(96));
        assert_eq!(settings.dropout, Some(0.1));
        assert_eq!(settings.model, ModelKind::Pooling);
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let wrong = [
            ["widht=64"],
            ["width=many"],
            ["width=-1"],
            ["model=huge"],
            ["width"],
            ["zzzzzzzzzz=1"],
        ];
        let messages = wrong.map(|pairs| set(&pairs).expect_err("it is wrong").to_string());
        insta::assert_snapshot!(messages.join("\n"), @r#"
        --set widht=64: no setting `widht`; did you mean `width`?
        --set width=many: invalid type: string "many", expected a whole number
        --set width=-1: invalid value: integer `-1`, expected a whole number
        --set model=huge: unknown variant `huge`, expected one of `auto`, `mean`, `pooling`, `transformer`
        --set width: no `=` found
        --set zzzzzzzzzz=1: no setting `zzzzzzzzzz`
        "#);
    }
}
