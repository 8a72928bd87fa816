//! The product of two whole matrices: both sides are packed part by part, and threads share the rows, or the columns of few.

use std::cell::Cell;
use std::mem::MaybeUninit;

use super::block::Block;
use super::clock::counted;
use super::lines::Lines;
use super::panels::{Means, Panels, Side};
use super::rounded_blocks;
use super::rounded_rows::RoundedRows;
use super::rows::Rows;
use super::{BLOCK, run, run_pairs};
use crate::threads::share_out;
use crate::{Isa, Precision};

/// What the sums are added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: what is there is overwritten, and may be uninitialised.
    Zero,
    /// What is there.
    Old,
    /// A number for each column; what is there is overwritten, and may be uninitialised.
    Bias(&'a [f32]),
}

/// What is done with some rows of the result as soon as they are complete, while they are in the cache.
pub(crate) struct Then<'a> {
    /// Another array as long as the result, or empty.
    pub(crate) second: &'a mut [f32],
    /// Gets the number of the first row, the rows, and the same part of `second`.
    pub(crate) finish: &'a Finish<'a>,
}

/// See [`Then`].
pub(crate) type Finish<'a> = dyn Fn(usize, &mut [f32], &mut [f32]) + Sync + 'a;

/// Steps of the sums at a time: a panel of so many steps and 2 · 16 columns is 32 KiB, of 2 · 8 half of that: it stays in
/// the first cache, or next to it, while the rows go by.
pub(super) const DEPTH: usize = 256;
/// Rows of a task at most: packed with `DEPTH` steps 150 KiB, which stay in the second cache while the panels go by. With 112
/// products were 2 to 4 % slower on AVX-512, with 224 up to 15 %; the other sizes here make no such difference.
const ROWS: usize = 128;
/// Numbers of the right side that are packed at a time: 2 MiB, which stay in the last cache until all rows have used them.
const PACKED: usize = 1 << 19;
/// Multiplications that are worth a second thread: at 60 GFLOP/s, what one thread did with AVX2, they take 17 µs, and
/// waking a thread takes some of them.
const ALONE: usize = 1 << 19;

/// Rows of the left side at most, for a right side that is not packed as a whole: with fewer uses that costs more than the
/// longer way between its rows. Gradients of weights, 256 × 4,096 · 4,096 × 256 and × 768 on two threads with AVX-512: 218
/// and 220 GFLOP/s packed, 268 and 267 as it lies.
const FEW: usize = 512;
/// Numbers of its row at most, for a panel that is read where it lies. Longer rows share few sets of the first cache (those of
/// 4 KiB one), so each task copies the panel. One thread with AVX-512, as it lies and copied: 140 and 134 GFLOP/s in 128 ×
/// 6,272 · 6,272 × 128, 144 and 145 with 384 columns; packed as a whole and copied: 122 and 133 in 256 × 4,096 · 4,096 ×
/// 1,024, 145 and 161 in 128 × 256 · 256 × 1,024.
pub(super) const SHORT: usize = 512;
/// Columns of the widest panel.
const PANEL: usize = 32;
/// Rows of the left side at most, for threads that share the columns: each then reads its part of the right side alone, where sharing the
/// rows would have every thread read, and copy, all of it. Answers to one text or picture have 50 to 128 rows; on two threads with
/// AVX2, in turns: translator 14.5 → 13.4 ms, classifier 10.8 → 10.2, vision models 2.26 → 2.18 and 5.7 → 5.6.
const SHARED_ROWS: usize = 128;

thread_local! {
    /// Kept from product to product: fresh memory costs a page fault every 4 KiB.
    static PANELS: Cell<Option<Panels>> = const { Cell::new(None) };
    static LEFT: Cell<Lines> = const { Cell::new(Lines::new()) };
}

/// The right side: as it lies, or packed.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    Side(Means, Side<'a>),
    Panels(&'a Panels),
}

impl Right<'_> {
    fn columns(&self) -> usize {
        match self {
            Right::Side(_, side) => side.columns,
            Right::Panels(panels) => panels.columns,
        }
    }

    fn means(&self) -> Means {
        match self {
            Right::Side(means, _) => *means,
            Right::Panels(panels) => panels.means,
        }
    }
}

/// `left · right` in memory of its own, which in f32 is written once: nothing is set to zero first.
pub(crate) fn product(left: Side<'_>, right: Right<'_>, start: Start<'_>) -> Vec<f32> {
    assert!(!matches!(start, Start::Old), "there is nothing to add to");
    let length = left.rows * right.columns();
    if right.means().precision == Precision::Bf16 {
        let mut out = vec![0.0; length];
        multiply(left, right, start, &mut out, None);
        return out;
    }
    let mut out = Vec::with_capacity(length);
    let room = &mut out.spare_capacity_mut()[..length];
    by_parts(left, right, start, room, None, None);
    // SAFETY: every element is written unless the sums start from what is there.
    unsafe { out.set_len(length) };
    out
}

