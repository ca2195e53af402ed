//! Products of operands that are rounded to bf16, with sums in f32, on processors that have AVX512-BF16 (Zen 4 and later,
//! Cooper Lake, Sapphire Rapids and later).
//!
//! The left operand is packed by all cores; then each core packs columns of the right one, a block of inner entries
//! at a time, and multiplies. How inner entries are divided depends on nothing else: the bits of a product are the same on
//! any number of threads. `vdpbf16ps` takes entries below 1.2e-38 as zero, and sums two products an instruction.
//!
//! Of the crates, `gemm` 0.19 has no bf16, and `gemmkit` 0.1 rounds the result to it as well.

mod pack;
mod tile;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::flex::matrix::{Matrix, Target};
use pack::{LANES, Pairs, Side, pairs_of};
use tile::{TILE_PANELS, TILE_ROWS, Tile};

/// Inner entries that a core multiplies at a time, at most: a sum seldom goes to memory and comes back.
const INNER: usize = 2048;
/// Pairs of right columns that it does so with, at most: 640 KiB, of 1 MiB that a core has beside it.
const RIGHT_PAIRS: usize = 10_240;
const TILE_COLUMNS: usize = TILE_PANELS * LANES;
/// Rows and columns of a task, at least, where there are enough of both: those of the right operand are packed for so many
/// rows, and those of the left one read for so many columns.
const TASK: [usize; 2] = [128, 8 * TILE_COLUMNS];
/// Panels of rows that a core packs at a time.
const PACKED_PANELS: usize = 8;
/// Pairs of the left operand that are packed at a time, at most: 4 MiB, which a shared cache holds.
const LEFT_PAIRS: usize = 1 << 16;
/// Panels that they are at least: the right operand is packed anew for each of these times.
const LEFT_PANELS: usize = 16;

thread_local! {
    /// Buffers for packed operands, which are kept: fresh memory costs as much as packing.
    static LEFT: Cell<Vec<Pairs>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<Pairs>> = const { Cell::new(Vec::new()) };
}

/// `[M, J] x [J, N]`, times a factor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bf16Product<'a> {
    left: Side<'a>,
    right: Side<'a>,
    factor: f32,
    parallel: bool,
    /// What each row begins with, where the product is not added to its target.
    bias: Option<&'a [f32]>,
}

impl<'a> Bf16Product<'a> {
    /// `None` without the instructions, or for a matrix neither whose rows nor whose columns lie side by side. `sizes` are M,
    /// J and N.
    pub fn new(
        sizes: [usize; 3],
        left: (&'a [f32], Matrix),
        right: (&'a [f32], Matrix),
        factor: f32,
        parallel: bool,
    ) -> Option<Self> {
        let [rows, inner, columns] = sizes;
        let side = |buffer, place, lanes| Side {
            buffer,
            place,
            lanes,
            inner,
        };
        let product = Self {
            left: side(left.0, left.1, rows),
            right: side(right.0, right.1.transposed(), columns),
            factor,
            parallel,
            bias: None,
        };
        let is_packable = product.left.is_packable() && product.right.is_packable();
        (is_packable && has_bf16()).then_some(product)
    }

    /// The same plus `bias`, `[N]`, in each row.
    pub fn with_bias(self, bias: &'a [f32]) -> Self {
        assert_eq!(bias.len(), self.right.lanes, "a bias of each column");
        Self {
            bias: Some(bias),
            ..self
        }
    }

    /// # Safety
    /// The target has room for the product, and its rows lie side by side; it is read only where it is added to.
    pub unsafe fn multiply(&self, target: Target) {
        let panels = (LEFT_PAIRS / pairs_of(self.left.inner)).max(LEFT_PANELS);
        let at_once = panels * LANES;
        let mut buffer = LEFT.take();
        for first in (0..self.left.lanes).step_by(at_once) {
            let rows = first..self.left.lanes.min(first + at_once);
            let left = self.packed_left(rows.clone(), &mut buffer);
            let target = target.from(first, 0);
            let task = |(rows, columns): (Range<usize>, Range<usize>)| {
                // SAFETY: the processor has the instructions, or there would be no product; as the caller promises; no two
                // tasks share an entry.
                unsafe { self.task(left, rows, columns, target) };
            };
            if self.parallel {
                self.tasks(rows.len()).into_par_iter().for_each(task);
            } else {
                task((0..rows.len(), 0..self.right.lanes));
            }
        }
        LEFT.set(buffer);
    }

    /// All inner entries of some rows, in panels.
    fn packed_left<'b>(&self, rows: Range<usize>, buffer: &'b mut Vec<Pairs>) -> &'b [Pairs] {
        let pairs = pairs_of(self.left.inner);
        let packed = room(buffer, rows.len().div_ceil(LANES) * pairs);
        let pack = |(piece, panels): (usize, &mut [Pairs])| {
            let first = rows.start + piece * PACKED_PANELS * LANES;
            let rows = first..rows.end.min(first + PACKED_PANELS * LANES);
            // SAFETY: the processor has the instructions, or there would be no product.
            unsafe { self.left.pack(rows, 0..self.left.inner, panels, pairs) };
        };
        let piece = PACKED_PANELS * pairs;
        if self.parallel {
            packed.par_chunks_mut(piece).enumerate().for_each(pack);
        } else {
            packed.chunks_mut(piece).enumerate().for_each(pack);
        }
        packed
    }

