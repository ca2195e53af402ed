//! Of the kernels that multiply matrices, the share of their vector instructions that multiply and add, where they spend
//! their time: as a wave runs them for one tile of terms, or of columns.

use crate::mix::{Loop, Mix, loops};
use crate::variants::Variant;

/// From 0 to 1; none of other kernels, and where the listing is not understood.
pub fn share_of_fused(variant: &Variant, listing: &str) -> Option<f64> {
    let loops = loops(listing);
    let found = if variant.name.starts_with("matrix_product/tiled") {
        of_product(variant, &loops)
    } else if variant.name.starts_with("attention/tiles/") {
        of_attention(variant, &loops)
    } else {
        None
    };
    found.map(Mix::share)
}

/// Terms of a tile, and entries of a vector.
const TERMS: f64 = 16.0;
const VECTOR: f64 = 4.0;

/// The loop over tiles of terms, in which all multiplications stand, and the loop over terms in it, where that was left one.
fn of_product(variant: &Variant, loops: &[Loop]) -> Option<Mix> {
    let blocks = variant.number("row_block")? * variant.number("column_block")?;
    let expected = VECTOR * VECTOR * blocks * TERMS;
    let [tile] = loops else {
        return None;
    };
    let rounds = |inner: &Loop| (expected - tile.own.fused) / inner.mix(&|_| 1.0).fused;
    let mix = tile.mix(&rounds);
    (mix.fused == expected).then_some(mix)
}

/// Columns that are summed at a time, two parts a tile.
const PART: f64 = 16.0;

/// The loop over tiles of columns; in it, for each product a loop over slices of 16 entries of a head, and for each sum one
/// over two parts of the columns.
fn of_attention(variant: &Variant, loops: &[Loop]) -> Option<Mix> {
    // whether each loop in it is that of a product
    let are_products: &[bool] = match variant.name.split_whitespace().next()? {
        "attention/tiles/forward" => &[true, false],
        "attention/tiles/queries" => &[true, true, false],
        _ => &[true, false, true, false],
    };
    let slices = (variant.number("head_chunk")? / VECTOR).ceil();
    // of a lane: 4 rows times its columns, or its chunks of a head
    let of_slice = VECTOR * TERMS * variant.number("column")?;
    let of_part = VECTOR * VECTOR * PART * variant.number("output")?;
    let tile = loops
        .iter()
        .rev()
        .find(|tile| tile.inner.len() == are_products.len())?;
    let mut mix = tile.own;
    for (inner, is_product) in tile.inner.iter().zip(are_products) {
        let (rounds, expected) = if *is_product {
            (slices, of_slice)
        } else {
            (2.0, of_part)
        };
        let again = |innermost: &Loop| (expected - inner.own.fused) / innermost.mix(&|_| 1.0).fused;
        let of_round = inner.mix(&again);
        mix = mix.plus(of_round, rounds);
    }
    Some(mix)
}