/// `out (+)= left · right`.
pub(crate) fn multiply(
    left: Side<'_>,
    right: Right<'_>,
    start: Start<'_>,
    out: &mut [f32],
    then: Option<Then<'_>>,
) {
    by_parts(left, right, start, maybe(out), None, then);
}

/// `out = left · right`, and the sums of the columns of `right`.
pub(crate) fn multiply_and_sum(
    means: Means,
    left: Side<'_>,
    right: Side<'_>,
    out: &mut [f32],
) -> Vec<f32> {
    let mut sums = vec![0.0; right.columns];
    let side = Right::Side(means, right);
    by_parts(left, side, Start::Zero, maybe(out), Some(&mut sums), None);
    sums
}

/// Initialised numbers as a special case of numbers that may be.
fn maybe(out: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    let pointer = out.as_mut_ptr().cast::<MaybeUninit<f32>>();
    // SAFETY: the same numbers; `by_parts`, which is all that gets them, writes nothing but numbers.
    unsafe { std::slice::from_raw_parts_mut(pointer, out.len()) }
}

/// The numbers that a product in bf16 goes into.
fn there(out: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    let out: *mut [MaybeUninit<f32>] = out;
    // SAFETY: they are initialised: `multiply` and `multiply_and_sum` are given such, and so does `product` for bf16.
    unsafe { &mut *(out as *mut [f32]) }
}

/// A right side that is not packed yet is packed some steps at a time, in memory that is kept; its columns are added to
/// `sums`.
fn by_parts(
    left: Side<'_>,
    right: Right<'_>,
    start: Start<'_>,
    out: &mut [MaybeUninit<f32>],
    mut sums: Option<&mut [f32]>,
    mut then: Option<Then<'_>>,
) {
    let (means, right) = match right {
        Right::Side(means, right) => (means, right),
        Right::Panels(panels) => {
            assert!(sums.is_none(), "sums are taken while packing");
            return by_rows(left, Laid::Panels(panels), start, out, None, then);
        }
    };
    let depth = right.rows;
    assert_eq!(left.columns, depth, "the sides share the depth");
    right.check();
    let in_rows = right.column_step == 1 && right.columns.is_multiple_of(PANEL);
    if means.precision == Precision::F32 && in_rows && left.rows <= FEW && depth > 0 {
        return by_rows(left, Laid::Rows(means.isa, right), start, out, sums, then);
    }
    if means.precision == Precision::Bf16
        && then.is_none()
        && rounded_blocks::are_worth_it(left.rows, depth, right.columns)
    {
        return rounded_blocks::multiply(means.isa, left, right, start, there(out), sums);
    }
    let steps = (PACKED / right.columns.max(1)).max(1);
    let steps = steps.next_multiple_of(DEPTH);
    // A task of a product may begin another one: it finds nothing here, and leaves its own.
    let kept = PANELS.take().filter(|panels| panels.means == means);
    let mut panels = kept.unwrap_or_else(|| Panels::empty(means));
    for from in (0..depth.max(1)).step_by(steps) {
        let deep = steps.min(depth - from);
        panels.fill(right.some_rows(from, deep), sums.as_deref_mut());
        let start = if from == 0 { start } else { Start::Old };
        let is_last = from + steps >= depth;
        let then = if is_last { then.take() } else { None };
        let left = left.some_columns(from, deep);
        by_rows(left, Laid::Panels(&panels), start, out, None, then);
    }
    PANELS.set(Some(panels));
}

/// The right side as the tiles read it.
#[derive(Clone, Copy)]
pub(super) enum Laid<'a> {
    Panels(&'a Panels),
    /// Rows of whole panels, copied panel by panel where they are long.
    Rows(Isa, Side<'a>),
}

impl Laid<'_> {
    fn isa(&self) -> Isa {
        match self {
            Laid::Panels(panels) => panels.means.isa,
            Laid::Rows(isa, _) => *isa,
        }
    }

    fn precision(&self) -> Precision {
        match self {
            Laid::Panels(panels) => panels.means.precision,
            Laid::Rows(..) => Precision::F32,
        }
    }

    /// Rows and columns.
    pub(super) fn dim(&self) -> (usize, usize) {
        match self {
            Laid::Panels(panels) => (panels.rows, panels.columns),
            Laid::Rows(_, side) => (side.rows, side.columns),
        }
    }
}

