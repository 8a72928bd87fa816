//! The backward pass whose results are no sums: of half types, and of f32 whose rows do not lie one behind the other.
//!
//! The sums are f32 in the room of a thread, and each number of a result is written once. The formulas are those of
//! [`backward`](super::backward). `dq` of a block of queries is summed while the block meets the keys; `dk` and `dv` are summed over
//! all queries, so a thread holds those of a whole head, if it can. If it cannot, it holds `dq` of the head and meets its keys part by
//! part. If it cannot do that either, all pairs are met twice: by some keys at a time for `dk` and `dv`, and by some queries at a
//! time for `dq`. That is seven products instead of five, in memory that does not grow with the length.

use std::ops::Range;

use ndarray::ArrayViewMut2;

use super::backward::{Known, PART, part_of};
use super::part::{OfKeys, OfQueries, Part, room, run};
use super::tiles::{RowsMut, lines, outer, split, with_room};
use crate::problem::Problem;
use crate::results::GradientsMut;
use crate::{Element, Isa};

/// Numbers of a thread's room: 4 MiB, less a line to begin at.
const ROOM: usize = (1 << 20) - 16;
/// With as many heads as this, or so few keys, a head is a task. The pass over sums asks for more heads: it pays for more tasks
/// with an addition, this one by meeting all pairs twice (2 heads of 2,048 with AVX2: 46 ms instead of 34 on two threads).
const HEADS_ENOUGH: usize = 4;
const FEW_KEYS: usize = PART;

/// Fills `into` with the gradients of `q`, `k` and `v`.
pub(super) fn backward<'p, E: Element<Sum = f32>>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    into: GradientsMut<'_, E>,
) {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, _, keys, value_dim) = problem.v.dim();
    let way = Way::of(isa, problem);
    let products = match way {
        Way::Heads(_) => 5,
        Way::Twice(_) => 7,
    };
    let operations = products * batch * heads * queries * keys * (head_dim + value_dim);
    super::for_each(shares(problem, into, way), operations, |share| {
        share.run(isa, problem, known);
    });
}

/// What a task is.
#[derive(Clone, Copy)]
enum Way {
    /// A head, which meets so many keys at a time.
    Heads(usize),
    /// So many keys of a head, which all its queries meet, or so many queries, which meet all keys.
    Twice(usize),
}

impl Way {
    fn of(isa: Isa, problem: &Problem<'_>) -> Self {
        let (batch, _, queries, head_dim) = problem.q.dim();
        let (_, kv_heads, keys, value_dim) = problem.v.dim();
        let (free, width) = (
            ROOM.saturating_sub(room(isa, problem)),
            (head_dim + value_dim).max(1),
        );
        // A part at least, however wide its rows.
        let held = (free / width).max(PART);
        let many = batch * kv_heads >= HEADS_ENOUGH;
        if keys <= held && (many || keys <= FEW_KEYS) {
            return Way::Heads(keys.max(1));
        }
        let sums = problem.group() * queries * head_dim;
        let held_beside = free.saturating_sub(lines(sums)) / width / PART * PART;
        match many && held_beside > 0 {
            true => Way::Heads(held_beside),
            false => Way::Twice(part_of(keys).min(held / PART * PART)),
        }
    }
}

/// What a task meets, and the results that it writes.
struct Share<'a> {
    batch: usize,
    kv_head: usize,
    queries: Range<usize>,
    dq: Vec<RowsMut<'a>>,
    parts: Vec<Keys<'a>>,
}

/// Some keys, and where their gradients go, if they are asked for.
struct Keys<'a> {
    keys: Range<usize>,
    into: Option<[RowsMut<'a>; 2]>,
}

