//! Keys and values of what came before, as a model keeps them that writes token by token.

use half::{bf16, f16};
use ndarray::{Array3, Array4, ArrayView2, ArrayView3, ArrayView4, s};

use crate::memory::filled;
use crate::numbers::{Numbers, Stored};
use crate::problem::expect_shape;
use crate::{Attention, Causal, Element, Error, Forward};

/// What a cache stores its numbers as: `f32`, `bf16`, `f16`; or `i8`, with a scale for each row.
pub trait CacheNumber: Kept {}

impl CacheNumber for f32 {}
impl CacheNumber for bf16 {}
impl CacheNumber for f16 {}
impl CacheNumber for i8 {}

/// How a number is kept; nobody can name it outside, so there are no others.
pub trait Kept: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// Writes a row, and gives its scale.
    fn keep(row: &[f32], into: &mut [Self]) -> f32;
    fn stored<'a>(numbers: ArrayView4<'a, Self>, scales: ArrayView3<'a, f32>) -> Stored<'a>;
}

macro_rules! kept {
    ($type:ty, $variant:ident, $round:expr) => {
        impl Kept for $type {
            fn keep(row: &[f32], into: &mut [Self]) -> f32 {
                into.iter_mut()
                    .zip(row)
                    .for_each(|(into, &number)| *into = $round(number));
                1.0
            }
            fn stored<'a>(numbers: ArrayView4<'a, Self>, _: ArrayView3<'a, f32>) -> Stored<'a> {
                Stored::$variant(numbers)
            }
        }
    };
}
kept!(f32, F32, |number| number);
kept!(bf16, Bf16, bf16::from_f32);
kept!(f16, F16, f16::from_f32);

impl Kept for i8 {
    /// The largest number of the row becomes ±127: `scale = max |x| / 127`, and each is rounded to the nearest.
    fn keep(row: &[f32], into: &mut [Self]) -> f32 {
        let largest = row
            .iter()
            .fold(0.0f32, |largest, number| largest.max(number.abs()));
        // With a NaN or an infinity in it, the row is NaN: a scale keeps it, a number of 8 bits cannot.
        if !row.iter().all(|number| number.is_finite()) {
            into.fill(1);
            return f32::NAN;
        }
        let scale = largest / 127.0;
        for (into, &number) in into.iter_mut().zip(row) {
            *into = if scale > 0.0 {
                (number / scale).round() as i8
            } else {
                0
            };
        }
        scale
    }
    fn stored<'a>(numbers: ArrayView4<'a, Self>, scales: ArrayView3<'a, f32>) -> Stored<'a> {
        Stored::Int8(numbers, scales)
    }
}

/// Keys and values, with room for a number of them in each batch row; rows may hold different numbers of them.
///
/// # Example
/// ```
/// use ndarray::Array4;
/// use regard_kernels::{Attention, Cache};
///
/// let (k, v) = (Array4::from_elem((1, 2, 5, 8), 0.5), Array4::ones((1, 2, 5, 8)));
/// let mut cache = Cache::<f32>::new((1, 2, 1024, 8), 8)?;
/// cache.append(k.view(), v.view())?;
/// // The next token: one query, four heads.
/// let q = Array4::<f32>::ones((1, 4, 1, 8));
/// let forward = Attention::new().decode(q.view(), &cache.view())?;
/// assert_eq!(forward.out[[0, 3, 0, 7]], 1.0);
/// # Ok::<(), regard_kernels::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cache<C: CacheNumber> {
    /// `[batch, kv_heads, capacity, head_dim]`, and the scale of each row if the numbers are `i8`.
    keys: (Array4<C>, Array3<f32>),
    /// `[batch, kv_heads, capacity, value_dim]`, likewise.
    values: (Array4<C>, Array3<f32>),
    lengths: Vec<usize>,
}

impl<C: CacheNumber> Cache<C> {
    /// An empty one for keys of shape `[batch, kv_heads, capacity, head_dim]`.
    ///
    /// # Errors
    /// More than there is memory for.
    pub fn new(
        (batch, kv_heads, capacity, head_dim): (usize, usize, usize, usize),
        value_dim: usize,
    ) -> Result<Self, Error> {
        let empty = |name, width| {
            let rows = (batch, kv_heads, capacity);
            Ok((
                filled(name, (rows.0, rows.1, rows.2, width), C::default())?,
                filled(name, rows, 1.0)?,
            ))
        };
        Ok(Self {
            keys: empty("keys", head_dim)?,
            values: empty("values", value_dim)?,
            lengths: filled("lengths", batch, 0)?.to_vec(),
        })
    }

    /// How many keys each batch row holds.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Forgets the keys of a batch row from `length` on, as when a draft is rejected or a row is used again.
    ///
    /// # Panics
    /// A row that there is not.
    pub fn truncate(&mut self, row: usize, length: usize) {
        self.lengths[row] = self.lengths[row].min(length);
    }

