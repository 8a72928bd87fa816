//! Memory that is used again from step to step: fresh memory costs a page fault every 4 KiB, and zeroing it before it is
//! written is a pass of one thread.
//!
//! A step of training needs the same arrays as the one before. An operation [`take`]s the memory of its result, writes all of
//! it, and [`gives back`](give_back) what it was handed and nobody else holds.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::storage::FlexTensor;

/// Shorter arrays come from the allocator: it keeps those at hand.
const SHORTEST: usize = 1 << 12;
/// Numbers that are kept at most: 1 GiB. What does not find room is given to the allocator, and comes back as pages to be zeroed:
/// with half as many the backward pass of a step of `bench/training.py` took 172 instead of 127 ms (classifier), 355 instead of
/// 274 (patches), after answers of other sizes; no step held more memory at its worst moment.
const MOST: usize = 1 << 28;

static SHELF: Mutex<Shelf> = Mutex::new(Shelf {
    sizes: BTreeMap::new(),
    numbers: 0,
    calls: 0,
});

struct Shelf {
    sizes: BTreeMap<usize, Size>,
    /// Of all arrays.
    numbers: usize,
    /// A clock.
    calls: u64,
}

/// The arrays of one size.
#[derive(Default)]
struct Size {
    arrays: Vec<Vec<f32>>,
    /// When one was last asked for.
    asked: u64,
}

impl Shelf {
    fn take(&mut self, size: usize) -> Option<Vec<f32>> {
        self.calls += 1;
        let of_size = self.sizes.entry(size).or_default();
        of_size.asked = self.calls;
        let array = of_size.arrays.pop()?;
        self.numbers -= size;
        Some(array)
    }

    fn keep(&mut self, size: usize, array: Vec<f32>) {
        while self.numbers + size > MOST {
            let full = self
                .sizes
                .iter_mut()
                .filter(|(_, of)| !of.arrays.is_empty());
            // What nobody has asked for the longest: batches of another length, or another model.
            let Some((size, oldest)) = full.min_by_key(|(_, of)| of.asked) else {
                return;
            };
            self.numbers -= size;
            oldest.arrays.pop();
        }
        self.numbers += size;
        self.sizes.entry(size).or_default().arrays.push(array);
    }
}

fn shelf() -> MutexGuard<'static, Shelf> {
    // Every change leaves it whole: a panic elsewhere does not matter.
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The size that serves arrays of that length: eight from one power of 2 to the next, so that at most a ninth is unused.
fn size_for(length: usize) -> usize {
    length.next_multiple_of((length.next_power_of_two() / 16).max(1))
}

/// So many numbers of any value, all of which the caller writes.
pub(super) fn take(length: usize) -> Vec<f32> {
    if length < SHORTEST {
        return vec![0.0; length];
    }
    let size = size_for(length);
    let kept = shelf().take(size);
    let mut array = kept.unwrap_or_else(|| vec![0.0; size]);
    array.truncate(length);
    array
}

/// As [`take`], all 0.
pub(super) fn zeros(length: usize) -> Vec<f32> {
    let mut array = take(length);
    array.fill(0.0);
    array
}

/// The memory of a tensor that nobody else holds, for the next [`take`]; of another one nothing.
pub(crate) fn give_back(tensor: FlexTensor) {
    let layout = tensor.layout();
    let length = layout.num_elements();
    let is_whole = tensor.is_contiguous()
        && layout.start_offset() == 0
        && length >= SHORTEST
        && tensor.dtype() == burn::tensor::DType::F32
        && tensor.bytes().len() == length * size_of::<f32>();
    if is_whole
        && tensor.is_unique()
        && let Ok(array) = tensor.into_data().try_into_vec::<f32>()
    {
        give_back_array(array);
    }
}

/// The same of an array.
pub(super) fn give_back_array(mut array: Vec<f32>) {
    let size = size_for(array.len());
    // Only what came from here has room for its whole size; the numbers between were written once, and are again.
    if array.len() >= SHORTEST && array.capacity() >= size {
        array.resize(size, 0.0);
        shelf().keep(size, array);
    }
}

#[cfg(test)]
mod tests {
    use super::super::storage::from_vec;
    use super::*;

    /// A length of its own: tests run beside others.
    const LENGTH: usize = 123_457;

    #[test]
    fn memory_given_back_is_taken_again_unless_somebody_holds_it() {
        let array = take(LENGTH);
        let place = array.as_ptr();
        let tensor = from_vec(array, vec![LENGTH]);
        let held = tensor.clone();
        give_back(tensor);
        let other = take(LENGTH);
        assert_ne!(other.as_ptr(), place, "somebody holds it");
        give_back(held);
        let again = take(LENGTH - 1);
        assert_eq!((again.as_ptr(), again.len()), (place, LENGTH - 1));
    }

    #[test]
    fn a_size_wastes_little() {
        for length in (SHORTEST..1 << 20).step_by(977) {
            let size = size_for(length);
            assert!(
                size >= length && size - length <= length / 8,
                "{length} {size}"
            );
            assert_eq!(size_for(size), size);
        }
    }

    #[test]
    fn what_was_not_asked_for_makes_room() {
        let mut shelf = Shelf {
            sizes: BTreeMap::new(),
            numbers: 0,
            calls: 0,
        };
        let (old, new) = (MOST / 2, MOST / 2 + 1);
        // No memory behind them: the shelf counts sizes.
        shelf.take(old);
        shelf.keep(old, Vec::new());
        shelf.take(new);
        shelf.keep(new, Vec::new());
        assert!(shelf.take(old).is_none());
        assert!(shelf.take(new).is_some());
        assert_eq!(shelf.numbers, 0);
    }
}
