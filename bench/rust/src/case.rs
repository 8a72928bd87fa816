//! What is measured.

use ndarray::Array4;

/// One call: lengths, and what is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub causal: bool,
    /// Whether the rows of the batch have different numbers of keys, 5 to all.
    pub padded: bool,
    pub bias: bool,
}

const fn square(
    name: &'static str,
    batch: usize,
    heads: usize,
    length: usize,
    width: usize,
) -> Case {
    Case {
        name,
        batch,
        heads,
        kv_heads: heads,
        queries: length,
        keys: length,
        width,
        causal: false,
        padded: false,
        bias: false,
    }
}

const fn causal(case: Case) -> Case {
    Case {
        causal: true,
        ..case
    }
}

const fn decode(name: &'static str, batch: usize, keys: usize, width: usize) -> Case {
    Case {
        kv_heads: 8,
        queries: 1,
        keys,
        ..square(name, batch, 32, 1, width)
    }
}

/// Those of `bench/attention.py` that Burn or candle can be asked for.
pub const CASES: [Case; 14] = [
    square("short", 32, 8, 128, 64),
    square("short, width 32", 32, 8, 128, 32),
    square("short, width 80", 32, 8, 128, 80),
    square("medium", 8, 8, 512, 64),
    causal(square("medium causal", 8, 8, 512, 64)),
    causal(square("long causal 2048", 1, 8, 2048, 64)),
    causal(square("long causal 4096 × 128", 1, 8, 4096, 128)),
    square("long 4096", 1, 8, 4096, 64),
    square("vision", 16, 3, 197, 64),
    Case {
        queries: 40,
        keys: 60,
        padded: true,
        ..square("padded cross-attention", 32, 8, 40, 64)
    },
    decode("decode 4096 × 128", 1, 4096, 128),
    decode("decode 8 × 1024 × 64", 8, 1024, 64),
    Case {
        bias: true,
        ..square("bias with gradient", 8, 12, 384, 64)
    },
    square("tiny", 64, 4, 16, 16),
];

/// The arrays of a call.
pub struct Numbers {
    pub q: Array4<f32>,
    pub k: Array4<f32>,
    pub v: Array4<f32>,
    pub d_out: Array4<f32>,
    /// `[1, heads, queries, keys]`.
    pub bias: Option<Array4<f32>>,
    /// One a batch row.
    pub visible_keys: Option<Vec<usize>>,
}

impl Case {
    pub fn numbers(&self) -> Numbers {
        let of_queries = (self.batch, self.heads, self.queries, self.width);
        let of_keys = (self.batch, self.kv_heads, self.keys, self.width);
        let visible = |row: usize| 5 + row * (self.keys - 5) / (self.batch - 1).max(1);
        Numbers {
            q: random(of_queries, 1),
            k: random(of_keys, 2),
            v: random(of_keys, 3),
            d_out: random(of_queries, 4),
            bias: self
                .bias
                .then(|| random((1, self.heads, self.queries, self.keys), 5)),
            visible_keys: self.padded.then(|| (0..self.batch).map(visible).collect()),
        }
    }

    /// 4 · batch · heads · pairs · width, half of it if causal.
    pub fn operations(&self) -> f64 {
        let all = 4 * self.batch * self.heads * self.queries * self.keys * self.width;
        all as f64 / if self.causal { 2.0 } else { 1.0 }
    }

    pub fn decodes(&self) -> bool {
        self.queries == 1
    }

    /// Bytes of keys and values.
    pub fn cache_bytes(&self) -> usize {
        2 * self.batch * self.kv_heads * self.keys * self.width * size_of::<f32>()
    }

    /// Burn's backward keeps about twelve arrays as large as the scores: below 3 GB of them.
    pub fn fits_burns_backward(&self) -> bool {
        let scores = self.batch * self.heads * self.queries * self.keys * size_of::<f32>();
        !self.decodes() && 12 * scores < 3 << 30
    }
}

fn random(shape: (usize, usize, usize, usize), seed: u32) -> Array4<f32> {
    let mut state = seed;
    Array4::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}
