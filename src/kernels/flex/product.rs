//! Matrix products on the CPU, into and out of any part of a buffer, by the `gemm` crate that Flex uses too.

use gemm::Parallelism;

/// Multiplications below which threads cost more than they bring.
const SERIAL: usize = 192 * 192 * 192;

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
        let (left, right) = (self.left, self.right);
        let work = self
            .rows
            .saturating_mul(self.inner)
            .saturating_mul(self.columns);
        let parallelism = match self.parallel && work >= SERIAL {
            true => Parallelism::Rayon(0),
            false => Parallelism::None,
        };
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
