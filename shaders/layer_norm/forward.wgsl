// y = (x - mean) / sqrt(variance + eps) * weight + bias for each row (arXiv 1607.06450).
//
// Bindings: x [R, C], weight [C], bias [C], y [R, C], info. C = D / (lanes of Chunk).
// Launch: a team of lanes a row.
// Not handled: strides.

@group(0) @binding(0) var<storage, read_write> x: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> weight: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> bias: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> y: array<Chunk>;
@group(0) @binding(4) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let own_row = row_of(place, lane);
    let row = min(own_row, info.rows - 1u);
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let first = lane % TEAM;
    let start = row * chunks;
    var sum = 0.0;
    for (var chunk = first; chunk < chunks; chunk += TEAM) {
        sum += total(x[start + chunk]);
    }
    let mean = sum_of_team(lane, vec2<f32>(sum, 0.0)).x / info.width;
    var squares = 0.0;
    for (var chunk = first; chunk < chunks; chunk += TEAM) {
        let centered = x[start + chunk] - mean;
        squares += total(centered * centered);
    }
    let variance = sum_of_team(lane, vec2<f32>(squares, 0.0)).x / info.width;
    let scale = 1.0 / sqrt(variance + info.eps);
    let written = select(0u, chunks, own_row == row);
    for (var chunk = first; chunk < written; chunk += TEAM) {
        y[start + chunk] = (x[start + chunk] - mean) * scale * weight[chunk] + bias[chunk];
    }
}
