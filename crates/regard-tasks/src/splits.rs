//! Which rows are learned from and which are held out.

use std::collections::HashMap;

use crate::random::stable_hash;

/// Row numbers of the two parts, each ascending; every row is in exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows to learn from.
    pub train: Vec<usize>,
    /// Rows to score on.
    pub held_out: Vec<usize>,
}

/// Holds out about `fraction` of the rows of every label.
///
/// Rows of one group, or with the same text but for space around it, stay together: a model is never scored on what it
/// has seen. What goes where depends on the texts and the seed only (by hash), not on the order of the rows. A label
/// stays in the training part if it can.
///
/// With one group, or one text, nothing can be held out.
///
/// # Panics
///
/// If `texts`, `labels` and `groups` differ in length.
pub fn hold_out(
    texts: &[&str],
    labels: &[usize],
    groups: Option<&[&str]>,
    fraction: f64,
    seed: u64,
) -> Split {
    assert_eq!(texts.len(), labels.len(), "a label for every text");
    assert!(
        groups.is_none_or(|groups| groups.len() == texts.len()),
        "a group for every text"
    );
    let mut blocks = blocks(texts, groups);
    // The order of rows must not matter, so a block is known by the smallest hash of its texts.
    let key = |block: &Vec<usize>| {
        block
            .iter()
            .map(|row| (stable_hash(seed, texts[*row].trim()), texts[*row].trim()))
            .min()
    };
    blocks.sort_by_cached_key(key);

    let classes = labels.iter().max().map_or(0, |most| most + 1);
    let mut totals = vec![0_usize; classes];
    labels.iter().for_each(|label| totals[*label] += 1);
    let targets: Vec<f64> = totals
        .iter()
        .map(|total| fraction * *total as f64)
        .collect();
    let mut held = vec![0_usize; classes];
    let mut is_held = vec![false; texts.len()];
    for block in &blocks {
        let counts = counts(block, labels);
        let fits = counts
            .iter()
            .all(|(label, count)| held[*label] + count < totals[*label]);
        if fits && farther(&counts, &held, &targets) < 0.0 {
            counts
                .iter()
                .for_each(|(label, count)| held[*label] += count);
            block.iter().for_each(|row| is_held[*row] = true);
        }
    }
    // A few large blocks may all overshoot: better too much than nothing to score on, the least too much first.
    if blocks.len() > 1 && fraction > 0.0 && !is_held.contains(&true) {
        let cost = |block: &&Vec<usize>| {
            let counts = counts(block, labels);
            let lost = counts
                .iter()
                .filter(|(label, count)| *count == totals[*label])
                .count();
            (lost, farther(&counts, &held, &targets))
        };
        let least = blocks.iter().min_by(|a, b| {
            let (a, b) = (cost(a), cost(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        least
            .into_iter()
            .flatten()
            .for_each(|row| is_held[*row] = true);
    }
    let (held_out, train) = (0..texts.len()).partition(|row| is_held[*row]);
    Split { train, held_out }
}

/// By how many rows the held-out part moves away from its targets with this block in it; negative is nearer.
fn farther(counts: &[(usize, usize)], held: &[usize], targets: &[f64]) -> f64 {
    let change = |(label, count): &(usize, usize)| {
        let (held, target) = (held[*label] as f64, targets[*label]);
        (held + *count as f64 - target).abs() - (held - target).abs()
    };
    counts.iter().map(change).sum()
}

/// How many rows of each label a block has, by label.
fn counts(block: &[usize], labels: &[usize]) -> Vec<(usize, usize)> {
    let mut sorted: Vec<usize> = block.iter().map(|row| labels[*row]).collect();
    sorted.sort_unstable();
    sorted
        .chunk_by(|a, b| a == b)
        .map(|same| (same[0], same.len()))
        .collect()
}

/// Rows that belong together: connected by a group or a text they share.
fn blocks(texts: &[&str], groups: Option<&[&str]>) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..texts.len()).collect();
    fn root(parent: &mut [usize], mut row: usize) -> usize {
        while parent[row] != row {
            parent[row] = parent[parent[row]];
            row = parent[row];
        }
        row
    }
    let mut join = |keys: &mut dyn Iterator<Item = &str>| {
        let mut first: HashMap<String, usize> = HashMap::new();
        for (row, key) in keys.enumerate() {
            let before = *first.entry(key.to_owned()).or_insert(row);
            let (a, b) = (root(&mut parent, before), root(&mut parent, row));
            // The smaller row is the root, so that blocks come out the same every time.
            parent[a.max(b)] = a.min(b);
        }
    };
    join(&mut texts.iter().map(|text| text.trim()));
    if let Some(groups) = groups {
        join(&mut groups.iter().copied());
    }
    let mut blocks: Vec<Vec<usize>> = vec![Vec::new(); texts.len()];
    for row in 0..texts.len() {
        blocks[root(&mut parent, row)].push(row);
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}
