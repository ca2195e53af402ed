//! Matrix products on the CPU, into and out of any part of a buffer, by the `gemm` crate that Flex uses too.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

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

/// A matrix within a buffer: entry (row, column) is at `start + row * row_step + column * column_step`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    pub start: usize,
    pub row_step: usize,
    pub column_step: usize,
}

impl Matrix {
    /// Rows one after the other from the beginning.
    pub fn rows(width: usize) -> Self {
        Self {
            start: 0,
            row_step: width,
            column_step: 1,
        }
    }

    /// The same buffer with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }

    /// Entries of the buffer that it needs.
    fn reach(self, rows: usize, columns: usize) -> usize {
        self.start + (rows - 1) * self.row_step + (columns - 1) * self.column_step + 1
    }
}

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
            self.call(product.as_mut_ptr(), Matrix::rows(self.columns), false);
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
        unsafe { self.call(target.as_mut_ptr(), place, adds) };
    }

    fn check(&self) {
        let (left, right) = (self.left, self.right);
        assert!(left.1.reach(self.rows, self.inner) <= left.0.len());
        assert!(right.1.reach(self.inner, self.columns) <= right.0.len());
    }

    /// # Safety
    /// Both operands lie within their buffers, and `target` has room for the product at `place`.
    unsafe fn call(&self, target: *mut f32, place: Matrix, adds: bool) {
        if !self.is_shared() {
            // SAFETY: as the caller promises.
            return unsafe { self.multiply(target, place, adds, Parallelism::None) };
        }
        if let Some(flipped) = self.flipped() {
            let columns = flipped.collect();
            for (at, found) in columns.iter().enumerate() {
                let (row, column) = (at % self.rows, at / self.rows);
                let at = place.start + row * place.row_step + column * place.column_step;
                // SAFETY: the entry is in the target, as the caller promises; it is read only where it is added to.
                unsafe {
                    let before = if adds { *target.add(at) } else { 0.0 };
                    *target.add(at) = before + found;
                }
            }
            return;
        }
        if !cfg!(target_arch = "x86_64") {
            // `gemm` packs the left matrix too there, and lets all cores share that
            // SAFETY: as the caller promises.
            return unsafe { self.multiply(target, place, adds, Parallelism::Rayon(0)) };
        }
        let target = Target(target);
        self.pieces().into_par_iter().for_each(|(rows, columns)| {
            let start = rows.start * place.row_step + columns.start * place.column_step;
            let piece = self.piece(rows, columns);
            // SAFETY: as the caller promises; no two pieces share an entry of the target.
            unsafe { piece.multiply(target.at(start), place, adds, Parallelism::None) };
        });
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
    unsafe fn multiply(
        &self,
        target: *mut f32,
        place: Matrix,
        adds: bool,
        parallelism: Parallelism,
    ) {
        let (left, right) = (self.left, self.right);
        let step = |step: usize| step as isize;
        // SAFETY: as the caller promises.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                self.inner,
                target.add(place.start),
                step(place.column_step),
                step(place.row_step),
                adds,
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

/// Where a product goes, for all cores that write a piece of it.
#[derive(Clone, Copy)]
struct Target(*mut f32);

// SAFETY: each core writes entries of its own.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// The buffer has that many entries.
    unsafe fn at(self, start: usize) -> *mut f32 {
        // SAFETY: as the caller promises.
        unsafe { self.0.add(start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_within_larger_buffers() {
        // [[1, 2], [3, 4]] in the middle of a buffer, times its own transpose
        let buffer = [0.0, 1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let matrix = Matrix {
            start: 1,
            row_step: 3,
            column_step: 1,
        };
        let product = Product {
            rows: 2,
            inner: 2,
            columns: 2,
            left: (&buffer, matrix),
            right: (&buffer, matrix.transposed()),
            factor: 0.5,
            parallel: true,
        };
        assert_eq!(product.collect(), [2.5, 5.5, 5.5, 12.5]);
        let mut target = [1.0; 6];
        let place = Matrix {
            start: 1,
            row_step: 3,
            column_step: 1,
        };
        product.add(&mut target, place);
        assert_eq!(target, [1.0, 3.5, 6.5, 1.0, 6.5, 13.5]);
        product.write(&mut target, place);
        assert_eq!(target, [1.0, 2.5, 5.5, 1.0, 5.5, 12.5]);
    }

    /// Whole numbers, whose sums are exact in any order.
    fn numbers(count: usize, modulus: usize) -> Vec<f32> {
        let number = |at: usize| (at * 7 % modulus) as f32 - 3.0;
        (0..count).map(number).collect()
    }

    /// Shapes that are cut into pieces with rests, and few rows by a transposed matrix, in each layout.
    #[test]
    fn products_in_pieces() {
        for [rows, inner, columns] in [
            [300, 70, 600],
            [1000, 30, 300],
            [8, 3000, 400],
            [65, 600, 270],
        ] {
            let (a, b) = (numbers(rows * inner, 11), numbers(inner * columns, 13));
            for (left_transposed, right_transposed) in
                [(false, false), (true, false), (false, true)]
            {
                let place = |width, height, transposed| match transposed {
                    true => Matrix::rows(height).transposed(),
                    false => Matrix::rows(width),
                };
                let (left, right) = (
                    place(inner, rows, left_transposed),
                    place(columns, inner, right_transposed),
                );
                let product = Product {
                    rows,
                    inner,
                    columns,
                    left: (&a, left),
                    right: (&b, right),
                    factor: 1.0,
                    parallel: true,
                };
                assert!(product.is_shared());
                let serial = Product {
                    parallel: false,
                    ..product
                };
                assert_eq!(product.collect(), serial.collect());
                let mut sum = numbers(rows * columns, 5);
                let expected: Vec<f32> = std::iter::zip(&sum, serial.collect())
                    .map(|(x, y)| x + y)
                    .collect();
                product.add(&mut sum, Matrix::rows(columns));
                assert_eq!(sum, expected);
            }
        }
    }

    #[test]
    #[should_panic(expected = "leaves its target")]
    fn a_target_that_is_too_small() {
        let ones = [1.0; 4];
        let product = Product {
            rows: 2,
            inner: 2,
            columns: 2,
            left: (&ones, Matrix::rows(2)),
            right: (&ones, Matrix::rows(2)),
            factor: 1.0,
            parallel: false,
        };
        product.write(&mut [0.0; 3], Matrix::rows(2));
    }
}
