//! Matrices within buffers.

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

    /// Place of an entry in the buffer.
    pub fn at(self, row: usize, column: usize) -> usize {
        self.start + row * self.row_step + column * self.column_step
    }

    /// Entries of the buffer that it needs.
    pub fn reach(self, rows: usize, columns: usize) -> usize {
        self.at(rows - 1, columns - 1) + 1
    }
}

/// Where a product goes, for all cores that write a piece of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// The first entry of the buffer.
    pub buffer: *mut f32,
    pub place: Matrix,
    /// Whether the product is added to what is there.
    pub adds: bool,
}

// SAFETY: each core writes entries of its own.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The part that begins at an entry.
    pub fn from(self, row: usize, column: usize) -> Self {
        let start = self.place.at(row, column);
        let place = Matrix {
            start,
            ..self.place
        };
        Self { place, ..self }
    }

    /// # Safety
    /// The entry is in the buffer.
    pub unsafe fn entry(self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: as the caller promises.
        unsafe { self.buffer.add(self.place.at(row, column)) }
    }
}
