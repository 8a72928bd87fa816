//! Memory that begins on a cache line: a row of a tile register is one, and would be read as two.

/// Numbers of a cache line.
const LINE: usize = 16;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Numbers, the first of which begins a cache line.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// At least so many numbers of any value; what is there stays.
    pub(super) fn at_least(&mut self, numbers: usize) -> &mut [f32] {
        let lines = numbers.div_ceil(LINE);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LINE]));
        }
        let pointer = self.0.as_mut_ptr().cast::<f32>();
        // SAFETY: a line is so many numbers and nothing else, and `numbers` of them are there.
        unsafe { std::slice::from_raw_parts_mut(pointer, numbers) }
    }

    /// The first `numbers`.
    ///
    /// # Panics
    /// If there are fewer.
    pub(super) fn first(&self, numbers: usize) -> &[f32] {
        assert!(numbers <= self.0.len() * LINE);
        // SAFETY: a line is so many numbers and nothing else, and `numbers` of them are there.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<f32>(), numbers) }
    }
}
