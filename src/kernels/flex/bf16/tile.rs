//! The innermost part of a product: 8 rows by up to 48 columns, whose sums stay in registers.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::array::from_fn;
use std::mem::transmute;

use super::pack::{LANES, Pairs};
use crate::kernels::flex::matrix::Target;

/// Rows of a tile: with 3 panels of columns 24 sums, which two multiplications a cycle do not wait for, 3 columns and a row of
/// the 32 registers.
pub(super) const TILE_ROWS: usize = 8;
/// Panels of columns of a tile, at most.
pub(super) const TILE_PANELS: usize = 3;

/// What a tile multiplies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    /// A panel of rows.
    pub rows: &'a [Pairs],
    /// The first of its rows that are the tile's.
    pub first_row: usize,
    /// Panels of columns, one after the other, each as long as the rows'.
    pub columns: &'a [Pairs],
    /// Rows and columns that the target has.
    pub size: [usize; 2],
    pub factor: f32,
}

impl Tile<'_> {
    /// # Safety
    /// The target has room for the tile; it is read only where it is added to. Its rows lie side by side.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn multiply(self, target: Target) {
        // SAFETY: as the caller promises.
        unsafe {
            match self.columns.len() / self.rows.len() {
                1 => self.store(target, self.sums::<1>()),
                2 => self.store(target, self.sums::<2>()),
                _ => self.store(target, self.sums::<TILE_PANELS>()),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn sums<const PANELS: usize>(&self) -> [[__m512; PANELS]; TILE_ROWS] {
        let count = self.rows.len();
        let panels: [&[Pairs]; PANELS] = from_fn(|panel| &self.columns[panel * count..][..count]);
        let mut sums = [[_mm512_setzero_ps(); PANELS]; TILE_ROWS];
        assert!(self.first_row + TILE_ROWS <= LANES);
        for (pair, rows) in self.rows.iter().enumerate() {
            let rows = &rows.0[self.first_row..][..TILE_ROWS];
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: types of 64 bytes, in which any bits are numbers.
                let row: __m512bh = unsafe { transmute(_mm512_set1_epi32(*row as i32)) };
                for (sum, panel) in sums.iter_mut().zip(panels) {
                    *sum = _mm512_dpbf16_ps(*sum, row, panel[pair].vector());
                }
            }
        }
        sums
    }

    /// # Safety
    /// As for `multiply`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store<const PANELS: usize>(
        &self,
        target: Target,
        sums: [[__m512; PANELS]; TILE_ROWS],
    ) {
        let factor = _mm512_set1_ps(self.factor);
        let [rows, columns] = self.size;
        for (row, sums) in sums.into_iter().enumerate().take(rows) {
            for (panel, sum) in sums.into_iter().enumerate() {
                let column = panel * LANES;
                let mask = match columns - column {
                    LANES.. => u16::MAX,
                    count => (1 << count) - 1,
                };
                let mut found = _mm512_mul_ps(sum, factor);
                // SAFETY: the target has the entries that the mask allows, as the caller promises.
                unsafe {
                    let entry = target.entry(row, column);
                    if target.adds {
                        found = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, entry), found);
                    }
                    _mm512_mask_storeu_ps(entry, mask, found);
                }
            }
        }
    }
}