    /// Adds as many keys and values to every batch row: `[batch, kv_heads, new, head_dim]` and `[…, value_dim]`. What is
    /// there is not moved.
    ///
    /// # Errors
    /// Shapes that do not fit; a row without room for them. Nothing is added then.
    pub fn append(&mut self, k: ArrayView4<'_, f32>, v: ArrayView4<'_, f32>) -> Result<(), Error> {
        let (batch, kv_heads, capacity, head_dim) = self.keys.0.dim();
        let new = k.dim().2;
        let of_cache = "the batch, heads and widths of the cache";
        expect_shape("k", k.shape(), &[batch, kv_heads, new, head_dim], of_cache)?;
        let value_dim = self.values.0.dim().3;
        expect_shape("v", v.shape(), &[batch, kv_heads, new, value_dim], of_cache)?;
        let mut lengths = self.lengths.iter().enumerate();
        if let Some((row, &length)) = lengths.find(|&(_, &length)| capacity - length < new) {
            return Err(Error::CacheFull {
                row,
                length,
                added: new,
                capacity,
            });
        }
        for (from, (numbers, scales)) in [(k, &mut self.keys), (v, &mut self.values)] {
            let mut row = vec![0.0; from.dim().3];
            for (b, &length) in self.lengths.iter().enumerate() {
                for (h, i) in (0..kv_heads).flat_map(|h| (0..new).map(move |i| (h, i))) {
                    let given = from.slice(s![b, h, i, ..]);
                    row.iter_mut()
                        .zip(given)
                        .for_each(|(row, &given)| *row = given);
                    let mut into = numbers.slice_mut(s![b, h, length + i, ..]);
                    let into = into.as_slice_mut().expect("made here, in standard layout");
                    scales[[b, h, length + i]] = C::keep(&row, into);
                }
            }
        }
        self.lengths.iter_mut().for_each(|length| *length += new);
        Ok(())
    }

    /// What [`Attention::decode`] reads.
    pub fn view(&self) -> Cached<'_> {
        Cached {
            keys: Numbers::new(C::stored(self.keys.0.view(), self.keys.1.view())),
            values: Numbers::new(C::stored(self.values.0.view(), self.values.1.view())),
            lengths: &self.lengths,
        }
    }
}

/// The keys and values of a cache, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    keys: Numbers<'a>,
    values: Numbers<'a>,
    lengths: &'a [usize],
}

impl<'a> Cached<'a> {
    /// Pages of keys and values that several rows share: `[pages, kv_heads, page_size, head_dim]` and `[…, value_dim]`.
    /// Key `j` of batch row `b` is row `j % page_size` of the page `table[b, j / page_size]`; the row has `lengths[b]` of
    /// them. (Kwon et al. 2023, "PagedAttention".)
    ///
    /// # Errors
    /// Shapes that do not fit; a length that the table has no pages for; a page that is not there, where it is needed.
    pub fn paged<C: Element + CacheNumber>(
        keys: ArrayView4<'a, C>,
        values: ArrayView4<'a, C>,
        table: ArrayView2<'a, usize>,
        lengths: &'a [usize],
    ) -> Result<Self, Error> {
        let (pages, kv_heads, size, _) = keys.dim();
        let value_dim = values.dim().3;
        let of_keys = "the pages, heads and page size of `keys`";
        expect_shape(
            "values",
            values.shape(),
            &[pages, kv_heads, size, value_dim],
            of_keys,
        )?;
        let (batch, columns) = table.dim();
        if lengths.len() != batch {
            return Err(Error::Length {
                name: "lengths",
                found: lengths.len(),
                expected: batch,
                per: "row of `table`",
            });
        }
        for (row, &length) in lengths.iter().enumerate() {
            if length > columns * size {
                return Err(Error::TooManyKeys {
                    name: "lengths",
                    row,
                    found: length,
                    keys: columns * size,
                });
            }
            let used = length.div_ceil(size.max(1));
            let named = table.row(row);
            let missing = |&(_, &page): &(usize, &usize)| page >= pages;
            if let Some((column, &found)) = named.iter().take(used).enumerate().find(missing) {
                return Err(Error::Page {
                    row,
                    column,
                    found,
                    pages,
                });
            }
        }
        let rows = lengths.iter().copied().max().unwrap_or_default();
        Ok(Self {
            keys: C::numbers(keys).paged(table, rows),
            values: C::numbers(values).paged(table, rows),
            lengths,
        })
    }
}

impl Attention<'_> {
    /// Attention of the last `queries` tokens of every row, `[batch, heads, queries, head_dim]`, over the keys of a cache,
    /// which holds theirs too. A long cache is read by several threads, once for all heads of a group.
    ///
    /// Query `i` of a row of length `n` stands at key `n − queries + i`: there a window lies around it, and with
    /// [`Causal::BottomRight`] it sees no key behind. A single query needs no causal rule.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); options that say where queries stand or how many keys are visible, which the cache
    /// does.
    pub fn decode<E: Element<Sum = f32>>(
        &self,
        q: ArrayView4<'_, E>,
        cached: &Cached<'_>,
    ) -> Result<Forward<E>, Error> {
        let isa = self.chosen_isa()?;
        let knows = "it knows how many keys each row has";
        for (name, given, reason) in [
            ("visible_keys", self.visible_keys.is_some(), knows),
            ("offsets", self.offsets.is_some(), knows),
            (
                "causal",
                !matches!(self.causal, None | Some(Causal::BottomRight)),
                "the queries are the last of each row, which is `BottomRight`",
            ),
        ] {
            if given {
                return Err(Error::NotCached { name, reason });
            }
        }
        let (batch, heads, queries, _) = q.dim();
        let offsets: Vec<isize> = cached
            .lengths
            .iter()
            .map(|&length| length as isize - queries as isize)
            .collect();
        let (keys, values) = (cached.keys.view(), cached.values.view());
        let mut problem = self.check(E::numbers(q.view()), keys, values)?;
        problem.visibility.visible_keys = Some(cached.lengths);
        problem.visibility.offsets = Some(&offsets);
        let width = cached.values.dim().3;
        let mut out = filled("out", (batch, heads, queries, width), E::default())?;
        let mut log_sum_exp = filled("log_sum_exp", (batch, heads, queries), 0.0)?;
        E::forward(isa, &problem, out.view_mut(), log_sum_exp.view_mut());
        Ok(Forward { out, log_sum_exp })
    }
}
