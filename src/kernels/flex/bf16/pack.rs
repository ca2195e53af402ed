//! Operands of a product as `vdpbf16ps` takes them: rounded to bf16, two inner entries of each of 16 lanes side by side.

use std::arch::x86_64::{
    __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_cvtne2ps_pbh, _mm512_maskz_loadu_ps,
    _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;
use std::ops::Range;

use crate::kernels::flex::matrix::Matrix;

/// Lanes of a panel: the 32-bit numbers of a vector.
pub(super) const LANES: usize = 16;

/// Two inner entries of each lane of a panel.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pairs(pub [u32; LANES]);

impl Pairs {
    /// No entry.
    pub const ZERO: Self = Self([0; LANES]);

    #[inline(always)]
    fn of(vector: __m512i) -> Self {
        // SAFETY: both are 64 bytes, in which any bits are numbers.
        unsafe { transmute::<__m512i, Self>(vector) }
    }

    /// Both entries of each lane as a vector.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn vector(&self) -> __m512bh {
        // SAFETY: both are 64 bytes, in which any bits are numbers.
        unsafe { transmute::<Self, __m512bh>(*self) }
    }
}

/// An operand: the rows of a left matrix, or the columns of a right one. One of the steps is 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    pub buffer: &'a [f32],
    /// Its lanes are the rows of this matrix.
    pub place: Matrix,
    pub lanes: usize,
    pub inner: usize,
}

/// Entries of a lane, and lines of lanes, that are asked of the memory ahead: the processor does not by itself as fast for
/// so many lanes. From memory 15 to 22 GB/s on one core, and 8 to 14 without (Zen 5).
const ENTRIES_AHEAD: usize = 96;
const LINES_AHEAD: usize = 8;

/// Asks for the line of the cache at a place, which may be none.
#[inline(always)]
fn prefetch(buffer: &[f32], place: usize) {
    // SAFETY: no more than a hint, which an address without memory cannot make fail.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(buffer.as_ptr().wrapping_add(place).cast()) };
}

/// Pairs of so many inner entries.
pub(super) fn pairs_of(inner: usize) -> usize {
    inner.div_ceil(2)
}

#[inline(always)]
fn bits(numbers: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes, in which any bits are numbers.
    unsafe { transmute::<__m512bh, __m512i>(numbers) }
}

/// The first `count` bits.
fn first(count: usize) -> u16 {
    match count {
        LANES.. => u16::MAX,
        _ => (1 << count) - 1,
    }
}

