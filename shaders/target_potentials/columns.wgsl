// First half of the prototypes' normalizers: for each prototype (column) and each slab of rows, the largest shifted
// logit and the sum of exponentials below it.
//
//   max_j = max_i (t_ij - row_shift_i)
//   sum_j = sum_i exp((t_ij - row_shift_i - max_j) / temperature - row_lse_i)
//
// Bindings: logits [M, C], of_rows [M, 2], partial_max [S, C], partial_sum [S, C], info.
// C = K / (lanes of Chunk), S = slabs of the logits' rows. of_rows holds (row_shift, row_lse).
// Launch: one workgroup for each (slab, span of columns), spans inner. A lane takes two chunks of columns, so that a
// row's visit uses whole cache lines, and four rows at a time, so that rescaling is rare.
// Not handled: no rows, strides.

struct Info {
    rows: u32,
    chunks: u32,
    spans: u32,
    slab_rows: u32,
    inverse_temperature: f32,
    slabs: u32,
}

@group(0) @binding(0) var<storage, read_write> logits: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> of_rows: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> partial_max: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> partial_sum: array<Chunk>;
@group(0) @binding(4) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let group = number_of(place);
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
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
        let of_row_0 = of_rows[row];
        let of_row_1 = of_rows[row + 1u];
        let of_row_2 = of_rows[row + 2u];
        let of_row_3 = of_rows[row + 3u];
        let at = row * chunks;
        let a0 = logits[at + left] - of_row_0.x;
        let a1 = logits[at + chunks + left] - of_row_1.x;
        let a2 = logits[at + 2u * chunks + left] - of_row_2.x;
        let a3 = logits[at + 3u * chunks + left] - of_row_3.x;
        let b0 = logits[at + right] - of_row_0.x;
        let b1 = logits[at + chunks + right] - of_row_1.x;
        let b2 = logits[at + 2u * chunks + right] - of_row_2.x;
        let b3 = logits[at + 3u * chunks + right] - of_row_3.x;
        let next_left = max(max_left, max(max(a0, a1), max(a2, a3)));
        let next_right = max(max_right, max(max(b0, b1), max(b2, b3)));
        sum_left = sum_left * exp((max_left - next_left) * inverse)
            + exp((a0 - next_left) * inverse - of_row_0.y)
            + exp((a1 - next_left) * inverse - of_row_1.y)
            + exp((a2 - next_left) * inverse - of_row_2.y)
            + exp((a3 - next_left) * inverse - of_row_3.y);
        sum_right = sum_right * exp((max_right - next_right) * inverse)
            + exp((b0 - next_right) * inverse - of_row_0.y)
            + exp((b1 - next_right) * inverse - of_row_1.y)
            + exp((b2 - next_right) * inverse - of_row_2.y)
            + exp((b3 - next_right) * inverse - of_row_3.y);
        max_left = next_left;
        max_right = next_right;
    }
    for (; row < end; row += 1u) {
        let of_row = of_rows[row];
        let a = logits[row * chunks + left] - of_row.x;
        let b = logits[row * chunks + right] - of_row.x;
        let next_left = max(max_left, a);
        let next_right = max(max_right, b);
        sum_left = sum_left * exp((max_left - next_left) * inverse)
            + exp((a - next_left) * inverse - of_row.y);
        sum_right = sum_right * exp((max_right - next_right) * inverse)
            + exp((b - next_right) * inverse - of_row.y);
        max_left = next_left;
        max_right = next_right;
    }
    let out = slab * chunks;
    partial_max[out + left] = max_left;
    partial_sum[out + left] = sum_left;
    if left + LANES < chunks {
        partial_max[out + right] = max_right;
        partial_sum[out + right] = sum_right;
    }
}