    /// Rows and columns for each task: more than cores, as some are slower or busy, and as many for each.
    fn tasks(&self, rows: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let threads = rayon::current_num_threads();
        let columns = self.right.lanes;
        let most_by_rows = (rows / TASK[0]).max(1);
        let wide = columns / TASK[1];
        let as_many = if wide > threads { threads } else { 1 };
        let by_columns = wide
            .max((2 * threads).div_ceil(most_by_rows))
            .next_multiple_of(as_many)
            .min(4 * threads)
            .min(columns.div_ceil(TILE_COLUMNS));
        let by_rows = (2 * threads).div_ceil(by_columns).min(most_by_rows);
        let row_parts = parts(rows, by_rows, LANES);
        let tasks = row_parts.flat_map(|rows| {
            parts(columns, by_columns, TILE_COLUMNS).map(move |columns| (rows.clone(), columns))
        });
        tasks.collect()
    }

    /// # Safety
    /// The processor has AVX512-BF16; for the target as for `multiply`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn task(
        &self,
        left: &[Pairs],
        rows: Range<usize>,
        columns: Range<usize>,
        target: Target,
    ) {
        let of_row_panel = pairs_of(self.left.inner);
        let most_pairs = pairs_of(self.left.inner.min(INNER));
        let tiles = RIGHT_PAIRS / TILE_PANELS / most_pairs;
        let at_once = tiles * TILE_COLUMNS;
        let mut buffer = RIGHT.take();
        for first in columns.clone().step_by(at_once) {
            let columns = first..columns.end.min(first + at_once);
            for inner in parts_of_at_most(self.left.inner, INNER) {
                let pairs = pairs_of(inner.len());
                let right = room(&mut buffer, columns.len().div_ceil(LANES) * pairs);
                self.right
                    .pack(columns.clone(), inner.clone(), right, pairs);
                let is_first = inner.start == 0;
                let band = Band {
                    columns: right,
                    bias: self
                        .bias
                        .filter(|_| is_first)
                        .map(|bias| &bias[columns.clone()]),
                    count: columns.len(),
                    factor: self.factor,
                };
                let target = Target {
                    adds: target.adds || !is_first,
                    ..target.from(0, first)
                };
                for panel in rows.clone().step_by(LANES) {
                    let panel = panel..rows.end.min(panel + LANES);
                    let start = panel.start / LANES * of_row_panel + inner.start / 2;
                    let left = &left[start..][..pairs];
                    // SAFETY: as the caller promises.
                    unsafe { band.multiply(left, panel, target) };
                }
            }
        }
        RIGHT.set(buffer);
    }
}

/// Packed columns.
struct Band<'a> {
    columns: &'a [Pairs],
    bias: Option<&'a [f32]>,
    count: usize,
    factor: f32,
}

impl Band<'_> {
    /// A panel of rows by all of them.
    ///
    /// # Safety
    /// As for `Bf16Product::task`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply(&self, left: &[Pairs], rows: Range<usize>, target: Target) {
        let tiles = self.columns.chunks(TILE_PANELS * left.len());
        for (column, panels) in (0..self.count).step_by(TILE_COLUMNS).zip(tiles) {
            for first_row in (0..rows.len()).step_by(TILE_ROWS) {
                let tile = Tile {
                    rows: left,
                    first_row,
                    columns: panels,
                    size: [rows.len() - first_row, self.count - column],
                    factor: self.factor,
                    bias: self.bias.map(|bias| &bias[column..]),
                };
                // SAFETY: as the caller promises.
                unsafe { tile.multiply(target.from(rows.start + first_row, column)) };
            }
        }
    }
}

/// Whether this processor multiplies bf16.
pub(super) fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// The first `count` pairs of a buffer, which grows if it must.
fn room(buffer: &mut Vec<Pairs>, count: usize) -> &mut [Pairs] {
    if buffer.len() < count {
        buffer.resize(count, Pairs::ZERO);
    }
    &mut buffer[..count]
}

/// `0..count` in parts of about the same length that begin at multiples of `step`.
fn parts(count: usize, into: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    let steps = count.div_ceil(step);
    let start = move |part: usize| (part * steps / into * step).min(count);
    (0..into).map(move |part| start(part)..start(part + 1))
}

/// `0..count` in as few parts as such a bound allows, that begin at multiples of 32: whole vectors of pairs.
fn parts_of_at_most(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    parts(count, count.div_ceil(most), 2 * LANES)
}
