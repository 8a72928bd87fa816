//! Sequences one after the other, at any boundaries, forward and backward.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ndarray::Axis;
use regard_kernels::{Packed, PackedUpstream};
use regard_kernels_fuzz::{Layout, Numbers, Options, Shape};

fuzz_target!(
    |call: (Shape, [Layout; 4], Options, Vec<(u8, u16)>, bool)| {
        let (shape, layouts, options, boundaries, fits) = call;
        let [
            [_, heads, queries, head_dim],
            [_, kv_heads, keys, width],
            [.., value_dim],
        ] = shape.of_arrays();
        let of_tokens = |tokens, heads, width, at: usize| {
            Numbers::<f32>::new([1, tokens, heads, width], layouts[at])
        };
        let (q, k) = (
            of_tokens(queries, heads, head_dim, 0),
            of_tokens(keys, kv_heads, width, 1),
        );
        let (v, d_out) = (
            of_tokens(keys, kv_heads, value_dim, 2),
            of_tokens(queries, heads, value_dim, 3),
        );
        let [q, k, v, d_out] =
            [&q, &k, &v, &d_out].map(|tokens| tokens.view().index_axis_move(Axis(0), 0));
        let (mut of_queries, mut of_keys): (Vec<usize>, Vec<usize>) = boundaries
            .iter()
            .map(|&(query, key)| (usize::from(query), usize::from(key)))
            .unzip();
        if fits {
            for (boundaries, end) in [(&mut of_queries, queries), (&mut of_keys, keys)] {
                boundaries
                    .iter_mut()
                    .for_each(|boundary| *boundary %= end + 1);
                boundaries.extend([0, end]);
                boundaries.sort_unstable();
            }
        }
        let packed = Packed {
            queries: &of_queries,
            keys: &of_keys,
        };
        let made = options.make([of_queries.len().saturating_sub(1), heads, queries, keys]);
        let attention = options.attention(&made);
        if let Ok(forward) = attention.forward_packed(q, k, v, packed) {
            let upstream = PackedUpstream {
                out: forward.out.view(),
                log_sum_exp: forward.log_sum_exp.view(),
                d_out,
            };
            if let Ok(gradients) = attention.backward_packed(q, k, v, packed, &upstream) {
                assert_eq!(
                    (gradients.q.shape(), gradients.k.shape()),
                    (q.shape(), k.shape())
                );
            }
        }
    }
);
