// First half of the prototypes' normalizers: for each prototype (column) and each slab of rows, the largest shifted
// logit and the sum of exponentials below it.
//
//   max_j = max_i (t_ij - row_shift_i)
//   sum_j = sum_i exp((t_ij - row_shift_i - max_j) / temperature - row_log_i)
//
// Bindings: logits [M, C], row_shift [M], row_log [M], partial_max [S, C], partial_sum [S, C], info.
// C = K / (lanes of Chunk), S = slabs over all parts of the logits; this part's slabs start at first_slab, its rows at
// first_row of row_shift and row_log.
// Launch: one workgroup for each (slab, span of columns), spans inner. A lane takes two chunks of columns, so that a
// row's visit uses whole cache lines, and four rows at a time, so that rescaling is rare.
// Not handled: no rows, strides.

struct Info {
    rows: u32,
    chunks: u32,
    spans: u32,
    first_slab: u32,
    slab_rows: u32,
    inverse_temperature: f32,
    slabs: u32,
    first_row: u32,
}

@group(0) @binding(0) var<storage, read_write> logits: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> row_shift: array<f32>;
@group(0) @binding(2) var<storage, read_write> row_log: array<f32>;
@group(0) @binding(3) var<storage, read_write> partial_max: array<Chunk>;
@group(0) @binding(4) var<storage, read_write> partial_sum: array<Chunk>;
@group(0) @binding(5) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let lane = place.lane;
    let group = group_of(place);
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let first_row = info.first_row;
    let slab = group / info.spans;
    let left = (group % info.spans) * LANES * 2u + lane;
    if slab >= info.slabs || left >= chunks {
        return;
    }
    // beyond the last column the right chunk is the last one once more, and is not written
    let right = min(left + LANES, chunks - 1u);
    let inverse = info.inverse_temperature;
    let end = min((slab + 1u) * info.slab_rows, info.rows);

    var max_left = Chunk(LOWEST);
    var max_right = Chunk(LOWEST);
    var sum_left = Chunk(0.0);
    var sum_right = Chunk(0.0);
    var row = slab * info.slab_rows;
    for (; row + 4u <= end; row += 4u) {
        let r = first_row + row;
        let shifts = vec4<f32>(row_shift[r], row_shift[r + 1u], row_shift[r + 2u], row_shift[r + 3u]);
        let rests = vec4<f32>(row_log[r], row_log[r + 1u], row_log[r + 2u], row_log[r + 3u]);
        let at = row * chunks;
        let a0 = logits[at + left] - shifts.x;
        let a1 = logits[at + chunks + left] - shifts.y;
        let a2 = logits[at + 2u * chunks + left] - shifts.z;
        let a3 = logits[at + 3u * chunks + left] - shifts.w;
        let b0 = logits[at + right] - shifts.x;
        let b1 = logits[at + chunks + right] - shifts.y;
        let b2 = logits[at + 2u * chunks + right] - shifts.z;
        let b3 = logits[at + 3u * chunks + right] - shifts.w;
        let next_left = max(max_left, max(max(a0, a1), max(a2, a3)));
        let next_right = max(max_right, max(max(b0, b1), max(b2, b3)));
        sum_left = sum_left * exp((max_left - next_left) * inverse)
            + exp((a0 - next_left) * inverse - rests.x)
            + exp((a1 - next_left) * inverse - rests.y)
            + exp((a2 - next_left) * inverse - rests.z)
            + exp((a3 - next_left) * inverse - rests.w);
        sum_right = sum_right * exp((max_right - next_right) * inverse)
            + exp((b0 - next_right) * inverse - rests.x)
            + exp((b1 - next_right) * inverse - rests.y)
            + exp((b2 - next_right) * inverse - rests.z)
            + exp((b3 - next_right) * inverse - rests.w);
        max_left = next_left;
        max_right = next_right;
    }
    for (; row < end; row += 1u) {
        let shift = row_shift[first_row + row];
        let rest = row_log[first_row + row];
        let a = logits[row * chunks + left] - shift;
        let b = logits[row * chunks + right] - shift;
        let next_left = max(max_left, a);
        let next_right = max(max_right, b);
        sum_left = sum_left * exp((max_left - next_left) * inverse)
            + exp((a - next_left) * inverse - rest);
        sum_right = sum_right * exp((max_right - next_right) * inverse)
            + exp((b - next_right) * inverse - rest);
        max_left = next_left;
        max_right = next_right;
    }
    let out = (info.first_slab + slab) * chunks;
    partial_max[out + left] = max_left;
    partial_sum[out + left] = sum_left;
    if left + LANES < chunks {
        partial_max[out + right] = max_right;
        partial_sum[out + right] = sum_right;
    }
}
