//! Caches that grow, are cut and are read, and pages in any order.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ndarray::Array2;
use regard_kernels::{Cache, CacheNumber, Cached, bf16, f16};
use regard_kernels_fuzz::{Layout, Numbers, Options, Shape};

#[derive(Arbitrary, Debug)]
enum Step {
    Append(u8, [Layout; 2]),
    Truncate(u8, u8),
    Decode(u8, Layout),
    Pages {
        table: Vec<u8>,
        rows: u8,
        lengths: Vec<u16>,
        layouts: [Layout; 3],
    },
}

fuzz_target!(|call: (Shape, Options, Vec<Step>, u8)| {
    let (shape, options, steps, of) = call;
    match of % 4 {
        0 => with::<f32>(&shape, &options, &steps),
        1 => with::<bf16>(&shape, &options, &steps),
        2 => with::<f16>(&shape, &options, &steps),
        _ => with::<i8>(&shape, &options, &steps),
    }
});

fn with<C: CacheNumber>(shape: &Shape, options: &Options, steps: &[Step]) {
    let [q, k, v] = shape.of_arrays();
    let (batch, kv_heads, capacity) = (k[0], k[1], k[2] % 300);
    let mut cache = Cache::<C>::new((batch, kv_heads, capacity, k[3]), v[3]).expect("it is small");
    for step in steps.iter().take(8) {
        match step {
            Step::Append(new, layouts) => {
                let rows = usize::from(*new) % 100;
                let k = Numbers::<f32>::new([batch, kv_heads, rows, k[3]], layouts[0]);
                let v = Numbers::<f32>::new([v[0], v[1], rows, v[3]], layouts[1]);
                let before = cache.lengths().to_vec();
                if cache.append(k.view(), v.view()).is_err() {
                    assert_eq!(cache.lengths(), before);
                }
            }
            Step::Truncate(row, length) if usize::from(*row) < batch => {
                cache.truncate((*row).into(), (*length).into())
            }
            Step::Truncate(..) => {}
            Step::Decode(queries, layout) => decode(
                [q[0], q[1], capacity, q[3]],
                usize::from(*queries) % 20,
                *layout,
                options,
                &cache.view(),
            ),
            Step::Pages {
                table,
                rows,
                lengths,
                layouts,
            } => {
                let (pages, size) = (k[2] % 9, k[2] % 17);
                let keys = Numbers::<f32>::new([pages, kv_heads, size, k[3]], layouts[0]);
                let values = Numbers::<f32>::new([pages, v[1], size, v[3]], layouts[1]);
                let rows = usize::from(*rows) % 4;
                let columns = table.len() / rows.max(1);
                let pages = table
                    .iter()
                    .take(rows * columns)
                    .map(|&page| usize::from(page) % (pages + 1))
                    .collect();
                let table = Array2::from_shape_vec((rows, columns), pages).expect("as many");
                let lengths: Vec<usize> = lengths
                    .iter()
                    .map(|&length| usize::from(length) % (columns * size + 2))
                    .collect();
                if let Ok(cached) =
                    Cached::paged(keys.view(), values.view(), table.view(), &lengths)
                {
                    let longest = lengths.iter().copied().max().unwrap_or_default();
                    decode(
                        [rows, q[1], longest, q[3]],
                        q[2] % 7,
                        layouts[2],
                        options,
                        &cached,
                    );
                }
            }
        }
    }
}

fn decode(
    [batch, heads, keys, width]: [usize; 4],
    queries: usize,
    layout: Layout,
    options: &Options,
    cached: &Cached<'_>,
) {
    let q = Numbers::<f32>::new([batch, heads, queries, width], layout);
    let made = options.make([batch, heads, queries, keys]);
    if let Ok(forward) = options.attention(&made).decode(q.view(), cached) {
        assert_eq!(forward.out.shape()[..3], q.view().shape()[..3]);
    }
}
