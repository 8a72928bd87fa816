//! Some columns of a result that several threads write to.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Some columns of all rows of a result, which nobody else touches while this lives.
pub(super) struct Block<'a> {
    /// The first column of the first row.
    pointer: *mut MaybeUninit<f32>,
    pub(super) rows: usize,
    /// How far apart the rows are.
    step: usize,
    pub(super) columns: Range<usize>,
    _out: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: it stands for numbers that it alone may write, as a `&mut` of them would.
unsafe impl Send for Block<'_> {}

impl<'a> Block<'a> {
    /// All columns.
    pub(super) fn of_rows(out: &'a mut [MaybeUninit<f32>], columns: usize) -> Self {
        let all = Self::of_columns(out, columns, columns).next();
        all.expect("a result that is not empty")
    }

    /// Blocks of so many columns of all rows.
    pub(super) fn of_columns(
        out: &'a mut [MaybeUninit<f32>],
        columns: usize,
        wide: usize,
    ) -> impl Iterator<Item = Self> {
        let rows = out.len() / columns;
        assert_eq!(out.len(), rows * columns);
        let pointer = out.as_mut_ptr();
        (0..columns).step_by(wide).map(move |first| Self {
            pointer: pointer.wrapping_add(first),
            rows,
            step: columns,
            columns: first..columns.min(first + wide),
            _out: PhantomData,
        })
    }

    /// Where a number of the block lies.
    pub(super) fn at(&mut self, row: usize, column: usize) -> *mut MaybeUninit<f32> {
        assert!(row < self.rows && self.columns.contains(&column));
        let place = row * self.step + column - self.columns.start;
        self.pointer.wrapping_add(place)
    }

    /// The block's part of a row.
    pub(super) fn row(&mut self, row: usize) -> &mut [MaybeUninit<f32>] {
        let start = self.at(row, self.columns.start);
        // SAFETY: it lies in the result, and is this block's alone.
        unsafe { std::slice::from_raw_parts_mut(start, self.columns.len()) }
    }
}
