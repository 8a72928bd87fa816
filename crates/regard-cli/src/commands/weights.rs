use clap::{Args, ValueEnum};
use ndarray::{Array1, Array2, Axis};
use regard_kernels::{attention_weights, weighted_sum};
use serde::Serialize;

use crate::failure::Usage;
use crate::input::vectors;
use crate::terminal::{Table, bar, heading, note, print};

/// The textbook by hand: scores, weights and weighted sum of vectors you type.
///
/// Each query is compared with every key; the softmax of the scores are the weights, which sum to 1:
/// a_i = exp(s_i) / (exp(s_1) + … + exp(s_n)). The output is the weighted sum of the values.
#[derive(Debug, Args)]
#[command(
    after_help = "Vectors: numbers separated by commas, vectors by semicolons (\"1,0;0.5,-2\"); \
                        `@FILE` or `-` (standard input) for a vector a line.\n\n\
                        Example:\n  regard weights --queries \"1,0\" --keys \"1,2;0,1\" --values \"10;20\""
)]
pub(crate) struct Weights {
    /// What is looked for: one or more vectors.
    #[arg(long, short, value_name = "VECTORS", allow_hyphen_values = true)]
    queries: String,
    /// What it is compared with: one or more vectors.
    #[arg(long, short, value_name = "VECTORS", allow_hyphen_values = true)]
    keys: String,
    /// What is summed, one vector a key; the keys themselves when left out.
    #[arg(long, short, value_name = "VECTORS", allow_hyphen_values = true)]
    values: Option<String>,
    /// How a query u and a key v are compared.
    #[arg(long, short, value_enum, default_value_t = Score::Dot)]
    score: Score,
    /// W of `general`: a row for each number of a query, a column for each number of a key.
    #[arg(long, value_name = "MATRIX", allow_hyphen_values = true)]
    w: Option<String>,
    /// W₁ of `additive`: a column for each number of a query [default: the identity].
    #[arg(long, value_name = "MATRIX", allow_hyphen_values = true)]
    w_query: Option<String>,
    /// W₂ of `additive`: a column for each number of a key [default: the identity].
    #[arg(long, value_name = "MATRIX", allow_hyphen_values = true)]
    w_key: Option<String>,
    /// c of `additive`: a number for each row of W₁ [default: ones].
    #[arg(long, value_name = "VECTOR", allow_hyphen_values = true)]
    c: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Score {
    /// ⟨u, v⟩
    Dot,
    /// ⟨u, v⟩ / √n, n the length of u
    Scaled,
    /// uᵀ W v (Luong)
    General,
    /// ⟨c, tanh(W₁u + W₂v)⟩ (Bahdanau)
    Additive,
    /// ⟨u, v⟩ / (|u| |v|)
    Cosine,
}

/// Everything that `--json` prints; matrices are lists of rows.
#[derive(Serialize)]
struct Answer {
    score: Score,
    queries: Vec<Vec<f32>>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    scores: Vec<Vec<f32>>,
    weights: Vec<Vec<f32>>,
    weighted_sums: Vec<Vec<f32>>,
}

impl Weights {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let arguments = [
            Some(&self.queries),
            Some(&self.keys),
            self.values.as_ref(),
            self.w.as_ref(),
        ];
        let more = [self.w_query.as_ref(), self.w_key.as_ref(), self.c.as_ref()];
        if arguments
            .into_iter()
            .chain(more)
            .flatten()
            .filter(|argument| *argument == "-")
            .count()
            > 1
        {
            return Err(
                Usage::new("only one argument can be `-`: standard input is read once").into(),
            );
        }
        let queries = vectors("--queries", &self.queries)?;
        let keys = vectors("--keys", &self.keys)?;
        let values = match &self.values {
            Some(values) => vectors("--values", values)?,
            None => keys.clone(),
        };
        if values.nrows() != keys.nrows() {
            let (found, expected) = (values.nrows(), keys.nrows());
            return Err(Usage::new(format!(
                "--values: {found} vectors, expected {expected}, one for each key"
            ))
            .into());
        }
        let scores = self.scores(&queries, &keys)?;
        if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
            anyhow::bail!("a score is {score}: the numbers are too large for 32-bit floats");
        }
        // The softmax of any scores is that of their dot products with the unit vectors.
        let weights = attention_weights(scores.view(), Array2::eye(keys.nrows()).view())?;
        let sums = weighted_sum(weights.view(), values.view())?;
        if self.json {
            let rows = |of: &Array2<f32>| of.rows().into_iter().map(|row| row.to_vec()).collect();
            let answer = Answer {
                score: self.score,
                queries: rows(&queries),
                keys: rows(&keys),
                values: rows(&values),
                scores: rows(&scores),
                weights: rows(&weights),
                weighted_sums: rows(&sums),
            };
            return Ok(print(&(serde_json::to_string(&answer)? + "\n"))?);
        }
        let mut text = String::new();
        for (index, query) in queries.rows().into_iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            text += &heading(&format!("query {} = {}", index + 1, vector(query.iter())));
            text.push('\n');
            let value = if self.values.is_some() { "value" } else { "" };
            let mut table = Table::new(["key", ">score", ">weight", "", value]);
            for (key, vector_of_key) in keys.rows().into_iter().enumerate() {
                let weight = weights[[index, key]];
                let value = if self.values.is_some() {
                    vector(values.row(key).iter())
                } else {
                    String::new()
                };
                let share = bar(f64::from(weight), 24);
                table.row([
                    vector(vector_of_key.iter()),
                    number(scores[[index, key]]),
                    number(weight),
                    share,
                    value,
                ]);
            }
            text += &table.render();
            let of = if self.values.is_some() {
                "values"
            } else {
                "keys"
            };
            let sum: Vec<String> = sums.row(index).iter().map(|value| number(*value)).collect();
            text += &format!("  weighted sum of the {of} = ({})\n", sum.join(", "));
        }
        print(&text)?;
        if keys.nrows() == 1 {
            note(
                "with a single key the weight is 1, whatever the score: exp(s) / exp(s) = 1.\n      \
                 The softmax shares 1 out among the keys, and here there is nobody to share with.",
            );
        }
        Ok(())
    }

    /// `[queries, keys]`.
    fn scores(&self, queries: &Array2<f32>, keys: &Array2<f32>) -> anyhow::Result<Array2<f32>> {
        for (name, given, owner) in [
            ("--w", &self.w, Score::General),
            ("--w-query", &self.w_query, Score::Additive),
            ("--w-key", &self.w_key, Score::Additive),
            ("--c", &self.c, Score::Additive),
        ] {
            if given.is_some() && self.score != owner {
                let owner = format!("{owner:?}").to_lowercase();
                return Err(
                    Usage::new(format!("{name} is a parameter of `--score {owner}` only")).into(),
                );
            }
        }
        let [n, m] = [queries.ncols(), keys.ncols()];
        if n != m && !matches!(self.score, Score::General | Score::Additive) {
            return Err(Usage::new(format!(
                "--keys: vectors have {m} numbers, expected {n} as in --queries"
            ))
            .help("`--score general` and `--score additive` compare vectors of different length")
            .into());
        }
        Ok(match self.score {
            Score::Dot => queries.dot(&keys.t()),
            Score::Scaled => queries.dot(&keys.t()) / (n as f32).sqrt(),
            Score::General => {
                let Some(w) = &self.w else {
                    return Err(Usage::new(format!(
                        "--score general needs --w, a matrix with {n} rows (the length of a query) and {m} columns \
                         (that of a key)"
                    ))
                    .into());
                };
                let w = matrix("--w", w, Some(n), m)?;
                queries.dot(&w).dot(&keys.t())
            }
            Score::Additive => self.additive(queries, keys)?,
            Score::Cosine => unit("--queries", queries)?.dot(&unit("--keys", keys)?.t()),
        })
    }

    fn additive(&self, queries: &Array2<f32>, keys: &Array2<f32>) -> anyhow::Result<Array2<f32>> {
        let [n, m] = [queries.ncols(), keys.ncols()];
        let w_query = match &self.w_query {
            Some(w) => matrix("--w-query", w, None, n)?,
            None => Array2::eye(n),
        };
        let hidden = w_query.nrows();
        let w_key = match &self.w_key {
            Some(w) => matrix("--w-key", w, Some(hidden), m)?,
            None if hidden == m => Array2::eye(m),
            None => {
                return Err(Usage::new(format!(
                    "--score additive needs --w-key here, a matrix with {hidden} rows and {m} columns: the identity \
                     does not fit"
                ))
                .into());
            }
        };
        let c = match &self.c {
            Some(c) => matrix("--c", c, Some(1), hidden)?.row(0).to_owned(),
            None => Array1::ones(hidden),
        };
        let (queries, keys) = (queries.dot(&w_query.t()), keys.dot(&w_key.t()));
        Ok(Array2::from_shape_fn(
            (queries.nrows(), keys.nrows()),
            |(query, key)| {
                (&queries.row(query) + &keys.row(key))
                    .mapv(f32::tanh)
                    .dot(&c)
            },
        ))
    }
}

