//! The rows of a run, split into what is learned from, what is stopped on and what is scored.

use std::collections::BTreeMap;

use super::TrainRequest;
use super::data::{self, Examples, Rows};
use super::plan::Plan;
use crate::columns::Columns;
use crate::linear::LinearClassifier;
use crate::report::DataFacts;
use crate::splits;
use crate::tokenizer::{Encoded, TextTokenizer};
use crate::trainer::{Event, Listener};
use crate::{Error, Result};

/// Labelled texts of one purpose.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// What the rows are, in words.
    pub(super) name: String,
    pub(super) rows: Vec<String>,
    /// Index into the corpus's labels; those of the test part may lie beyond what the model knows.
    pub(super) labels: Vec<usize>,
}

/// Everything a run reads.
#[derive(Clone, Debug)]
pub(super) struct Corpus {
    /// Labels of the training part, in alphabetical order.
    pub(super) labels: Vec<String>,
    /// Labels that only the test part has: no model can answer them.
    pub(super) unseen: Vec<String>,
    pub(super) train: Part,
    pub(super) validation: Part,
    pub(super) test: Option<Part>,
    facts: DataFacts,
}

/// Share of the rows held out when no validation file is given.
const VALIDATION_SHARE: f64 = 0.1;

impl Corpus {
    /// Reads the files of the request and splits off a validation part if none is given.
    pub(super) fn read(request: &TrainRequest, listener: &mut dyn Listener) -> Result<Self> {
        let (rows, columns) = data::read(&request.data, &request.columns)?;
        for reason in &columns.reasons {
            listener.hear(&Event::Said(reason.clone()));
        }
        let more = |path| -> Result<Rows> {
            let mut rows = Rows::default();
            rows.add(
                &crate::tables::Table::read(path)?,
                &Columns {
                    group: None,
                    ..columns.clone()
                },
            )?;
            Ok(rows)
        };
        let validation = request.validation.as_deref().map(more).transpose()?;
        let test = request.test.as_deref().map(more).transpose()?;
        let mut files = rows.files.clone();
        let mut skipped = rows.skipped.clone();
        for more in validation.iter().chain(&test) {
            files.extend(more.files.iter().cloned());
            skipped.extend(more.skipped.iter().cloned());
        }
        for line in &skipped {
            listener.hear(&Event::Warned(line.clone()));
        }
        let labels = labels_of(&rows, &columns)?;
        let index: BTreeMap<&str, usize> = labels
            .iter()
            .enumerate()
            .map(|(at, label)| (label.as_str(), at))
            .collect();
        let mut unseen = Vec::new();
        let test = test.map(|test| {
            let labels = test
                .labels
                .iter()
                .map(|label| known_or_unseen(label, &index, labels.len(), &mut unseen));
            let labels = labels.collect();
            Part {
                name: format!("the {} rows of {}", test.texts.len(), test.files[0].name),
                rows: test.texts,
                labels,
            }
        });
        for label in &unseen {
            let rows = test
                .iter()
                .flat_map(|test| &test.labels)
                .filter(|at| **at >= labels.len())
                .count();
            listener.hear(&Event::Warned(format!(
                "the label `{label}` is in the test file only: the model cannot answer it, and the {rows} test rows with \
                 such labels count as wrong"
            )));
        }
        let indexes: Vec<usize> = rows
            .labels
            .iter()
            .map(|label| index[label.as_str()])
            .collect();
        let (train, validation) = match validation {
            Some(validation) => {
                let found = validation.labels.iter().map(|label| {
                    index.get(label.as_str()).copied().ok_or_else(|| {
                        Error::argument(
                            "--validation",
                            format!("the label `{label}`"),
                            "labels of the training file only",
                        )
                    })
                });
                let labels = found.collect::<Result<Vec<_>>>()?;
                let name = format!(
                    "the {} rows of {}",
                    validation.texts.len(),
                    validation.files[0].name
                );
                let train = Part {
                    name: "the training rows".to_owned(),
                    rows: rows.texts,
                    labels: indexes,
                };
                (
                    train,
                    Part {
                        name,
                        rows: validation.texts,
                        labels,
                    },
                )
            }
            None => split(&rows, &indexes, request)?,
        };
        let mut counts = vec![0; labels.len()];
        train.labels.iter().for_each(|label| counts[*label] += 1);
        let facts = DataFacts {
            files,
            text_column: columns.text.clone(),
            label_column: columns.label.clone(),
            group_column: columns.group.clone(),
            train_rows: train.rows.len(),
            validation_rows: validation.rows.len(),
            test_rows: test.as_ref().map_or(0, |test: &Part| test.rows.len()),
            labels: labels.iter().cloned().zip(counts).collect(),
            skipped,
            truncated_texts: 0,
        };
        let most = facts
            .labels
            .iter()
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(0);
        listener.hear(&Event::Said(format!(
            "{} rows to learn from and {} to validate on, {} labels, the most frequent {:.1} % of them",
            train.rows.len(),
            validation.rows.len(),
            labels.len(),
            100.0 * most as f64 / train.rows.len() as f64
        )));
        Ok(Self {
            labels,
            unseen,
            train,
            validation,
            test,
            facts,
        })
    }

