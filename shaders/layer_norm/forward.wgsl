// y = (x - mean) / sqrt(variance + eps) * weight + bias for each row (arXiv 1607.06450).
//
// Bindings: x [R, C], weight [C], bias [C], y [R, C], info. C = D / (lanes of Chunk).
// Launch: a team of lanes a row.
// Not handled: strides.

alias Rows = {{ rows }};
alias Normed = {{ normed }};

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> weight: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> bias: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> y: array<Normed>;
@group(0) @binding(4) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let row = row_of(place, lane);
    let start = row.start;
    var sum = 0.0;
    for (var chunk = row.first; chunk < row.chunks; chunk += TEAM) {
        sum += total(Chunk(x[start + chunk]));
    }
    let mean = sum_of_team(lane, vec2<f32>(sum, 0.0)).x / info.width;
    var squares = 0.0;
    for (var chunk = row.first; chunk < row.chunks; chunk += TEAM) {
        let centered = Chunk(x[start + chunk]) - mean;
        squares += total(centered * centered);
    }
    let variance = sum_of_team(lane, vec2<f32>(squares, 0.0)).x / info.width;
    let scale = 1.0 / sqrt(variance + info.eps);
    for (var chunk = row.first; chunk < row.written; chunk += TEAM) {
        y[start + chunk] = Normed((Chunk(x[start + chunk]) - mean) * scale * weight[chunk] + bias[chunk]);
    }
}