/// Reads a matrix and checks its shape.
fn matrix(
    name: &str,
    argument: &str,
    rows: Option<usize>,
    columns: usize,
) -> anyhow::Result<Array2<f32>> {
    let matrix = vectors(name, argument)?;
    let rows = rows.unwrap_or(matrix.nrows());
    if matrix.dim() != (rows, columns) {
        let (found_rows, found_columns) = matrix.dim();
        return Err(Usage::new(format!(
            "{name}: {found_rows} rows of {found_columns} numbers, expected {rows} rows of {columns}"
        ))
        .into());
    }
    Ok(matrix)
}

/// The vectors, each divided by its length.
fn unit(name: &str, vectors: &Array2<f32>) -> anyhow::Result<Array2<f32>> {
    let mut unit = vectors.clone();
    for (index, mut vector) in unit.axis_iter_mut(Axis(0)).enumerate() {
        let length = vector.dot(&vector).sqrt();
        if length == 0.0 {
            let index = index + 1;
            return Err(Usage::new(format!(
                "{name}: vector {index} is zero, its angle to another is not defined"
            ))
            .into());
        }
        vector /= length;
    }
    Ok(unit)
}

fn vector<'a>(numbers: impl Iterator<Item = &'a f32>) -> String {
    let numbers: Vec<String> = numbers.map(f32::to_string).collect();
    format!("({})", numbers.join(", "))
}

/// Four decimals; very large or very small numbers in powers of ten.
fn number(value: f32) -> String {
    match value.abs() {
        0.0 => "0.0000".to_owned(),
        1e-4..1e6 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}
