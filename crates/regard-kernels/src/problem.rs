//! One checked call: what the kernels may take for granted.

use ndarray::{Array4, ArrayView2, ArrayView4};

use crate::attention::Attention;
use crate::mask::Visibility;
use crate::memory::expect_room;
use crate::numbers::Numbers;
use crate::{Blocks, Dropout, Error, Precision, reference};

/// Shapes fit, and the mask and the bias are broadcast to `[batch, heads, queries, keys]`.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    pub(crate) q: Numbers<'a>,
    pub(crate) k: Numbers<'a>,
    pub(crate) v: Numbers<'a>,
    pub(crate) scale: f64,
    pub(crate) visibility: Visibility<'a>,
    pub(crate) softcap: Option<f64>,
    pub(crate) bias: Option<Numbers<'a>>,
    pub(crate) slopes: Option<&'a [f32]>,
    pub(crate) sinks: Option<&'a [f32]>,
    pub(crate) dropout: Option<Dropout>,
    /// What batch row 0 is counted as by dropout.
    pub(crate) first_row: usize,
    /// Whether f32 is rounded to bf16 for the products, where the processor multiplies that.
    pub(crate) rounded: bool,
}

impl Problem<'_> {
    pub(crate) fn out_shape(&self) -> [usize; 4] {
        let (batch, heads, queries, _) = self.q.dim();
        [batch, heads, queries, self.v.dim().3]
    }

    /// How many query heads read one key head: 0 only where there are no query heads.
    pub(crate) fn group(&self) -> usize {
        self.q.dim().1 / self.k.dim().1.max(1)
    }

    /// Whether a query may attend to a key.
    pub(crate) fn sees(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        self.visibility.sees(batch, head, query, key)
            && self
                .bias
                .is_none_or(|bias| bias.at(batch, head, query, key) != f64::NEG_INFINITY)
    }
}

/// The options of a call in f64, for the definition.
pub(crate) struct InDouble {
    bias: Option<Array4<f64>>,
    sinks: Option<Vec<f64>>,
    slopes: Option<Vec<f64>>,
}

impl InDouble {
    pub(crate) fn of(attention: &Attention<'_>) -> Self {
        let list = |list: Option<&[f32]>| {
            list.map(|list| list.iter().copied().map(f64::from).collect::<Vec<f64>>())
        };
        Self {
            bias: attention.bias.map(Numbers::to_f64),
            sinks: list(attention.sinks),
            slopes: list(attention.slopes),
        }
    }

    pub(crate) fn options<'b>(&'b self, attention: &'b Attention<'_>) -> reference::Options<'b> {
        reference::Options {
            scale: attention.scale,
            causal: attention.causal,
            offsets: attention.offsets,
            prefix: attention.prefix,
            visible_keys: attention.visible_keys,
            mask: attention.mask.as_ref().map(|mask| mask.view()),
            documents: attention.document_views(),
            blocks: attention.blocks.as_ref().map(Blocks::view),
            bias: self.bias.as_ref().map(|bias| bias.view()),
            slopes: self.slopes.as_deref(),
            window: attention.window,
            softcap: attention.softcap,
            sinks: self.sinks.as_deref(),
            dropout: attention.dropout,
        }
    }
}

