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

    /// What was packed for the precision of here.
    fn packed_here(&self) -> Option<Arc<PackedMatrix>> {
        let packed = self.packed.as_ref();
        packed
            .filter(|packed| packed.precision() == Precision::here())
            .cloned()
    }
}

/// What `pack` makes of the weights, kept from the second time on; `None` the first time. Every answer of a model asks twice
/// or more; a training step changes the weights in between.
pub(super) fn packed(
    weights: &[&FlexTensor],
    pack: impl FnOnce() -> PackedMatrix,
) -> Option<Arc<PackedMatrix>> {
    kept(weights, false, pack)
}

/// A table, `[classes, width]`, as the right side of the product that scores its rows: packed the first time, and not again
/// until it has changed. All that write with one model at a time share it.
pub(super) fn turned_table(table: &FlexTensor) -> Arc<PackedMatrix> {
    let pack = || PackedMatrix::new(view2(table).reversed_axes());
    kept(&[table], true, pack).unwrap_or_else(|| Arc::new(pack()))
}

/// As [`packed`], at once where the weights are `turned`: who turns a table has many rows to score.
fn kept(
    weights: &[&FlexTensor],
    turned: bool,
    pack: impl FnOnce() -> PackedMatrix,
) -> Option<Arc<PackedMatrix>> {
    let mut key = vec![usize::from(turned)];
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
    // Another shape of the same numbers is another matrix.
    let rows = weights[0].layout().shape()[usize::from(turned)];
    let of_this_shape = |packed: Arc<PackedMatrix>| (packed.dim().0 == rows).then_some(packed);
    let known = with_seen(|seen| match seen.get(&key).filter(|seen| seen.is_alive()) {
        Some(found) => Some(found.packed_here()),
        None => {
            seen.retain(|_, seen| seen.is_alive());
            let packed = None;
            seen.insert(key.clone(), Seen { alive, packed });
            None
        }
    });
    match known {
        Some(Some(packed)) => return of_this_shape(packed),
        None if !turned => return None,
        _ => {}
    }
    // With nothing locked: a thread of the pool that packs waits for others, and while it waits it may begin another answer,
    // which asks here, too. Who packs the same at the same time uses what was there first.
    let packed = Arc::new(pack());
    of_this_shape(with_seen(|seen| match seen.get_mut(&key) {
        Some(found) => match found.packed_here() {
            Some(first) => first,
            None => found.packed.insert(packed).clone(),
        },
        None => packed,
    }))
}

/// Runs `f` on [`SEEN`], which is locked meanwhile: `f` waits for nothing.
fn with_seen<R>(f: impl FnOnce(&mut HashMap<Vec<usize>, Seen>) -> R) -> R {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    f(seen.get_or_insert_default())
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
    fn a_table_is_packed_the_first_time_and_shared() {
        let table = from_vec((0..12).map(|x| x as f32).collect(), vec![3, 4]);
        let (first, second) = (turned_table(&table), turned_table(&table.clone()));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.dim(), (4, 3));
        assert!(!is_packed(&table), "as a weight it has not been seen");
        assert_eq!(
            turned_table(&from_vec(vec![1.0; 6], vec![2, 3])).dim(),
            (3, 2)
        );
    }

    /// Another answer that a thread of the pool begins while it waits in the middle of packing.
    #[test]
    fn packing_may_wait_for_a_thread_that_packs() {
        let (done, over) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            let table = from_vec(vec![1.0; 6], vec![2, 3]);
            let packed = |wait: bool| {
                let pack = || {
                    if wait {
                        // What a thread does that waits.
                        assert_eq!(rayon::yield_now(), Some(rayon::Yield::Executed));
                    }
                    PackedMatrix::new(view2(&table).reversed_axes())
                };
                kept(&[&table], true, pack).expect("a table is packed at once")
            };
            pool.expect("a thread").scope(|scope| {
                scope.spawn(|_| done.send(packed(false)).expect("somebody waits"));
                done.send(packed(true)).expect("somebody waits");
            });
        });
        let next = || {
            let soon = std::time::Duration::from_secs(20);
            over.recv_timeout(soon).expect("no thread waits for itself")
        };
        assert!(Arc::ptr_eq(&next(), &next()), "what was there first");
    }

    #[test]
    fn what_nobody_holds_is_let_go() {
        let weight = from_vec(vec![1.0; 6], vec![2, 3]);
        let key = vec![0, Arc::as_ptr(&weight.data_arc()) as usize];
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