/// Threads share the rows, or the columns where there are few rows. Who computes the first rows adds the columns of the right side
/// to `sums`.
fn by_rows(
    left: Side<'_>,
    right: Laid<'_>,
    start: Start<'_>,
    out: &mut [MaybeUninit<f32>],
    sums: Option<&mut [f32]>,
    then: Option<Then<'_>>,
) {
    let (depth, columns) = right.dim();
    assert_eq!(left.columns, depth, "the sides share the depth");
    assert_eq!(out.len(), left.rows * columns);
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), columns, "a bias for each column");
    }
    left.check();
    if out.is_empty() {
        return;
    }
    let threads = match left.rows * columns * depth {
        ..ALONE => 1,
        _ => rayon::current_num_threads(),
    };
    if threads > 1 && left.rows <= SHARED_ROWS && right.precision() == Precision::F32 {
        return by_columns(left, right, start, out, sums, then);
    }
    // As many tasks for every thread. Every element is summed in the same order whatever the tasks are.
    let tasks = left.rows.div_ceil(ROWS).next_multiple_of(threads);
    let rows = match right {
        // Whole blocks: those at the edge go through another place.
        Laid::Panels(panels) if panels.means.precision == Precision::Bf16 => {
            left.rows.div_ceil(tasks).next_multiple_of(BLOCK)
        }
        _ => left.rows.div_ceil(tasks),
    };
    let (second, finish) = match then {
        Some(Then { second, finish }) => (second, Some(finish)),
        None => (Default::default(), None),
    };
    let size = rows * columns;
    let mut seconds = second.chunks_mut(size);
    let mut sums = sums;
    let tasks = out.chunks_mut(size).enumerate().map(|(at, out)| Task {
        first: at * rows,
        out,
        second: seconds.next().unwrap_or_default(),
        sums: sums.take(),
    });
    let compute = |task: Task<'_>| {
        let Task {
            first,
            out,
            second,
            sums,
        } = task;
        let mut room = LEFT.take();
        counted(|| match right {
            Laid::Panels(panels) if panels.means.precision == Precision::Bf16 => {
                let product = RoundedRows {
                    left,
                    first,
                    right: panels,
                    start,
                    out: there(&mut *out),
                    room: &mut room,
                };
                run_pairs(right.isa(), product);
            }
            _ => {
                let product = Rows {
                    left,
                    first,
                    right,
                    start,
                    out: Block::of_rows(&mut *out, columns),
                    sums,
                    room: &mut room,
                };
                run(right.isa(), product);
            }
        });
        LEFT.set(room);
        if let Some(finish) = finish {
            let out: *mut [MaybeUninit<f32>] = out;
            // SAFETY: the kernel has written every element, or added to what the caller had initialised.
            finish(first, unsafe { &mut *(out as *mut [f32]) }, second);
        }
    };
    if threads == 1 {
        tasks.for_each(compute);
    } else {
        rayon::scope(|_| share_out(tasks.collect(), 1, compute));
    }
}

/// Threads share the columns, in whole panels: see [`SHARED_ROWS`].
fn by_columns(
    left: Side<'_>,
    right: Laid<'_>,
    start: Start<'_>,
    out: &mut [MaybeUninit<f32>],
    sums: Option<&mut [f32]>,
    then: Option<Then<'_>>,
) {
    let (_, columns) = right.dim();
    let panels = columns.div_ceil(PANEL);
    let tasks = rayon::current_num_threads().min(panels);
    let wide = panels.div_ceil(tasks) * PANEL;
    let mut sums = sums.map(|sums| sums.chunks_mut(wide));
    let blocks = Block::of_columns(out, columns, wide);
    let tasks: Vec<_> = blocks
        .map(|out| (out, sums.as_mut().and_then(Iterator::next)))
        .collect();
    let compute = |(out, sums): (Block<'_>, Option<&mut [f32]>)| {
        let mut room = LEFT.take();
        let product = Rows {
            left,
            first: 0,
            right,
            start,
            out,
            sums,
            room: &mut room,
        };
        counted(|| run(right.isa(), product));
        LEFT.set(room);
    };
    rayon::scope(|_| share_out(tasks, 1, compute));
    let Some(Then { second, finish }) = then else {
        return;
    };
    let rows = left.rows.div_ceil(rayon::current_num_threads());
    let mut seconds = second.chunks_mut(rows * columns);
    let finished = out.chunks_mut(rows * columns).enumerate();
    let finished = finished.map(|(at, out)| (at * rows, out, seconds.next().unwrap_or_default()));
    let finish = |(first, out, second): (usize, &mut [MaybeUninit<f32>], &mut [f32])| {
        let out: *mut [MaybeUninit<f32>] = out;
        // SAFETY: the kernels have written every element, or added to what the caller had initialised.
        finish(first, unsafe { &mut *(out as *mut [f32]) }, second);
    };
    rayon::scope(|_| share_out(finished.collect(), 1, finish));
}

/// What a thread does at a time.
struct Task<'a> {
    first: usize,
    out: &'a mut [MaybeUninit<f32>],
    second: &'a mut [f32],
    sums: Option<&'a mut [f32]>,
}
