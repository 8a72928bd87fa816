//! Rows of similar length together.

/// Groups rows into batches of similar length: at most `max_rows` rows and `max_tokens` tokens, padding included.
/// `order` is the order in which rows are drawn; neighbours within a window of it are sorted by length, so that batches
/// differ from epoch to epoch but pad little.
pub(crate) fn batches(
    lengths: &[usize],
    order: &[usize],
    max_rows: usize,
    max_tokens: usize,
) -> Vec<Vec<usize>> {
    /// Batches that are sorted together: at 32, less than 5 % of what is computed on Reuters R8 is padding.
    const WINDOW: usize = 32;
    let mut batches = Vec::new();
    for window in order.chunks(max_rows * WINDOW) {
        let mut window = window.to_vec();
        window.sort_by_key(|row| lengths[*row]);
        let mut batch: Vec<usize> = Vec::new();
        for row in window {
            // Sorted: the row at hand is the longest of its batch.
            if batch.len() == max_rows
                || (!batch.is_empty() && (batch.len() + 1) * lengths[row] > max_tokens)
            {
                batches.push(std::mem::take(&mut batch));
            }
            batch.push(row);
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_exactly_one_batch_and_no_batch_is_too_large() {
        let lengths: Vec<usize> = (0..1000).map(|row| row * 7919 % 301 + 1).collect();
        let order: Vec<usize> = (0..1000).rev().collect();
        let batches = batches(&lengths, &order, 16, 2000);
        let mut seen: Vec<usize> = batches.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        for batch in &batches {
            let longest = batch.iter().map(|row| lengths[*row]).max().unwrap();
            assert!(batch.len() <= 16 && batch.len() * longest <= 2000);
        }
    }

    #[test]
    fn a_row_longer_than_a_batch_is_a_batch_of_its_own() {
        assert_eq!(
            batches(&[5000, 10], &[0, 1], 16, 2000),
            vec![vec![1], vec![0]]
        );
    }
}
