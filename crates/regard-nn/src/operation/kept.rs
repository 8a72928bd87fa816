//! Weights packed for the product once, as long as they live: an answer to one text multiplies few rows, and packing reads
//! and writes a whole weight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::ArrayView2;
use regard_kernels::{PackedMatrix, Precision, product_then};

use super::storage::{FlexTensor, view2};

/// A weight that may have been packed before.
pub(super) enum Weight<'a> {
    Lying(ArrayView2<'a, f32>),
    Packed(Arc<PackedMatrix>),
}

impl<'a> Weight<'a> {
    /// As it lies for a step of training, which changes it; as [`of`](Self::of) for an answer.
    pub(super) fn new(weight: &'a FlexTensor, for_answer: bool) -> Self {
        match for_answer {
            true => Self::of(weight),
            false => Self::Lying(view2(weight)),
        }
    }

    /// Packed where it is asked for the second time, and not changed since; it is packed then.
    pub(super) fn of(weight: &'a FlexTensor) -> Self {
        match packed(&[weight], || PackedMatrix::new(view2(weight))) {
            Some(packed) => Self::Packed(packed),
            None => Self::Lying(view2(weight)),
        }
    }

    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Lying(weight) => weight.ncols(),
            Self::Packed(weight) => weight.dim().1,
        }
    }

    /// As [`product_then`].
    pub(super) fn product_then(
        &self,
        left: &ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
        out: &mut [f32],
        second: &mut [f32],
        finish: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        match self {
            Self::Lying(weight) => {
                product_then(left.view(), weight.view(), bias, out, second, finish);
            }
            Self::Packed(weight) => weight.product_then(left.view(), bias, out, second, finish),
        }
    }
}

/// Weights that were seen, by where they lie.
static SEEN: Mutex<Option<HashMap<Vec<usize>, Seen>>> = Mutex::new(None);

struct Seen {
    /// Whether the weights still lie there, unchanged. Each holds a weak reference: as long as that is there, no other
    /// tensor can lie in the same place, and who changes the numbers moves them to another.
    alive: Vec<Box<dyn Fn() -> bool + Send>>,
    packed: Option<Arc<PackedMatrix>>,
}

impl Seen {
    fn is_alive(&self) -> bool {
        self.alive.iter().all(|alive| alive())
    }
}

/// What `pack` makes of the weights, kept from the second time on; `None` the first time. Every answer of a model asks twice
/// or more; a training step changes the weights in between.
pub(super) fn packed(
    weights: &[&FlexTensor],
    pack: impl FnOnce() -> PackedMatrix,
) -> Option<Arc<PackedMatrix>> {
    let mut key = Vec::with_capacity(weights.len());
    let mut alive: Vec<Box<dyn Fn() -> bool + Send>> = Vec::with_capacity(weights.len());
    for weight in weights {
        let layout = weight.layout();
        let bytes = layout.num_elements() * size_of::<f32>();
        if !weight.is_contiguous() || layout.start_offset() != 0 || weight.bytes().len() != bytes {
            return None;
        }
        let data = weight.data_arc();
        key.push(Arc::as_ptr(&data) as usize);
        let data = Arc::downgrade(&data);
        alive.push(Box::new(move || data.strong_count() > 0));
    }
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = seen.get_or_insert_default();
    match seen.get_mut(&key).filter(|seen| seen.is_alive()) {
        Some(found) => {
            let here = |packed: &Arc<PackedMatrix>| packed.precision() == Precision::here();
            let packed = found.packed.take().filter(here);
            let packed = &*found
                .packed
                .insert(packed.unwrap_or_else(|| Arc::new(pack())));
            // Another shape of the same numbers is another matrix.
            let shape = weights[0].layout().shape();
            (packed.dim().0 == shape[0]).then(|| packed.clone())
        }
        None => {
            seen.retain(|_, seen| seen.is_alive());
            let packed = None;
            seen.insert(key, Seen { alive, packed });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::storage::from_vec;
    use super::*;

    fn is_packed(weight: &FlexTensor) -> bool {
        matches!(Weight::of(weight), Weight::Packed(_))
    }

    #[test]
    fn a_weight_is_packed_once_and_again_when_it_has_changed() {
        let mut weight = from_vec((0..12).map(|x| x as f32).collect(), vec![3, 4]);
        assert!(!is_packed(&weight));
        assert!(is_packed(&weight));
        assert!(is_packed(&weight.clone()), "the same numbers");
        weight.storage_mut::<f32>()[0] = 7.0;
        assert!(!is_packed(&weight));
        let Weight::Packed(packed) = Weight::of(&weight) else {
            panic!("the second time since");
        };
        let row = ndarray::array![[1.0, 0.0, 0.0]];
        assert_eq!(
            packed.product(row.view(), None),
            ndarray::array![[7.0, 1.0, 2.0, 3.0]]
        );
    }

    #[test]
    fn what_nobody_holds_is_let_go() {
        let weight = from_vec(vec![1.0; 6], vec![2, 3]);
        let key = vec![Arc::as_ptr(&weight.data_arc()) as usize];
        let kept = || {
            SEEN.lock()
                .unwrap()
                .as_ref()
                .is_some_and(|seen| seen.contains_key(&key))
        };
        assert!(!is_packed(&weight) && is_packed(&weight) && kept());
        drop(weight);
        is_packed(&from_vec(vec![2.0; 6], vec![3, 2]));
        assert!(!kept());
    }
}
