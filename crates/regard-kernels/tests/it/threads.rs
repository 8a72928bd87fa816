//! The number of threads, and who else is in the batch, change no bit of a result.

use ndarray::{Array4, s};
use rayon::ThreadPoolBuilder;
use regard_kernels::{Attention, Causal, Forward, Gradients, Isa};

use crate::numbers::random;

fn both(attention: &Attention<'_>, x: &[Array4<f32>; 4]) -> (Forward, Gradients) {
    let forward = attention
        .forward(x[0].view(), x[1].view(), x[2].view())
        .expect("a good call");
    let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
    let gradients = attention
        .backward(x[0].view(), x[1].view(), x[2].view(), out, lse, x[3].view())
        .expect("a good call");
    (forward, gradients)
}

fn numbers(batch: usize, heads: usize, kv_heads: usize, length: usize) -> [Array4<f32>; 4] {
    [
        random((batch, heads, length, 16), 1),
        random((batch, kv_heads, length, 16), 2),
        random((batch, kv_heads, length, 16), 3),
        random((batch, heads, length, 16), 4),
    ]
}

#[test]
fn results_are_bit_identical_for_any_number_of_threads() {
    let bias = random((1, 1, 700, 700), 5);
    for isa in Isa::available() {
        // The keys of 10 heads are cut, and as many heads meet them at a time as there are threads for.
        for (batch, heads, kv_heads) in [(1, 2, 1), (4, 8, 4), (2, 5, 5)] {
            let x = numbers(batch, heads, kv_heads, 700);
            let attention = Attention::new()
                .isa(isa)
                .causal(Causal::TopLeft)
                .bias(bias.view())
                .bias_gradient(true);
            let with = |threads: usize| {
                let pool = ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads");
                pool.install(|| both(&attention, &x))
            };
            let one = with(1);
            for threads in [2, 3, 7] {
                assert_eq!(one, with(threads), "{isa}, {threads} threads");
            }
        }
    }
}

#[test]
fn small_heads_are_bit_identical_for_any_number_of_threads_and_wherever_they_lie() {
    for isa in Isa::available() {
        for (batch, heads, kv_heads) in [(1, 600, 300), (150, 4, 2)] {
            let x = numbers(batch, heads, kv_heads, 18);
            let attention = Attention::new().isa(isa);
            let with = |threads: usize, x: &[Array4<f32>; 4]| {
                let pool = ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads");
                pool.install(|| both(&attention, x))
            };
            let one = with(1, &x);
            for threads in [2, 3, 7] {
                assert_eq!(one, with(threads, &x), "{isa}, {threads} threads");
            }
            // The same numbers, sequence before heads and width before sequence.
            let turned = x.clone().map(|x| {
                let turned = x
                    .permuted_axes([0, 3, 2, 1])
                    .as_standard_layout()
                    .to_owned();
                turned.permuted_axes([0, 3, 2, 1])
            });
            assert_eq!(one, with(2, &turned), "{isa}");
        }
    }
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    for (isa, length) in Isa::available()
        .into_iter()
        .flat_map(|isa| [(isa, 20), (isa, 100)])
    {
        let x = numbers(2, 2, 1, length);
        let attention = Attention::new().isa(isa);
        let exchanged = [0, 1, 2, 3].map(|i: usize| x[i].slice(s![..;-1, .., .., ..]).to_owned());
        let (forward, gradients) = both(&attention, &x);
        let (other_forward, other_gradients) = both(&attention, &exchanged);
        assert_eq!(forward.out, other_forward.out.slice(s![..;-1, .., .., ..]));
        assert_eq!(gradients.k, other_gradients.k.slice(s![..;-1, .., .., ..]));
    }
}

#[test]
fn queries_that_meet_the_keys_in_two_waves_give_what_each_head_gives_alone_in_one() {
    // 530 keys are 2 parts; 4 MiB hold their sums for 512 queries of four heads of 256 numbers, and for 2,048 of one head.
    let x = [1, 2, 3, 4].map(|salt| random((1, 4, 530, 256), salt));
    let attention = Attention::new().causal(Causal::TopLeft);
    let (_, together) = both(&attention, &x);
    for head in 0..4 {
        let of_head = |x: &Array4<f32>| x.slice(s![.., head..=head, .., ..]).to_owned();
        let (_, alone) = both(&attention, &[0, 1, 2, 3].map(|i: usize| of_head(&x[i])));
        assert_eq!(of_head(&together.q), alone.q, "dq of head {head}");
        assert_eq!(of_head(&together.k), alone.k, "dk of head {head}");
        assert_eq!(of_head(&together.v), alone.v, "dv of head {head}");
    }
}
