// Gradient with respect to the rows, with u = (x - mean) scale and d_u = d_y weight:
//
//   d_x = (d_u - mean(d_u) - u mean(d_u u)) scale
//
// plus, where it is there, past: the gradient with respect to the same rows that comes past the norm. With moments, each row's mean and
// scale for columns.wgsl; with units, u itself for the gradients of the layer behind the norm.
//
// Bindings: x [R, C], weight [C], d_y [P, R, C] in P parts to be added up, d_x [R, C], where they are there past [R, C], units [R, C], row_mean [R] and
// row_scale [R], info. C = D / (lanes of Chunk).
// Launch: a team of lanes a row.
// Not handled: strides.

/// Of x, of gradients with respect to it, and of units.
alias Rows = {{ rows }};
/// Of the gradient with respect to the norm's result.
alias Normed = {{ normed }};

@group(0) @binding(0) var<storage, read_write> x: array<Rows>;
@group(0) @binding(1) var<storage, read_write> weight: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> d_y: array<Normed>;
@group(0) @binding(3) var<storage, read_write> d_x: array<Rows>;
{{ each past }}
@group(0) @binding(4) var<storage, read_write> past: array<Rows>;
{{ end }}
{{ each unit }}
@group(0) @binding(4 + {{ past }}) var<storage, read_write> units: array<Rows>;
{{ end }}
{{ each moments }}
@group(0) @binding(4) var<storage, read_write> row_mean: array<f32>;
@group(0) @binding(5) var<storage, read_write> row_scale: array<f32>;
{{ end }}
@group(0) @binding(4 + {{ past }} + {{ unit }} + 2 * {{ moments }}) var<storage, read> info: Info;

/// The gradient with respect to the norm's result.
fn d_at(at: u32) -> Chunk {
    var d = Chunk(d_y[at]);
    for (var part = 1u; part < info.parts; part += 1u) {
        d += Chunk(d_y[part * info.rows * info.chunks + at]);
    }
    return d;
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let row = row_of(place, lane);
    let start = row.start;
    var sum = 0.0;
    var d_sum = 0.0;
    for (var chunk = row.first; chunk < row.chunks; chunk += TEAM) {
        sum += total(Chunk(x[start + chunk]));
        d_sum += total(d_at(start + chunk) * weight[chunk]);
    }
    let means = sum_of_team(lane, vec2<f32>(sum, d_sum)) / info.width;
    var squares = 0.0;
    var products = 0.0;
    for (var chunk = row.first; chunk < row.chunks; chunk += TEAM) {
        let centered = Chunk(x[start + chunk]) - means.x;
        squares += total(centered * centered);
        products += total(d_at(start + chunk) * weight[chunk] * centered);
    }
    let moments = sum_of_team(lane, vec2<f32>(squares, products)) / info.width;
    let scale = 1.0 / sqrt(moments.x + info.eps);
    let along = moments.y * scale * scale;
    for (var chunk = row.first; chunk < row.written; chunk += TEAM) {
        let centered = Chunk(x[start + chunk]) - means.x;
        var d = (d_at(start + chunk) * weight[chunk] - means.y - centered * along) * scale;
        {{ each past }}
        d += Chunk(past[start + chunk]);
        {{ end }}
        d_x[start + chunk] = Rows(d);
        {{ each unit }}
        units[start + chunk] = Rows(centered * scale);
        {{ end }}
    }
    {{ each moments }}
    if row.first == 0u && row.is_own {
        row_mean[row.row] = means.x;
        row_scale[row.row] = scale;
    }
    {{ end }}
}
