//! Memory for results, asked for before it is taken: a size that cannot be had is an error, not the end of the process.

use ndarray::{Array, Dimension, IntoDimension};

use crate::Error;

/// An array full of `value`.
///
/// The system is asked twice: first in the form that can say no, then in the one that gives zeroed pages, which has no such
/// form. If another thread takes the memory in between, the process ends, as everywhere in Rust.
pub(crate) fn filled<T: Clone, S: IntoDimension>(
    name: &'static str,
    shape: S,
    value: T,
) -> Result<Array<T, S::Dim>, Error> {
    let shape = shape.into_dimension();
    expect_room(name, shape.slice(), size_of::<T>())?;
    Ok(Array::from_elem(shape, value))
}

/// Whether there is memory for an array of `shape`, of numbers of `bytes` each.
pub(crate) fn expect_room(name: &'static str, shape: &[usize], bytes: usize) -> Result<(), Error> {
    // An axis of length 0 leaves nothing to allocate; the others have to be counted by an integer all the same.
    let all = shape
        .iter()
        .try_fold(bytes, |all, &length| all.checked_mul(length.max(1)));
    let mut room: Vec<u8> = Vec::new();
    let there_is = all.is_some_and(|all| {
        let all = if shape.contains(&0) { 0 } else { all };
        isize::try_from(all).is_ok() && room.try_reserve_exact(all).is_ok()
    });
    // Memory that nobody looks at need not be allocated, says the compiler.
    std::hint::black_box(room.as_ptr());
    if there_is {
        Ok(())
    } else {
        Err(Error::Memory {
            name,
            shape: shape.to_vec(),
        })
    }
}
