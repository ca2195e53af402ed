// y = x / max(|x|, sqrt(eps)) for each row, as torch.nn.functional.normalize.
//
// Bindings: x [R, C], y [R, C], info. C = D / (lanes of Chunk).
// Launch: a team of lanes a row.
// Not handled: strides.

alias Rows = {{ rows }};

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> y: array<Chunk>;
@group(0) @binding(2) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let row = row_of(place, lane);
    let start = row.start;
    var squares = 0.0;
    for (var chunk = row.first; chunk < row.chunks; chunk += TEAM) {
        let entry = Chunk(x[start + chunk]);
        squares += total(entry * entry);
    }
    let norm = sqrt(max(sum_of_team(lane, vec2<f32>(squares, 0.0)).x, info.eps));
    for (var chunk = row.first; chunk < row.written; chunk += TEAM) {
        y[start + chunk] = Chunk(x[start + chunk]) / norm;
    }
}
