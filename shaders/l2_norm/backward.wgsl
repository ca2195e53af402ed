// Gradient of forward.wgsl: with n = max(|x|, sqrt(eps))
//
//   d_x = d_y / n - x (x . d_y) / n^3, and d_x = d_y / n where n does not depend on x
//
// Bindings: x [R, C], d_y [R, C], d_x [R, C], info. C = D / (lanes of Chunk).
// Launch: a team of lanes a row.
// Not handled: strides.

alias Rows = {{ rows }};

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> d_y: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> d_x: array<Rows>;
@group(0) @binding(3) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let row = row_of(place, lane);
    let start = row.start;
    var squares = 0.0;
    var products = 0.0;
    for (var chunk = row.first; chunk < row.chunks; chunk += TEAM) {
        let entry = Chunk(x[start + chunk]);
        squares += total(entry * entry);
        products += total(entry * d_y[start + chunk]);
    }
    let sums = sum_of_team(lane, vec2<f32>(squares, products));
    let scale = 1.0 / sqrt(max(sums.x, info.eps));
    // factor by factor: the cube of a small norm underflows in f32
    let along = select(0.0, sums.y * scale * scale, sums.x >= info.eps);
    for (var chunk = row.first; chunk < row.written; chunk += TEAM) {
        d_x[start + chunk] = Rows((d_y[start + chunk] - Chunk(x[start + chunk]) * along) * scale);
    }
}
