//! An array of any kind of numbers, as a kernel reads it: block by block, in f32.
//!
//! Half-precision, quantized and paged numbers are widened when a block of them is copied to where a kernel wants it,
//! which is rare beside the work on it. So there is one kernel, not one for each kind. f64 has a path of its own.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ndarray::{Array4, ArrayView2, ArrayView3, ArrayView4, s};

/// Numbers that are read as `[batch, heads, rows, width]`.
#[derive(Debug, Clone, Copy)]
pub struct Numbers<'a> {
    stored: Stored<'a>,
    /// With pages, the first axis of what is stored is theirs, and row `j` of a batch row is row `j % size` of the page
    /// `table[batch][j / size]`; there are `rows` of them.
    pages: Option<Pages<'a>>,
}

/// Which page holds which rows.
#[derive(Debug, Clone, Copy)]
struct Pages<'a> {
    table: ArrayView2<'a, usize>,
    rows: usize,
}

/// What is in memory.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    F32(ArrayView4<'a, f32>),
    F64(ArrayView4<'a, f64>),
    Bf16(ArrayView4<'a, bf16>),
    F16(ArrayView4<'a, f16>),
    /// Each row is `scale · number`.
    Int8(ArrayView4<'a, i8>, ArrayView3<'a, f32>),
}

/// Does the same with whatever view is stored.
macro_rules! each {
    ($stored:expr, $view:ident => $result:expr) => {
        match $stored {
            Stored::F32($view) => $result,
            Stored::F64($view) => $result,
            Stored::Bf16($view) => $result,
            Stored::F16($view) => $result,
            Stored::Int8($view, _) => $result,
        }
    };
}

impl<'a> Numbers<'a> {
    pub(crate) fn new(stored: Stored<'a>) -> Self {
        Self {
            stored,
            pages: None,
        }
    }

    /// The same, for as long as this is borrowed.
    pub(crate) fn view(&self) -> Numbers<'_> {
        Numbers {
            stored: match &self.stored {
                Stored::F32(view) => Stored::F32(view.view()),
                Stored::F64(view) => Stored::F64(view.view()),
                Stored::Bf16(view) => Stored::Bf16(view.view()),
                Stored::F16(view) => Stored::F16(view.view()),
                Stored::Int8(view, scales) => Stored::Int8(view.view(), scales.view()),
            },
            pages: self.pages.as_ref().map(|pages| Pages {
                table: pages.table.view(),
                rows: pages.rows,
            }),
        }
    }

    /// The rows that a table of pages brings together. Every entry that `rows` need is a page.
    pub(crate) fn paged(self, table: ArrayView2<'a, usize>, rows: usize) -> Self {
        Self {
            pages: Some(Pages { table, rows }),
            ..self
        }
    }

    pub(crate) fn dim(&self) -> (usize, usize, usize, usize) {
        let (first, heads, rows, width) = each!(&self.stored, view => view.dim());
        match self.pages {
            None => (first, heads, rows, width),
            Some(pages) => (pages.table.nrows(), heads, pages.rows, width),
        }
    }

    /// An axis of length 1 stands for all of `shape`; `None` where the others differ from it.
    pub(crate) fn broadcast(&self, shape: [usize; 4]) -> Option<Numbers<'_>> {
        Some(Numbers::new(match &self.stored {
            Stored::F32(view) => Stored::F32(view.broadcast(shape)?),
            Stored::F64(view) => Stored::F64(view.broadcast(shape)?),
            Stored::Bf16(view) => Stored::Bf16(view.broadcast(shape)?),
            Stored::F16(view) => Stored::F16(view.broadcast(shape)?),
            Stored::Int8(..) => return None, // neither a bias nor a query is quantized
        }))
    }

    pub(crate) fn is_bf16(&self) -> bool {
        matches!(self.stored, Stored::Bf16(_))
    }

    pub(crate) fn is_f32(&self) -> bool {
        matches!(self.stored, Stored::F32(_))
    }

    /// All of them, if they lie in order as f32.
    pub(crate) fn in_memory(&self) -> Option<&'a [f32]> {
        match self.stored {
            Stored::F32(view) if self.pages.is_none() => view.to_slice(),
            _ => None,
        }
    }

    pub(crate) fn at(&self, batch: usize, head: usize, row: usize, column: usize) -> f64 {
        let (first, row) = self.place(batch, row);
        let at = [first, head, row, column];
        match &self.stored {
            Stored::F32(view) => view[at].into(),
            Stored::F64(view) => view[at],
            Stored::Bf16(view) => view[at].into(),
            Stored::F16(view) => view[at].into(),
            Stored::Int8(view, scales) => {
                f64::from(view[at]) * f64::from(scales[[first, head, row]])
            }
        }
    }

    pub(crate) fn to_f64(self) -> Array4<f64> {
        Array4::from_shape_fn(self.dim(), |(b, h, i, c)| self.at(b, h, i, c))
    }

    /// Where a row is stored: in which batch row or page, and where there.
    fn place(&self, batch: usize, row: usize) -> (usize, usize) {
        match self.pages {
            None => (batch, row),
            Some(pages) => {
                let size = self.page_size();
                (pages.table[[batch, row / size]], row % size)
            }
        }
    }

    fn page_size(&self) -> usize {
        each!(&self.stored, view => view.dim().2)
    }

    /// The rows of one head.
    #[inline(always)]
    pub(crate) fn head(&self, batch: usize, head: usize) -> Head<'a> {
        Head {
            numbers: *self,
            batch,
            head,
        }
    }
}

