// Sums of the columns of each slab of rows: y_sj = sum_{i in slab s} x_ij.
//
// Bindings: x [R, C], y [S, C], info. C = D / (lanes of Chunk), S slabs of SLAB_ROWS rows.
// Launch: one lane for each (slab, chunk of columns), chunks inner; then once more on the slabs, until one row is left: in
// one order, so that two runs give the same bits.
// Not handled: strides.

alias Rows = {{ rows }};

struct Info {
    rows: u32,
    chunks: u32,
    slabs: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> y: array<Chunk>;
@group(0) @binding(2) var<storage, read> info: Info;

const SLAB_ROWS = {{ slab_rows }}u;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let item = group_of(place) * LANES + place.lane;
    if item >= info.slabs * chunks {
        return;
    }
    let chunk = item % chunks;
    let first = item / chunks * SLAB_ROWS;
    let end = min(first + SLAB_ROWS, info.rows);
    var sum = Chunk(0.0);
    for (var row = first; row < end; row += 1u) {
        sum += Chunk(x[row * chunks + chunk]);
    }
    y[item] = sum;
}
