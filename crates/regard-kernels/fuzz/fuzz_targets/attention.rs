//! The builder: forward, backward, and what the weights say, with every kind of number and instruction set.
#![no_main]

use libfuzzer_sys::fuzz_target;
use regard_kernels::{Attention, Element, Isa, bf16, f16};
use regard_kernels_fuzz::{Layout, Numbers, Options, Shape};

fuzz_target!(|call: (Shape, [Layout; 4], Options, u8)| {
    let (shape, layouts, options, of) = call;
    let [q, k, _] = shape.of_arrays();
    let made = options.make([q[0], q[1], q[2], k[2]]);
    let attention = options.attention(&made);
    match of % 4 {
        0 => passes::<bf16>(&attention, &shape, layouts, of),
        1 => passes::<f16>(&attention, &shape, layouts, of),
        2 => passes::<f64>(&attention, &shape, layouts, of),
        _ => passes::<f32>(&attention, &shape, layouts, of),
    }
});

fn passes<E: Element>(attention: &Attention<'_>, shape: &Shape, layouts: [Layout; 4], of: u8) {
    let [of_q, of_k, of_v] = shape.of_arrays();
    let [q, k, v] =
        [(of_q, 0), (of_k, 1), (of_v, 2)].map(|(shape, at)| Numbers::<E>::new(shape, layouts[at]));
    let d_out = Numbers::<E>::new([of_q[0], of_q[1], of_q[2], of_v[3]], layouts[3]);
    let mut refused = Vec::new();
    for isa in Isa::available() {
        let attention = attention.clone().isa(isa);
        let forward = attention.forward(q.view(), k.view(), v.view());
        refused.push(forward.is_err());
        let Ok(forward) = forward else { continue };
        let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
        let gradients = attention.backward(q.view(), k.view(), v.view(), out, lse, d_out.view());
        if let Ok(gradients) = gradients {
            assert_eq!(gradients.k.shape(), k.view().shape());
        }
        if of < 64 {
            attention
                .key_sums(q.view(), k.view())
                .expect("what forward takes");
            attention
                .top_weights(q.view(), k.view(), of.into())
                .expect("what forward takes");
        }
    }
    assert!(
        refused.windows(2).all(|pair| pair[0] == pair[1]),
        "what is refused does not depend on the processor"
    );
}
