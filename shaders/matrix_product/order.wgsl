// The order in which workgroups take the tiles of a product.

/// Row and column of a tile by its number: in bands of some tile rows, column by column within each, so that workgroups
/// that run together read the same operands.
fn tile_at(tile: u32, tile_rows: u32, tile_columns: u32) -> vec2<u32> {
    let first_of_band = tile / (info.band * tile_columns) * info.band;
    let band = min(tile_rows - first_of_band, info.band);
    let in_band = tile % (info.band * tile_columns);
    return vec2<u32>(first_of_band + in_band % band, in_band / band);
}
