// First half of the gradients with respect to weight and bias: for each column and each slab of rows
//
//   partial_weight = sum_i d_y_ij (x_ij - row_mean_i) row_scale_i
//   partial_bias = sum_i d_y_ij
//
// Bindings: x [R, C], d_y [R, C], row_mean [R], row_scale [R], partial_weight [S, C], partial_bias [S, C], info.
// C = D / (lanes of Chunk), S slabs of SLAB_ROWS rows.
// Launch: one lane for each (slab, chunk of columns), chunks inner.
// Not handled: strides.

alias Rows = {{ rows }};
alias Normed = {{ normed }};

struct Info {
    rows: u32,
    chunks: u32,
    slabs: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> d_y: array<Normed>;
@group(0) @binding(2) var<storage, read_write> row_mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> row_scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> partial_weight: array<Chunk>;
@group(0) @binding(5) var<storage, read_write> partial_bias: array<Chunk>;
@group(0) @binding(6) var<storage, read> info: Info;

const SLAB_ROWS = {{ slab_rows }}u;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let item = number_of(place) * LANES + lane;
    if item >= info.slabs * chunks {
        return;
    }
    let chunk = item % chunks;
    let first = item / chunks * SLAB_ROWS;
    let end = min(first + SLAB_ROWS, info.rows);
    var d_weight = Chunk(0.0);
    var d_bias = Chunk(0.0);
    for (var row = first; row < end; row += 1u) {
        let at = row * chunks + chunk;
        let d = Chunk(d_y[at]);
        d_weight += d * ((Chunk(x[at]) - row_mean[row]) * row_scale[row]);
        d_bias += d;
    }
    partial_weight[item] = d_weight;
    partial_bias[item] = d_bias;
}
