//! The backward pass whose results are no sums: of half types, and of f32 whose rows do not lie one behind the other.
//!
//! The sums are f32 in the room of a thread, and each number of a result is written once. The formulas are those of
//! [`backward`](super::backward). `dq` of a block of queries is summed while the block meets the keys; `dk` and `dv` are summed over
//! all queries, so a thread holds those of a whole head, if it can. If it cannot, all pairs are met twice: by some keys at a
//! time for `dk` and `dv`, and by some queries at a time for `dq`. That is seven products instead of five, in memory that does not
//! grow with the length.

use std::ops::Range;

use super::backward::{Known, PART, part_of};
use super::part::{OfKeys, Part, room, run};
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
    let (_, kv_heads, keys, value_dim) = problem.v.dim();
    let (room, width) = (room(isa, problem), head_dim + value_dim);
    // A part at least, however wide its rows.
    let held = (ROOM.saturating_sub(room) / width.max(1)).max(PART);
    let many = batch * kv_heads >= HEADS_ENOUGH;
    let turns = match keys <= held && (many || keys <= FEW_KEYS) {
        true => Turns::One,
        false => Turns::Two(part_of(keys).min(held / PART * PART)),
    };
    let products = match turns {
        Turns::One => 5,
        Turns::Two(_) => 7,
    };
    let operations = products * batch * heads * queries * keys * width;
    super::for_each(shares(problem, into, turns), operations, |share| {
        let sums = share
            .of_keys
            .as_ref()
            .map_or(0, |_| share.keys.len() * width);
        with_room(lines(sums) + room, |all| {
            let (sums, room) = all.split_at_mut(lines(sums));
            let of_keys = share.of_keys.map(|into| {
                let (dk, rest) = sums.split_at_mut(share.keys.len() * head_dim);
                OfKeys {
                    begin: true,
                    dk,
                    dv: &mut rest[..share.keys.len() * value_dim],
                    into: Some(into),
                }
            });
            let part = Part {
                problem,
                known,
                batch: share.batch,
                kv_head: share.kv_head,
                keys: share.keys,
                queries: share.queries,
                dq: share.dq,
                of_keys,
            };
            run(isa, part, room);
        });
    });
}

/// How often all pairs are met: the second time by so many keys, or queries, at a time.
#[derive(Clone, Copy)]
enum Turns {
    One,
    Two(usize),
}

/// What a task meets, and the results that it writes.
struct Share<'a> {
    batch: usize,
    kv_head: usize,
    keys: Range<usize>,
    queries: Range<usize>,
    dq: Vec<RowsMut<'a>>,
    of_keys: Option<[RowsMut<'a>; 2]>,
}

fn shares<'a, E: Element<Sum = f32>>(
    problem: &Problem<'_>,
    into: GradientsMut<'a, E>,
    turns: Turns,
) -> Vec<Share<'a>> {
    let (queries, keys) = (problem.q.dim().2, problem.v.dim().2);
    let mut shares = Vec::new();
    let of_batch = outer(into.q).zip(outer(into.k)).zip(outer(into.v));
    for (batch, ((dq, dk), dv)) in of_batch.enumerate() {
        let of_head = split(dq, problem.group().max(1)).into_iter();
        for (kv_head, ((dq, dk), dv)) in of_head.zip(outer(dk)).zip(outer(dv)).enumerate() {
            let share = |keys: Range<usize>, queries: Range<usize>| Share {
                batch,
                kv_head,
                keys,
                queries,
                dq: Vec::new(),
                of_keys: None,
            };
            match turns {
                Turns::One => shares.push(Share {
                    dq: outer(dq).map(E::rows_mut).collect(),
                    of_keys: Some([E::rows_mut(dk), E::rows_mut(dv)]),
                    ..share(0..keys, 0..queries)
                }),
                Turns::Two(part) => {
                    let of_keys = split(dk, part).into_iter().zip(split(dv, part));
                    for (p, (dk, dv)) in of_keys.enumerate() {
                        shares.push(Share {
                            of_keys: Some([E::rows_mut(dk), E::rows_mut(dv)]),
                            ..share(p * part..keys.min((p + 1) * part), 0..queries)
                        });
                    }
                    let mut of_queries: Vec<Share<'a>> = (0..queries)
                        .step_by(part)
                        .map(|first| share(0..keys, first..queries.min(first + part)))
                        .collect();
                    for dq in outer(dq) {
                        for (share, dq) in of_queries.iter_mut().zip(split(dq, part)) {
                            share.dq.push(E::rows_mut(dq));
                        }
                    }
                    shares.extend(of_queries);
                }
            }
        }
    }
    shares
}