impl Side<'_> {
    /// Whether it can be packed.
    pub fn is_packable(&self) -> bool {
        self.place.row_step == 1 || self.place.column_step == 1
    }

    /// Some lanes and inner entries of each as panels of `step` pairs, one after the other. What a panel lacks is zero.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn pack(
        &self,
        lanes: Range<usize>,
        inner: Range<usize>,
        panels: &mut [Pairs],
        step: usize,
    ) {
        if self.place.row_step == 1 {
            return self.pack_across(lanes, inner, panels, step);
        }
        for (first, panel) in lanes.clone().step_by(LANES).zip(panels.chunks_mut(step)) {
            let lanes = first..lanes.end.min(first + LANES);
            self.pack_along(lanes, inner.clone(), &mut panel[..pairs_of(inner.len())]);
        }
    }

    /// Lanes that lie side by side: line by line through all panels, as the lines lie far apart.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pack_across(
        &self,
        lanes: Range<usize>,
        inner: Range<usize>,
        panels: &mut [Pairs],
        step: usize,
    ) {
        /// 0, 16, 1, 17 ...: the entries of two lines in turn.
        const IN_TURN: [u16; 2 * LANES] = {
            let mut places = [0; 2 * LANES];
            let mut lane = 0;
            while lane < LANES {
                places[2 * lane] = lane as u16;
                places[2 * lane + 1] = (LANES + lane) as u16;
                lane += 1;
            }
            places
        };
        // SAFETY: both are 64 bytes, in which any bits are numbers.
        let in_turn: __m512i = unsafe { transmute(IN_TURN) };
        let line = |inner| &self.buffer[self.place.at(lanes.start, inner)..][..lanes.len()];
        for (pair, even) in inner.clone().step_by(2).enumerate() {
            let odd = (even + 1 < inner.end).then(|| line(even + 1));
            let even = line(even);
            for (panel, start) in (0..lanes.len()).step_by(LANES).enumerate() {
                let mask = first(lanes.len() - start);
                for line in LINES_AHEAD..LINES_AHEAD + 2 {
                    let ahead = inner.start + 2 * pair + line;
                    prefetch(self.buffer, self.place.at(lanes.start + start, ahead));
                }
                // SAFETY: both lines have the entries from `start` on that the mask allows.
                let load =
                    |line: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, line.as_ptr().add(start)) };
                let odd = odd.map_or_else(|| _mm512_setzero_ps(), load);
                let lines = bits(_mm512_cvtne2ps_pbh(odd, load(even)));
                panels[panel * step + pair] = Pairs::of(_mm512_permutexvar_epi16(in_turn, lines));
            }
        }
    }

    /// A panel of lanes whose inner entries lie side by side.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pack_along(&self, lanes: Range<usize>, inner: Range<usize>, panel: &mut [Pairs]) {
        for (start, pairs) in inner
            .clone()
            .step_by(2 * LANES)
            .zip(panel.chunks_mut(LANES))
        {
            let count = (inner.end - start).min(2 * LANES);
            let masks = [first(count), first(count.saturating_sub(LANES))];
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (row, lane) in rows.iter_mut().zip(lanes.clone()) {
                let ahead = self.place.at(lane, start + ENTRIES_AHEAD);
                prefetch(self.buffer, ahead);
                prefetch(self.buffer, ahead + LANES);
                let entries = &self.buffer[self.place.at(lane, start)..][..count];
                let middle = count.min(LANES);
                // SAFETY: the halves have the entries that the masks allow.
                let [low, high] = unsafe {
                    [
                        _mm512_maskz_loadu_ps(masks[0], entries.as_ptr()),
                        _mm512_maskz_loadu_ps(masks[1], entries.as_ptr().add(middle)),
                    ]
                };
                *row = bits(_mm512_cvtne2ps_pbh(high, low));
            }
            for (pairs, column) in pairs.iter_mut().zip(transposed(rows)) {
                *pairs = Pairs::of(column);
            }
        }
    }
}

/// 16 x 16 numbers of 32 bits: squares of 2, then of 4 within a quarter of each vector, then the quarters.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut twos = rows;
    for at in (0..LANES).step_by(2) {
        twos[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        twos[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    // the quarter q of fours[4 i + c] is column 4 q + c of rows 4 i to 4 i + 3
    let mut fours = rows;
    for at in (0..LANES).step_by(4) {
        for of in 0..2 {
            let (upper, lower) = (twos[at + of], twos[at + 2 + of]);
            fours[at + 2 * of] = _mm512_unpacklo_epi64(upper, lower);
            fours[at + 2 * of + 1] = _mm512_unpackhi_epi64(upper, lower);
        }
    }
    /// The even quarters of two vectors, and their odd ones.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut columns = rows;
    for at in 0..4 {
        let [a, b, c, d] = [fours[at], fours[4 + at], fours[8 + at], fours[12 + at]];
        let even = [
            _mm512_shuffle_i32x4::<EVEN>(a, b),
            _mm512_shuffle_i32x4::<EVEN>(c, d),
        ];
        let odd = [
            _mm512_shuffle_i32x4::<ODD>(a, b),
            _mm512_shuffle_i32x4::<ODD>(c, d),
        ];
        columns[at] = _mm512_shuffle_i32x4::<EVEN>(even[0], even[1]);
        columns[4 + at] = _mm512_shuffle_i32x4::<EVEN>(odd[0], odd[1]);
        columns[8 + at] = _mm512_shuffle_i32x4::<ODD>(even[0], even[1]);
        columns[12 + at] = _mm512_shuffle_i32x4::<ODD>(odd[0], odd[1]);
    }
    columns
}
