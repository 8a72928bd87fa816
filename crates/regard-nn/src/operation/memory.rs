//! Memory that is used again from step to step: fresh memory costs a page fault every 4 KiB, and zeroing it before it is
//! written is a pass of one thread.
//!
//! A step of training needs the same arrays as the one before, and a step of writing a text shorter ones whenever a text has
//! ended. An operation [`take`]s the memory of its result, writes all of it, and [`gives back`](give_back) what it was handed
//! and nobody else holds.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::storage::{FlexTensor, contiguous, elements};

/// Shorter arrays come from the allocator: it keeps those at hand.
const SHORTEST: usize = 1 << 12;
/// Numbers that are kept at most: 1 GiB. What does not find room is given to the allocator, and comes back as pages to be zeroed:
/// with half as many the backward pass of a step of `bench/training.py` took 172 instead of 127 ms (classifier), 355 instead of
/// 274 (patches), after answers of other sizes; no step held more memory at its worst moment.
const MOST: usize = 1 << 28;
/// Up to so many numbers, 512 KiB, the allocator lays arrays of a size side by side, and one that is kept holds all of their
/// memory; longer ones have memory of their own. …
const SIDE_BY_SIDE: usize = 1 << 17;
/// … So up to there an array serves down to a half of what it has room for: writing 400 texts, where every text that ends makes
/// the arrays shorter, takes 155 MiB instead of 188. …
const SPARE: usize = 2;
/// … A longer one may have an eighth of its size to spare.
const SPARE_OF_LONG: usize = 8;

static SHELF: Mutex<Shelf> = Mutex::new(Shelf {
    sizes: BTreeMap::new(),
    numbers: 0,
    calls: 0,
});

struct Shelf {
    /// By the room there is.
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

impl Size {
    fn pop(&mut self, now: u64) -> Option<Vec<f32>> {
        let array = self.arrays.pop()?;
        self.asked = now;
        Some(array)
    }
}

impl Shelf {
    fn take(&mut self, size: usize) -> Option<Vec<f32>> {
        self.calls += 1;
        self.sizes.entry(size).or_default().asked = self.calls;
        let longest = if size <= SIDE_BY_SIDE {
            SPARE * size
        } else {
            size + size / SPARE_OF_LONG
        };
        let mut that_serve = self.sizes.range_mut(size..=longest);
        let (room, array) = that_serve.find_map(|(room, of)| Some((*room, of.pop(self.calls)?)))?;
        self.numbers -= room;
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

/// The size that serves arrays of that length: 64 from one power of 2 to the next, so that little is unused.
fn size_for(length: usize) -> usize {
    length.next_multiple_of((length.next_power_of_two() / 128).max(1))
}

/// So many numbers of any value, all of which the caller writes.
pub(super) fn take(length: usize) -> Vec<f32> {
    if length < SHORTEST {
        return vec![0.0; length];
    }
    let size = size_for(length);
    let kept = shelf().take(size);
    let mut array = kept.unwrap_or_else(|| vec![0.0; size]);
    // Cut, or as long as it has not been before; the room stays.
    array.resize(length, 0.0);
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
    if let Ok(array) = taken_over(tensor) {
        give_back_array(array);
    }
}

/// The elements in the usual order, to be written over: in the tensor's own memory where nobody else holds it.
pub(super) fn owned(tensor: FlexTensor) -> Vec<f32> {
    taken_over(contiguous(tensor)).unwrap_or_else(|tensor| {
        let mut array = take(tensor.layout().num_elements());
        array.copy_from_slice(elements(&tensor));
        array
    })
}

/// The memory of a tensor that nobody else holds, and that is as long as it; otherwise the tensor.
fn taken_over(tensor: FlexTensor) -> Result<Vec<f32>, FlexTensor> {
    let layout = tensor.layout();
    let is_whole = tensor.is_contiguous()
        && layout.start_offset() == 0
        && tensor.dtype() == burn::tensor::DType::F32
        && tensor.bytes().len() == layout.num_elements() * size_of::<f32>();
    match is_whole && tensor.is_unique() {
        true => match tensor.into_data().try_into_vec() {
            Ok(array) => Ok(array),
            Err(error) => unreachable!("single precision: {error:?}"),
        },
        false => Err(tensor),
    }
}

/// The same of an array.
pub(super) fn give_back_array(array: Vec<f32>) {
    let room = array.capacity();
    // What came from here has the room of a whole size.
    if array.len() >= SHORTEST && room == size_for(room) {
        shelf().keep(room, array);
    }
}

#[cfg(test)]
mod tests {
    use super::super::storage::from_vec;
    use super::*;

    /// A length of its own: tests run beside others.
    const LENGTH: usize = 223_457;

    fn empty() -> Shelf {
        Shelf {
            sizes: BTreeMap::new(),
            numbers: 0,
            calls: 0,
        }
    }

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
    fn a_short_array_may_have_room_for_twice_as_much_and_a_long_one_for_an_eighth_more() {
        let mut shelf = empty();
        let long = 9 * SIDE_BY_SIDE;
        for (room, least) in [
            (SIDE_BY_SIDE, SIDE_BY_SIDE / SPARE),
            (long, long / 9 * SPARE_OF_LONG),
        ] {
            // No memory behind them: the shelf counts sizes.
            shelf.keep(room, Vec::new());
            assert!(shelf.take(least - 1).is_none() && shelf.take(room + 1).is_none());
            assert!(shelf.take(least).is_some());
            assert_eq!(shelf.numbers, 0);
        }
    }

    #[test]
    fn a_size_wastes_little() {
        for length in (SHORTEST..1 << 20).step_by(977) {
            let size = size_for(length);
            assert!(
                size >= length && size - length <= length / 64,
                "{length} {size}"
            );
            assert_eq!(size_for(size), size);
        }
    }

    #[test]
    fn what_was_not_asked_for_makes_room() {
        let mut shelf = empty();
        // One that is too long to serve for the other.
        let (old, new) = (MOST / 2, MOST / 8 * 5);
        shelf.take(old);
        shelf.keep(old, Vec::new());
        shelf.take(new);
        shelf.keep(new, Vec::new());
        assert!(shelf.take(old).is_none());
        assert!(shelf.take(new).is_some());
        assert_eq!(shelf.numbers, 0);
    }
}