impl Attention<'_> {
    /// Everything that the kernels may then take for granted.
    pub(crate) fn check<'b>(
        &'b self,
        q: Numbers<'b>,
        k: Numbers<'b>,
        v: Numbers<'b>,
    ) -> Result<Problem<'b>, Error> {
        let (batch, heads, queries, head_dim) = q.dim();
        let (_, kv_heads, keys, _) = k.dim();
        expect_shape(
            "k",
            &shape(&k),
            &[batch, kv_heads, keys, head_dim],
            "the batch and head_dim of `q`",
        )?;
        expect_shape(
            "v",
            &shape(&v),
            &[batch, kv_heads, keys, v.dim().3],
            "the batch, heads and keys of `k`",
        )?;
        if (kv_heads == 0 && heads != 0) || (kv_heads != 0 && heads % kv_heads != 0) {
            return Err(Error::Heads { heads, kv_heads });
        }
        check_width(head_dim, v.dim().3)?;
        self.check_numbers()?;
        let per_row = |name, length: Option<usize>| expect_length(name, length, batch, "batch row");
        per_row("visible_keys", self.visible_keys.map(<[usize]>::len))?;
        per_row("prefix", self.prefix.map(<[usize]>::len))?;
        per_row("offsets", self.offsets.map(<[isize]>::len))?;
        for (name, numbers) in [("visible_keys", self.visible_keys), ("prefix", self.prefix)] {
            let too_many = |&(_, &found): &(usize, &usize)| found > keys;
            if let Some((row, &found)) = numbers
                .unwrap_or_default()
                .iter()
                .enumerate()
                .find(too_many)
            {
                return Err(Error::TooManyKeys {
                    name,
                    row,
                    found,
                    keys,
                });
            }
        }
        let per_head = |name, list: Option<&[f32]>| {
            expect_length(name, list.map(<[f32]>::len), heads, "head of `q`")
        };
        per_head("sinks", self.sinks)?;
        per_head("slopes", self.slopes)?;
        if let Some((of_query, of_key)) = &self.documents {
            let expected = "[batch, queries] and [batch, keys]";
            expect_shape("documents", of_query.shape(), &[batch, queries], expected)?;
            expect_shape("documents", of_key.shape(), &[batch, keys], expected)?;
        }
        if let Some(blocks) = &self.blocks {
            let (rows, columns) = blocks.size;
            if rows == 0 || columns == 0 {
                return Err(Error::BlockSize { rows, columns });
            }
            let expected = [batch, heads, queries.div_ceil(rows), keys.div_ceil(columns)];
            let found = blocks.visible.shape();
            let fits =
                |axis: usize| found[axis] == expected[axis] || (axis < 2 && found[axis] == 1);
            if !(0..4).all(fits) {
                return Err(Error::Shape {
                    name: "blocks",
                    found: found.to_vec(),
                    expected: expected.to_vec(),
                    reason: "[batch or 1, heads or 1, blocks of queries, blocks of keys]",
                });
            }
        }
        let scores = [batch, heads, queries, keys];
        let misfit = |name, found: &[usize]| Error::Broadcast {
            name,
            found: found.to_vec(),
            expected: scores.to_vec(),
        };
        let mask: Option<ArrayView4<'b, bool>> = match &self.mask {
            Some(mask) => Some(
                mask.broadcast(scores)
                    .ok_or_else(|| misfit("mask", mask.shape()))?,
            ),
            None => None,
        };
        let bias: Option<Numbers<'b>> = match &self.bias {
            Some(bias) => {
                Some(Numbers::broadcast(bias, scores).ok_or_else(|| misfit("bias", &shape(bias)))?)
            }
            None => None,
        };
        let (left, right) = self.window;
        Ok(Problem {
            q,
            k,
            v,
            scale: self
                .scale
                .unwrap_or_else(|| 1.0 / (head_dim.max(1) as f64).sqrt()),
            visibility: Visibility {
                keys,
                diagonal: self.causal.map_or(0, |causal| causal.offset(queries, keys)),
                offsets: self.offsets,
                left,
                right: self.causal.map_or(right, |_| Some(0)),
                prefix: self.prefix,
                visible_keys: self.visible_keys,
                documents: self.document_views(),
                blocks: self.blocks.as_ref().map(Blocks::view),
                mask,
            },
            softcap: self.softcap,
            bias,
            slopes: self.slopes,
            sinks: self.sinks,
            dropout: self.dropout.filter(|dropout| dropout.probability > 0.0),
            first_row: 0,
            rounded: Precision::here() == Precision::Bf16,
        })
    }

    /// The views, for as long as the options are borrowed.
    fn document_views(&self) -> Option<(ArrayView2<'_, i32>, ArrayView2<'_, i32>)> {
        self.documents
            .as_ref()
            .map(|(of_query, of_key)| (of_query.view(), of_key.view()))
    }

    /// Single numbers that make no sense whatever the shapes.
    fn check_numbers(&self) -> Result<(), Error> {
        if let Some(cap) = self.softcap
            && !(cap > 0.0 && cap.is_finite())
        {
            return Err(Error::Softcap {
                found: cap.to_string(),
            });
        }
        if let Some(Dropout { probability, .. }) = self.dropout
            && !(0.0..1.0).contains(&probability)
        {
            return Err(Error::Dropout {
                found: probability.to_string(),
            });
        }
        Ok(())
    }
}

/// The kernels keep some rows of `q`, `k` and `v` for each thread: at most 400, counted. That is worth asking for only where
/// rows are so long that a view with strides of zero must be behind them.
fn check_width(head_dim: usize, value_dim: usize) -> Result<(), Error> {
    for (name, width) in [("q", head_dim), ("v", value_dim)] {
        if width > 1 << 16 {
            let shape = [rayon::current_num_threads(), 400, width];
            expect_room(name, &shape, size_of::<f64>())?;
        }
    }
    Ok(())
}

pub(crate) fn shape(numbers: &Numbers<'_>) -> [usize; 4] {
    let (batch, heads, rows, width) = numbers.dim();
    [batch, heads, rows, width]
}

pub(crate) fn expect_shape(
    name: &'static str,
    found: &[usize],
    expected: &[usize],
    reason: &'static str,
) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        name,
        found: found.to_vec(),
        expected: expected.to_vec(),
        reason,
    })
}

fn expect_length(
    name: &'static str,
    found: Option<usize>,
    expected: usize,
    per: &'static str,
) -> Result<(), Error> {
    match found {
        Some(found) if found != expected => Err(Error::Length {
            name,
            found,
            expected,
            per,
        }),
        _ => Ok(()),
    }
}
