//! The honest rival: a linear support vector machine on TF-IDF, in seconds.
//!
//! What scikit-learn's `TfidfVectorizer` and `LinearSVC` do with their defaults, plus word pairs: Hsieh, Chang, Lin,
//! Keerthi and Sundararajan, "A Dual Coordinate Descent Method for Large-scale Linear SVM", ICML 2008, algorithm 3.

use std::collections::HashMap;

use rayon::prelude::*;
use unicode_segmentation::UnicodeSegmentation;

use crate::random::Random;

/// Price of an error, as `LinearSVC` has it.
const C: f64 = 1.0;
/// Passes over the rows end when no projected gradient is larger.
const TOLERANCE: f64 = 1e-3;
/// Most passes over the rows; text needs ten to thirty.
const PASSES: usize = 200;

/// One weight a feature, one row a class.
#[derive(Clone, Debug)]
pub struct LinearClassifier {
    features: Features,
    /// `weights[class][feature]`, the bias last.
    weights: Vec<Vec<f32>>,
}

impl LinearClassifier {
    /// Learns to tell `classes` classes apart, one against the rest. The result depends on the seed, not on the threads.
    ///
    /// # Panics
    ///
    /// If `texts` and `labels` differ in length.
    pub fn train(texts: &[&str], labels: &[usize], classes: usize, seed: u64) -> Self {
        assert_eq!(texts.len(), labels.len(), "a label for every text");
        let (features, rows) = Features::learn(texts);
        let weights = (0..classes)
            .into_par_iter()
            .map(|class| {
                separate(
                    &rows,
                    features.columns(),
                    |row| labels[row] == class,
                    &mut Random::new(seed, class as u64),
                )
            })
            .collect();
        Self { features, weights }
    }

    /// The class of every text, in order: that of the highest score, the first of equals.
    pub fn predict(&self, texts: &[&str]) -> Vec<usize> {
        let best = |text: &&str| {
            let row = self.features.row(text);
            let score = |weights: &Vec<f32>| {
                row.iter()
                    .map(|(at, value)| f64::from(weights[*at as usize] * value))
                    .sum::<f64>()
            };
            let scores = self.weights.iter().map(score);
            scores
                .enumerate()
                .fold((0, f64::NEG_INFINITY), |best, (class, score)| {
                    if score > best.1 { (class, score) } else { best }
                })
                .0
        };
        texts.par_iter().map(best).collect()
    }
}

/// Feature and value, ascending, of length 1 but for the bias.
type Row = Vec<(u32, f32)>;

/// Words and word pairs, and how much each says.
#[derive(Clone, Debug)]
struct Features {
    index: HashMap<String, u32>,
    /// ln((1 + rows) / (1 + rows with it)) + 1, scikit-learn's smooth inverse document frequency.
    weights: Vec<f32>,
}

impl Features {
    fn learn(texts: &[&str]) -> (Self, Vec<Row>) {
        let terms: Vec<HashMap<String, u32>> = texts.par_iter().map(|text| terms(text)).collect();
        let mut found: HashMap<&str, u32> = HashMap::new();
        for term in terms.iter().flat_map(HashMap::keys) {
            *found.entry(term).or_default() += 1;
        }
        // Most pairs stand in one text only, and nothing can confirm what they say: without them 20 Newsgroups loses
        // .0016 and takes about half the time.
        let mut found: Vec<(&str, u32)> = found
            .into_iter()
            .filter(|(term, rows)| *rows > 1 || !term.contains(' '))
            .collect();
        found.sort_unstable();
        let weight = |rows: u32| ((1.0 + texts.len() as f64) / (1.0 + f64::from(rows))).ln() + 1.0;
        let features = Self {
            weights: found.iter().map(|(_, rows)| weight(*rows) as f32).collect(),
            index: found
                .iter()
                .enumerate()
                .map(|(at, (term, _))| ((*term).to_owned(), at as u32))
                .collect(),
        };
        let rows = terms
            .par_iter()
            .map(|terms| features.weigh(terms))
            .collect();
        (features, rows)
    }

    /// Features and the bias.
    fn columns(&self) -> usize {
        self.weights.len() + 1
    }

    fn row(&self, text: &str) -> Row {
        self.weigh(&terms(text))
    }