/// The rows of one head, `[rows, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    numbers: Numbers<'a>,
    batch: usize,
    head: usize,
}

impl<'a> Head<'a> {
    pub(crate) fn width(&self) -> usize {
        self.numbers.dim().3
    }

    /// All rows, if they lie one after the other as f32.
    #[inline(always)]
    pub(crate) fn in_memory(&self) -> Option<&'a [f32]> {
        match self.numbers.stored {
            Stored::F32(view) if self.numbers.pages.is_none() => {
                let of = s![self.batch, self.head, .., ..];
                view.slice_move(of).to_slice()
            }
            _ => None,
        }
    }

    /// The first of `rows`, as many as lie in one place, if they are bf16 with neighbours side by side.
    #[inline(always)]
    pub(crate) fn bf16_rows(&self, rows: Range<usize>) -> Option<ArrayView2<'a, bf16>> {
        match self.numbers.stored {
            Stored::Bf16(view) => self.rows_of(view, rows),
            _ => None,
        }
    }

    /// All of `rows`, if they are bf16 and lie one after the other.
    #[inline(always)]
    pub(crate) fn bf16_in_place(&self, rows: Range<usize>) -> Option<&'a [bf16]> {
        let count = rows.len();
        let here = self.bf16_rows(rows)?;
        here.to_slice().filter(|_| here.nrows() == count)
    }

    /// As [`Head::bf16_rows`], if they are f32.
    #[inline(always)]
    pub(crate) fn f32_rows(&self, rows: Range<usize>) -> Option<ArrayView2<'a, f32>> {
        match self.numbers.stored {
            Stored::F32(view) => self.rows_of(view, rows),
            _ => None,
        }
    }

    #[inline(always)]
    fn rows_of<T>(&self, view: ArrayView4<'a, T>, rows: Range<usize>) -> Option<ArrayView2<'a, T>> {
        if view.strides()[3] != 1 && self.width() > 1 {
            return None;
        }
        let (first, start) = self.numbers.place(self.batch, rows.start);
        let here = match self.numbers.pages {
            Some(_) => self.numbers.page_size() - start,
            None => rows.len(),
        };
        let end = start + rows.len().min(here);
        Some(view.slice_move(s![first, self.head, start..end, ..]))
    }

    /// Rows one after the other: where they lie if they lie so, or else copied into `room`.
    #[inline(always)]
    pub(crate) fn dense_rows<'r>(&self, rows: Range<usize>, room: &'r mut [f32]) -> &'r [f32]
    where
        'a: 'r,
    {
        let width = self.width();
        let (first, start) = self.numbers.place(self.batch, rows.start);
        let here = self.numbers.pages.is_none() || start + rows.len() <= self.numbers.page_size();
        if let Stored::F32(view) = self.numbers.stored
            && here
            && let Some(all) = view.slice_move(s![first, self.head, .., ..]).to_slice()
        {
            return &all[start * width..(start + rows.len()) * width];
        }
        let room = &mut room[..rows.len() * width];
        self.copy_rows(rows, 1.0, room, width);
        room
    }

    /// `into[r · step + c] = factor · row[rows.start + r][c]`. What is left of `into`, to the right and below, is zeroed.
    #[inline(always)]
    pub(crate) fn copy_rows(&self, rows: Range<usize>, factor: f32, into: &mut [f32], step: usize) {
        if step == 0 {
            return;
        }
        let (filled, rest) = into.split_at_mut(rows.len() * step);
        rest.fill(0.0);
        let (mut row, mut into) = (rows.start, filled);
        while row < rows.end {
            let (first, start) = self.numbers.place(self.batch, row);
            let mut count = rows.end - row;
            if self.numbers.pages.is_some() {
                count = count.min(self.numbers.page_size() - start); // what this page holds of them
            }
            let (part, rest) = into.split_at_mut(count * step);
            let of = s![first, self.head, start..start + count, ..];
            match self.numbers.stored {
                Stored::F32(view) => widen_rows(view.slice_move(of), factor, part, step),
                Stored::F64(view) => widen_rows(view.slice_move(of), factor, part, step),
                Stored::Bf16(view) => widen_rows(view.slice_move(of), factor, part, step),
                Stored::F16(view) => widen_rows(view.slice_move(of), factor, part, step),
                Stored::Int8(view, scales) => {
                    let scales = scales.slice_move(s![first, self.head, start..start + count]);
                    let rows = view.slice_move(of);
                    for (i, into) in part.chunks_exact_mut(step).enumerate() {
                        let row = rows.slice(s![i..=i, ..]);
                        widen_rows(row, factor * scales[i], into, step);
                    }
                }
            }
            (row, into) = (row + count, rest);
        }
    }

    /// A part of some rows, which lie in one page, times `factor`; the rows of `into` are `step` apart, with zeros behind.
    #[inline(always)]
    pub(crate) fn copy_block(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        factor: f32,
        into: &mut [f32],
        step: usize,
    ) {
        if step == 0 || rows.is_empty() {
            return;
        }
        if self.numbers.pages.is_some() || matches!(self.numbers.stored, Stored::Int8(..)) {
            for (row, into) in rows.zip(into.chunks_exact_mut(step)) {
                self.copy_part(row, columns.clone(), factor, &mut *into);
            }
            return;
        }
        let of = s![self.batch, self.head, rows, columns];
        match self.numbers.stored {
            Stored::F32(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::F64(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::Bf16(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::F16(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::Int8(..) => unreachable!("row by row"),
        }
    }

    /// A part of one row, times `factor`.
    #[inline(always)]
    pub(crate) fn copy_part(
        &self,
        row: usize,
        columns: Range<usize>,
        factor: f32,
        into: &mut [f32],
    ) {
        let step = into.len();
        if step == 0 {
            return;
        }
        let (first, row) = self.numbers.place(self.batch, row);
        let of = s![first, self.head, row..=row, columns];
        match self.numbers.stored {
            Stored::F32(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::F64(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::Bf16(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::F16(view) => widen_rows(view.slice_move(of), factor, into, step),
            Stored::Int8(view, scales) => {
                let scale = scales[[first, self.head, row]];
                widen_rows(view.slice_move(of), factor * scale, into, step);
            }
        }
    }
}

/// A number that becomes an f32.
trait Widen: Copy {
    fn widen(self) -> f32;

    /// `into = factor · row`, of the same length.
    #[inline(always)]
    fn widen_row(row: &[Self], factor: f32, into: &mut [f32]) {
        into.iter_mut()
            .zip(row)
            .for_each(|(into, number)| *into = factor * number.widen());
    }
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Widen for f64 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self as f32
    }
}

impl Widen for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.into()
    }
}

impl Widen for bf16 {
    /// The upper half of an f32.
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Widen for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    /// With the processor's instruction for it, which `half` looks for once a row.
    #[inline(always)]
    fn widen_row(row: &[Self], factor: f32, into: &mut [f32]) {
        let into = &mut into[..row.len()];
        row.convert_to_f32_slice(into);
        if factor != 1.0 {
            into.iter_mut().for_each(|number| *number *= factor);
        }
    }
}

/// `into[r · step + c] = factor · matrix[r][c]`, and 0 to the right of it.
#[inline(always)]
fn widen_rows<T: Widen>(matrix: ArrayView2<'_, T>, factor: f32, into: &mut [f32], step: usize) {
    let width = matrix.ncols();
    // Rows without a gap on either side are one long row.
    if let Some(all) = matrix.to_slice().filter(|_| step == width) {
        T::widen_row(all, factor, into);
        return;
    }
    for (row, into) in matrix.outer_iter().zip(into.chunks_exact_mut(step)) {
        let (into, padding) = into.split_at_mut(width);
        match row.to_slice() {
            Some(row) => T::widen_row(row, factor, into),
            None => into
                .iter_mut()
                .zip(row)
                .for_each(|(into, number)| *into = factor * number.widen()),
        }
        padding.fill(0.0);
    }
}