impl Share<'_> {
    fn run<'p>(self, isa: Isa, problem: &Problem<'p>, known: &Known<'p, f32>) {
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let Share {
            batch,
            kv_head,
            queries,
            mut dq,
            parts,
        } = self;
        let asked = parts.iter().filter(|part| part.into.is_some());
        let keys = asked.map(|part| part.keys.len()).max().unwrap_or(0);
        let (of_dk, of_dv) = (keys * head_dim, keys * value_dim);
        // The keys of one part give a query's gradient whole.
        let of_head = queries.len() * head_dim;
        let of_dq = if parts.len() > 1 {
            dq.len() * of_head
        } else {
            0
        };
        let room = room(isa, problem);
        with_room(lines(of_dk + of_dv) + lines(of_dq) + room, |all| {
            let (of_keys, all) = all.split_at_mut(lines(of_dk + of_dv));
            let (sums, room) = all.split_at_mut(lines(of_dq));
            let mut begin = true;
            for Keys { keys, mut into } in parts {
                let rows = match of_dq {
                    0 => dq.iter_mut().map(RowsMut::view_mut).collect(),
                    _ => sums_of_heads(&mut sums[..of_dq], (queries.len(), head_dim)),
                };
                let (dk, dv) = of_keys.split_at_mut(of_dk);
                let count = keys.len();
                let part = Part {
                    problem,
                    known,
                    batch,
                    kv_head,
                    keys,
                    queries: queries.clone(),
                    of_queries: OfQueries { begin, dq: rows },
                    of_keys: into.as_mut().map(|into| OfKeys {
                        begin: true,
                        dk: &mut dk[..count * head_dim],
                        dv: &mut dv[..count * value_dim],
                        into: Some(into.each_mut().map(RowsMut::view_mut)),
                    }),
                };
                run(isa, part, room);
                begin = false;
            }
            for (dq, sums) in dq
                .iter_mut()
                .zip(sums[..of_dq].chunks_exact(of_head.max(1)))
            {
                for (i, row) in sums.chunks_exact(head_dim).enumerate() {
                    dq.write(i, row, 1.0);
                }
            }
        });
    }
}

/// Rows of sums, for each head of a group.
fn sums_of_heads(sums: &mut [f32], (queries, head_dim): (usize, usize)) -> Vec<RowsMut<'_>> {
    sums.chunks_exact_mut(queries * head_dim)
        .map(|sums| {
            let rows = ArrayViewMut2::from_shape((queries, head_dim), sums);
            RowsMut::F32(rows.expect("as many numbers as rows have"))
        })
        .collect()
}

fn shares<'a, E: Element<Sum = f32>>(
    problem: &Problem<'_>,
    into: GradientsMut<'a, E>,
    way: Way,
) -> Vec<Share<'a>> {
    let (queries, keys) = (problem.q.dim().2, problem.v.dim().2);
    let mut shares = Vec::new();
    let of_batch = outer(into.q).zip(outer(into.k)).zip(outer(into.v));
    for (batch, ((dq, dk), dv)) in of_batch.enumerate() {
        let of_head = split(dq, problem.group().max(1)).into_iter();
        for (kv_head, ((dq, dk), dv)) in of_head.zip(outer(dk)).zip(outer(dv)).enumerate() {
            let (Way::Heads(part) | Way::Twice(part)) = way;
            let of_parts = split(dk, part).into_iter().zip(split(dv, part));
            let of_parts = of_parts.enumerate().map(|(p, (dk, dv))| Keys {
                keys: p * part..keys.min((p + 1) * part),
                into: Some([E::rows_mut(dk), E::rows_mut(dv)]),
            });
            let mut parts: Vec<Keys<'a>> = of_parts.collect();
            if parts.is_empty() {
                // Without keys the gradient of the queries is 0.
                parts.push(Keys {
                    keys: 0..0,
                    into: None,
                });
            }
            let share = |queries: Range<usize>, parts: Vec<Keys<'a>>| Share {
                batch,
                kv_head,
                queries,
                dq: Vec::new(),
                parts,
            };
            if let Way::Heads(_) = way {
                shares.push(Share {
                    dq: outer(dq).map(E::rows_mut).collect(),
                    ..share(0..queries, parts)
                });
                continue;
            }
            shares.extend(parts.into_iter().map(|keys| share(0..queries, vec![keys])));
            let all = || Keys {
                keys: 0..keys,
                into: None,
            };
            let mut of_queries: Vec<Share<'a>> = (0..queries)
                .step_by(part)
                .map(|first| share(first..queries.min(first + part), vec![all()]))
                .collect();
            for dq in outer(dq) {
                for (share, dq) in of_queries.iter_mut().zip(split(dq, part)) {
                    share.dq.push(E::rows_mut(dq));
                }
            }
            shares.extend(of_queries);
        }
    }
    shares
}