    /// The facts of the data for the report.
    pub(super) fn facts(&self, truncated_texts: usize) -> DataFacts {
        DataFacts {
            truncated_texts,
            ..self.facts.clone()
        }
    }

    /// Label names by index, unseen ones last.
    pub(super) fn all_labels(&self) -> Vec<String> {
        self.labels.iter().chain(&self.unseen).cloned().collect()
    }

    /// What a linear SVM, trained on the training rows, says about `part`.
    pub(super) fn linear(&self, part: &Part, seed: u64) -> Vec<usize> {
        let texts: Vec<&str> = self.train.texts().collect();
        let linear = LinearClassifier::train(&texts, &self.train.labels, self.labels.len(), seed);
        linear.predict(&part.texts().collect::<Vec<_>>())
    }
}

impl Part {
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(String::as_str)
    }

    /// Token ids as the plan's model reads them.
    pub(super) fn encode(&self, tokenizer: &TextTokenizer, plan: &Plan) -> Result<Examples> {
        let texts: Vec<&str> = self.texts().collect();
        Examples::encode(
            tokenizer,
            &texts,
            &self.labels,
            plan.model.max_tokens,
            plan.model.bigram_buckets,
        )
    }

    /// Every token of every text, to choose a limit from.
    pub(super) fn encode_whole(&self, tokenizer: &TextTokenizer) -> Result<Vec<Encoded>> {
        tokenizer.encode_all(&self.texts().collect::<Vec<_>>())
    }
}

fn labels_of(rows: &Rows, columns: &Columns) -> Result<Vec<String>> {
    let labels: std::collections::BTreeSet<&str> = rows.labels.iter().map(String::as_str).collect();
    if labels.len() < 2 {
        let found = match labels.first() {
            Some(label) => format!(
                "only the label `{label}`, on all {} rows",
                rows.labels.len()
            ),
            None => "no row with a text and a label".to_owned(),
        };
        return Err(Error::argument(
            "--data",
            format!("{found} (column `{}`)", columns.label),
            "at least two labels",
        ));
    }
    Ok(labels.into_iter().map(str::to_owned).collect())
}

fn known_or_unseen(
    label: &str,
    index: &BTreeMap<&str, usize>,
    known: usize,
    unseen: &mut Vec<String>,
) -> usize {
    if let Some(at) = index.get(label) {
        return *at;
    }
    let at = unseen
        .iter()
        .position(|other| other == label)
        .unwrap_or_else(|| {
            unseen.push(label.to_owned());
            unseen.len() - 1
        });
    known + at
}

fn split(rows: &Rows, labels: &[usize], request: &TrainRequest) -> Result<(Part, Part)> {
    let texts: Vec<&str> = rows.texts.iter().map(String::as_str).collect();
    let groups: Vec<&str> = rows.groups.iter().map(String::as_str).collect();
    let groups = (!groups.is_empty()).then_some(groups.as_slice());
    let share = request
        .settings
        .validation_share
        .unwrap_or(VALIDATION_SHARE);
    let split = splits::hold_out(&texts, labels, groups, share, request.seed);
    for (part, what) in [
        (&split.train, "learn from"),
        (&split.held_out, "validate on"),
    ] {
        if part.is_empty() {
            return Err(Error::argument(
                "--data",
                format!("{} rows, which leaves none to {what}", rows.texts.len()),
                "more rows, more groups, or a file with --validation",
            ));
        }
    }
    let take = |name: String, part: &[usize]| Part {
        name,
        rows: part.iter().map(|row| rows.texts[*row].clone()).collect(),
        labels: part.iter().map(|row| labels[*row]).collect(),
    };
    let name = format!(
        "{} held-out rows that training stopped on",
        split.held_out.len()
    );
    Ok((
        take("the training rows".to_owned(), &split.train),
        take(name, &split.held_out),
    ))
}
