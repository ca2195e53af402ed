// Gradients of a linear layer whose rows are normalized first, from one product alone. With units u of the rows before the
// norm's scale and shift, and d the gradient with respect to the layer's result, the product is u^T d and the totals are the sums of d's
// columns; then
//
//   d_weight_kn = scale_k product_kn + shift_k total_n        d_bias_n = total_n
//   d_scale_k = sum_n weight_kn product_kn                    d_shift_k = sum_n weight_kn total_n
//
// so that no pass over the rows is made for scale and shift.
//
// Bindings: product [P, I, C], totals [P, C] and room for d_bias [C] at `spare`, weight [I, C], scale [I], shift [I],
// d_weight [I, C], d_norm (d_scale [I], and d_shift [I] at `second`), info. C = O / (lanes of Chunk); P parts of the sums.
// Launch: a team of lanes one of the I rows.
// Not handled: strides.

struct Info {
    rows: u32,
    chunks: u32,
    parts: u32,
    /// Chunk of totals at which d_bias starts.
    spare: u32,
    /// Entry of d_norm at which d_shift starts.
    second: u32,
}

@group(0) @binding(0) var<storage, read_write> product: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> totals: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> weight: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> shift: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_weight: array<Chunk>;
@group(0) @binding(6) var<storage, read_write> d_norm: array<f32>;
@group(0) @binding(7) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let row = row_of(place, lane);
    let start = row.start;
    let parts = info.parts;
    let of_part = info.rows * row.chunks;
    let row_scale = scale[row.row];
    let row_shift = shift[row.row];
    var sums = vec2<f32>();
    for (var chunk = row.first; chunk < row.chunks; chunk += TEAM) {
        var sum = product[start + chunk];
        var of_column = totals[chunk];
        for (var part = 1u; part < parts; part += 1u) {
            sum += product[part * of_part + start + chunk];
            of_column += totals[part * row.chunks + chunk];
        }
        let own = weight[start + chunk];
        sums += vec2<f32>(total(own * sum), total(own * of_column));
        if row.is_own {
            d_weight[start + chunk] = sum * row_scale + of_column * row_shift;
        }
        if row.is_own && row.row == 0u {
            totals[info.spare + chunk] = of_column;
        }
    }
    let all = sum_of_team(lane, sums);
    if row.first == 0u && row.is_own {
        d_norm[row.row] = all.x;
        d_norm[info.second + row.row] = all.y;
    }
}
