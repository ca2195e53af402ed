// Gradients with respect to the keys and values, by tiles: rows are keys, columns queries; the functions and their names as in ../keys.wgsl.
//
// Bindings: qkv [B T, 3 H C], row_lse [B H T], along [B H T], d_mixed [B T, H C], d_qkv [B T, 3 H C], info.
// Launch: one workgroup for ROWS keys of a head; those of one head side by side.
// Not handled: strides, widths that the lanes of a row do not share out.

@group(0) @binding(0) var<storage, read_write> qkv: array<Rows>;
@group(0) @binding(1) var<storage, read_write> row_lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> along: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_mixed: array<Rows>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<Rows>;
@group(0) @binding(5) var<storage, read> info: Info;

fn entry(operand: u32, at: u32) -> vec4<f32> {
    if operand == D_MIXED {
        return vec4<f32>(d_mixed[at]);
    }
    return vec4<f32>(qkv[at]);
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) number: u32) {
    let block = block_of(number_of(place));
    if block.is_none {
        return;
    }
    let lane = lane_of(number, block);
    let scale = info.scale;
    var d_key: Sums;
    var d_value: Sums;
    for (var first = 0u; first < block.tokens; first += COLUMNS) {
        var shares_of = products(block, lane, KEYS, QUERIES, first);
        {{ each column }}
        let query_{{ column }} = min(first + lane.x + {{ column }}u * ACROSS, block.tokens - 1u);
        shares_of.of_{{ column }} =
            exp(shares_of.of_{{ column }} * scale - row_lse[block.first_log + query_{{ column }}]);
        {{ end }}
        // puts the shares away too
        d_value = with_columns(block, lane, d_value, shares_of, D_MIXED, first);
        var d_scores = products(block, lane, VALUES, D_MIXED, first);
        shares_of = taken_back(lane);
        {{ each column }}
        d_scores.of_{{ column }} =
            shares_of.of_{{ column }} * (d_scores.of_{{ column }} - along[block.first_log + query_{{ column }}]);
        {{ end }}
        d_key = with_columns(block, lane, d_key, d_scores, QUERIES, first);
    }
    {{ each row }}
    let token_{{ row }} = block.first + lane.y * 4u + {{ row }}u;
    if token_{{ row }} < block.tokens {
        let to = token_at(block, token_{{ row }}, 3u, KEYS) + lane.x;
        {{ each output }}
        if has_output(lane, {{ output }}u) {
            d_qkv[to + {{ output }}u * ACROSS] = Rows(d_key.of_{{ row }}_{{ output }} * scale);
            d_qkv[to + block.width + {{ output }}u * ACROSS] = Rows(d_value.of_{{ row }}_{{ output }});
        }
        {{ end }}
    }
    {{ end }}
}
