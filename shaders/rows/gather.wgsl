// Rows by their places: y_i = x of row place_i, or zeros where that is negative.
//
// Bindings: x [R, C], places [M], y [M, C], info. C = D / (lanes of Chunk).
// Launch: a lane takes ROUNDS chunks of y.
// Not handled: strides.

alias Rows = {{ rows }};

struct Info {
    rows: u32,
    chunks: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> places: array<i32>;
@group(0) @binding(2) var<storage, read_write> y: array<Rows>;
@group(0) @binding(3) var<storage, read> info: Info;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let chunks = info.chunks;
    let first = group_of(place) * LANES * ROUNDS + place.lane;
    let end = min(first + LANES * ROUNDS, info.rows * chunks);
    for (var at = first; at < end; at += LANES) {
        let row = places[at / chunks];
        // a row that is not there is read as the first one and not kept
        let found = x[u32(max(row, 0)) * chunks + at % chunks];
        y[at] = select(found, Rows(), row < 0);
    }
}