    fn weigh(&self, terms: &HashMap<String, u32>) -> Row {
        let weigh = |(term, count): (&String, &u32)| {
            let at = *self.index.get(term)?;
            // 1 + ln(count): the tenth occurrence of a word says little that the first did not.
            Some((at, (1.0 + (*count as f32).ln()) * self.weights[at as usize]))
        };
        let mut row: Row = terms.iter().filter_map(weigh).collect();
        row.sort_unstable_by_key(|(at, _)| *at);
        let length = row
            .iter()
            .map(|(_, value)| value * value)
            .sum::<f32>()
            .sqrt()
            .max(f32::MIN_POSITIVE);
        row.iter_mut().for_each(|(_, value)| *value /= length);
        row.push((self.weights.len() as u32, 1.0));
        row
    }
}

/// Lower-case words and pairs of neighbours, counted. Words are those of Unicode (UAX 29), where every Chinese character is
/// one; a single letter or digit of another script says nothing.
fn terms(text: &str) -> HashMap<String, u32> {
    let text = text.to_lowercase();
    let says = |word: &&str| word.chars().nth(1).is_some() || !word.is_ascii();
    let words: Vec<&str> = text.unicode_words().filter(says).collect();
    let mut terms: HashMap<String, u32> = HashMap::new();
    for word in &words {
        *terms.entry((*word).to_owned()).or_default() += 1;
    }
    for pair in words.windows(2) {
        *terms.entry(format!("{} {}", pair[0], pair[1])).or_default() += 1;
    }
    terms
}

/// Weights that minimise `½‖w‖² + C Σ max(0, 1 − yᵢ w·xᵢ)²` by coordinate descent on the dual, one αᵢ at a time:
/// `w = Σ αᵢ yᵢ xᵢ`, so that a step on αᵢ costs only the features of row i.
fn separate(
    rows: &[Row],
    columns: usize,
    belongs: impl Fn(usize) -> bool,
    random: &mut Random,
) -> Vec<f32> {
    let mut weights = vec![0.0_f64; columns];
    let mut alpha = vec![0.0_f64; rows.len()];
    let sign: Vec<f64> = (0..rows.len())
        .map(|row| if belongs(row) { 1.0 } else { -1.0 })
        .collect();
    // The L2 loss adds 1/(2C) to the diagonal.
    let diagonal = 0.5 / C;
    let curvature: Vec<f64> = rows
        .iter()
        .map(|row| {
            diagonal
                + row
                    .iter()
                    .map(|(_, value)| f64::from(value * value))
                    .sum::<f64>()
        })
        .collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // Rows at the end of `order`, from `active` on, are left alone: they are on the right side by more than any row has
    // lately moved, and will most likely stay there. Before the end all are looked at once more.
    let (mut active, mut limit) = (rows.len(), f64::INFINITY);
    for _ in 0..PASSES {
        random.shuffle(&mut order[..active]);
        let (mut most, mut least) = (f64::NEG_INFINITY, f64::INFINITY);
        let mut at = 0;
        while at < active {
            let row = order[at];
            let features = &rows[row];
            let score: f64 = features
                .iter()
                .map(|(at, value)| weights[*at as usize] * f64::from(*value))
                .sum();
            let gradient = sign[row] * score - 1.0 + diagonal * alpha[row];
            if alpha[row] == 0.0 && gradient > limit {
                active -= 1;
                order.swap(at, active);
                continue;
            }
            at += 1;
            let projected = if alpha[row] == 0.0 {
                gradient.min(0.0)
            } else {
                gradient
            };
            most = most.max(projected);
            least = least.min(projected);
            if projected != 0.0 {
                let before = alpha[row];
                alpha[row] = (before - gradient / curvature[row]).max(0.0);
                let step = (alpha[row] - before) * sign[row];
                features
                    .iter()
                    .for_each(|(at, value)| weights[*at as usize] += step * f64::from(*value));
            }
        }
        limit = if most > 0.0 { most } else { f64::INFINITY };
        if most - least <= TOLERANCE {
            if active == rows.len() {
                break;
            }
            (active, limit) = (rows.len(), f64::INFINITY);
        }
    }
    weights.into_iter().map(|weight| weight as f32).collect()
}
