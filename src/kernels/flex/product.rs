//! Matrix products on the CPU, into and out of any part of a buffer, by the `gemm` crate that Flex uses too, or of operands
//! in bf16 by kernels of this crate.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::kernels::flex::bf16::Bf16Product;
use crate::kernels::flex::matrix::{Matrix, Target};
use crate::kernels::flex::rows::piece_of;
use crate::kernels::flex::vector_math::{nearest_bf16, vectorized};

/// Multiplications below which threads cost more than they bring.
const SERIAL: usize = 192 * 192 * 192;
/// Rows and columns that a piece of a product has at least. From 64 on, how `gemm` divides the inner entries no longer
/// depends on the other sizes: the bits of a product are the same on any number of threads.
const PIECE: usize = 128;
/// Columns of a piece are a multiple of it: the widest vector.
const LANES: usize = 16;
/// Rows up to which the rows are packed instead of a transposed right matrix, whose rows lie side by side as they are. Of
/// 8 x 65 536 by the transpose of 256 x 65 536, the gradient of class tokens, `gemm` packs the larger one, on one core: 29
/// ms, where this takes 5 (Zen 5, CPU time); 64 rows take two thirds at most.
const FEW_ROWS: usize = 64;

/// `[M, J] x [J, N]`, times a factor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    pub rows: usize,
    pub inner: usize,
    pub columns: usize,
    pub left: (&'a [f32], Matrix),
    pub right: (&'a [f32], Matrix),
    pub factor: f32,
    /// Whether all cores may work on it.
    pub parallel: bool,
    /// Whether operands are rounded to bf16. Sums are f32.
    pub in_bf16: bool,
}

impl Product<'_> {
    /// Written over `target`.
    pub fn write(self, target: &mut [f32], place: Matrix) {
        self.run(target, place, false);
    }

    /// Added to `target`.
    pub fn add(self, target: &mut [f32], place: Matrix) {
        self.run(target, place, true);
    }

    /// In a buffer of its own, row by row.
    pub fn collect(self) -> Vec<f32> {
        let count = self.rows * self.columns;
        let mut product = Vec::with_capacity(count);
        if self.is_empty() || self.inner == 0 {
            product.resize(count, 0.0);
            return product;
        }
        self.check();
        // SAFETY: the operands lie within their buffers, the target has room for M N entries, and a product that does not
        // add to its target writes each of them without reading it.
        unsafe {
            self.call(Target {
                buffer: product.as_mut_ptr(),
                place: Matrix::rows(self.columns),
                adds: false,
            });
            product.set_len(count);
        }
        product
    }

    fn is_empty(&self) -> bool {
        self.rows == 0 || self.columns == 0
    }

    fn run(self, target: &mut [f32], place: Matrix, adds: bool) {
        if self.is_empty() {
            return;
        }
        let reach = place.reach(self.rows, self.columns);
        assert!(reach <= target.len(), "the product leaves its target");
        assert!(self.inner > 0, "a product without inner entries");
        self.check();
        // SAFETY: operands and target lie within their buffers, and the target is borrowed by nobody else.
        unsafe {
            self.call(Target {
                buffer: target.as_mut_ptr(),
                place,
                adds,
            });
        }
    }

    fn check(&self) {
        let (left, right) = (self.left, self.right);
        assert!(left.1.reach(self.rows, self.inner) <= left.0.len());
        assert!(right.1.reach(self.inner, self.columns) <= right.0.len());
    }

    /// # Safety
    /// Both operands lie within their buffers, and the target has room for the product.
    unsafe fn call(&self, target: Target) {
        if self.in_bf16 {
            // SAFETY: as the caller promises.
            return unsafe { self.call_in_bf16(target) };
        }
        if !self.is_shared() {
            // SAFETY: as the caller promises.
            return unsafe { self.multiply(target, Parallelism::None) };
        }
        if let Some(flipped) = self.flipped() {
            for (at, found) in flipped.collect().iter().enumerate() {
                // SAFETY: the entry is in the target, as the caller promises; it is read only where it is added to.
                unsafe {
                    let entry = target.entry(at % self.rows, at / self.rows);
                    *entry = if target.adds { *entry + found } else { *found };
                }
            }
            return;
        }
        if !cfg!(target_arch = "x86_64") {
            // `gemm` packs the left matrix too there, and lets all cores share that
            // SAFETY: as the caller promises.
            return unsafe { self.multiply(target, Parallelism::Rayon(0)) };
        }
        self.pieces().into_par_iter().for_each(|(rows, columns)| {
            let target = target.from(rows.start, columns.start);
            let piece = self.piece(rows, columns);
            // SAFETY: as the caller promises; no two pieces share an entry of the target.
            unsafe { piece.multiply(target, Parallelism::None) };
        });
    }

    /// # Safety
    /// As for `call`.
    unsafe fn call_in_bf16(&self, target: Target) {
        #[cfg(target_arch = "x86_64")]
        if target.place.column_step == 1 {
            let sizes = [self.rows, self.inner, self.columns];
            let (factor, parallel) = (self.factor, self.is_shared());
            let product = Bf16Product::new(sizes, self.left, self.right, factor, parallel);
            if let Some(product) = product {
                // SAFETY: as the caller promises.
                return unsafe { product.multiply(target) };
            }
        }
        // SAFETY: as the caller promises.
        unsafe { self.call_with_rounded(target) };
    }

    /// The same by f32 products of rounded copies, on any processor.
    ///
    /// # Safety
    /// As for `call`.
    unsafe fn call_with_rounded(&self, target: Target) {
        let left = rounded(self.left, self.rows, self.inner);
        let right = rounded(self.right, self.inner, self.columns);
        let of_rounded = Product {
            left: (&left.0, left.1),
            right: (&right.0, right.1),
            in_bf16: false,
            ..*self
        };
        // SAFETY: the copies lie within their buffers; for the target as the caller promises.
        unsafe { of_rounded.call(target) };
    }

    fn is_shared(&self) -> bool {
        let work = self.rows.saturating_mul(self.inner);
        self.parallel && work.saturating_mul(self.columns) >= SERIAL
    }

    /// Rows and columns that one core multiplies at a time. A core packs the columns of the right matrix that it needs, and
    /// a left one only where it is transposed: columns are divided first. `gemm` itself lets each core pack all columns, or
    /// one core those of a transposed matrix while the others wait.
    fn pieces(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let threads = rayon::current_num_threads();
        let least = match self.left.1.column_step {
            1 => PIECE,
            _ => 2 * PIECE,
        };
        let mut by_columns = 2 * threads; // more than cores, as some are slower or busy
        while by_columns > 1 && self.columns < by_columns * least {
            by_columns /= 2;
        }
        let by_rows = threads.div_ceil(by_columns).min(self.rows / PIECE).max(1);
        let row = |piece: usize| piece * self.rows / by_rows;
        let lanes = self.columns.div_ceil(LANES);
        let column = |piece: usize| (piece * lanes / by_columns * LANES).min(self.columns);
        let of_rows = |rows: usize| {
            (0..by_columns).map(move |columns| {
                let columns = column(columns)..column(columns + 1);
                (row(rows)..row(rows + 1), columns)
            })
        };
        (0..by_rows).flat_map(of_rows).collect()
    }

    /// The product for some of the rows and columns.
    fn piece(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let (mut left, mut right) = (self.left, self.right);
        left.1.start += rows.start * left.1.row_step;
        right.1.start += columns.start * right.1.column_step;
        Self {
            rows: rows.len(),
            columns: columns.len(),
            left,
            right,
            ..*self
        }
    }

    /// The transposed product with the operands exchanged, where rows are few and the right matrix lies transposed.
    fn flipped(&self) -> Option<Self> {
        let is_transposed = self.right.1.row_step == 1 && self.right.1.column_step > 1;
        let pays = self.rows <= FEW_ROWS && 4 * self.rows <= self.columns;
        (is_transposed && pays).then(|| Self {
            rows: self.columns,
            columns: self.rows,
            left: (self.right.0, self.right.1.transposed()),
            right: (self.left.0, self.left.1.transposed()),
            ..*self
        })
    }

    /// # Safety
    /// As for `call`.
    unsafe fn multiply(&self, target: Target, parallelism: Parallelism) {
        let (left, right, place) = (self.left, self.right, target.place);
        let step = |step: usize| step as isize;
        // SAFETY: as the caller promises.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                self.inner,
                target.entry(0, 0),
                step(place.column_step),
                step(place.row_step),
                target.adds,
                left.0.as_ptr().add(left.1.start),
                step(left.1.column_step),
                step(left.1.row_step),
                right.0.as_ptr().add(right.1.start),
                step(right.1.column_step),
                step(right.1.row_step),
                1.0_f32,
                self.factor,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// A copy whose entries are the nearest bf16, line by line as they lie in memory.
fn rounded((buffer, place): (&[f32], Matrix), rows: usize, columns: usize) -> (Vec<f32>, Matrix) {
    if place.column_step > place.row_step {
        let (copy, copied) = rounded((buffer, place.transposed()), columns, rows);
        return (copy, copied.transposed());
    }
    let mut copy = vec![0.0; rows * columns];
    let pieces = copy.par_chunks_mut(piece_of(columns)).enumerate();
    pieces.for_each(|(piece, copy)| {
        let first = piece * piece_of(columns) / columns;
        vectorized(
            #[inline(always)]
            |_| {
                for (row, copy) in copy.chunks_exact_mut(columns).enumerate() {
                    let line = &buffer[place.at(first + row, 0)..];
                    for (y, x) in copy.iter_mut().zip(line.iter().step_by(place.column_step)) {
                        *y = nearest_bf16(*x);
                    }
                }
            },
        );
    });
    (copy, Matrix::rows(columns))
}

#[cfg(test)]
mod tests;
