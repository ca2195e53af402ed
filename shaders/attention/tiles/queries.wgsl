// Gradient with respect to the queries, by tiles; the functions and their names as in ../queries.wgsl.
//
// Bindings: qkv [B T, 3 H C], row_lse [B H T], mixed [B T, H C], d_mixed [B T, H C], d_qkv [B T, 3 H C], along [B H T],
// info.
// Launch: one workgroup for ROWS queries of a head; those of one head side by side.
// Not handled: strides, widths that the lanes of a row do not share out.

@group(0) @binding(0) var<storage, read_write> qkv: array<Rows>;
@group(0) @binding(1) var<storage, read_write> row_lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> mixed: array<Rows>;
@group(0) @binding(3) var<storage, read_write> d_mixed: array<Rows>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<Rows>;
@group(0) @binding(5) var<storage, read_write> along: array<f32>;
@group(0) @binding(6) var<storage, read> info: Info;

fn entry(operand: u32, at: u32) -> vec4<f32> {
    if operand == D_MIXED {
        return vec4<f32>(d_mixed[at]);
    }
    return vec4<f32>(qkv[at]);
}

/// Of the lane's rows, products of gradient and result in the lane's chunks.
fn along_in_lane(block: Block, lane: Lane, token: u32) -> vec4<f32> {
    {{ each row }}
    let at_{{ row }} = token_at(block, token + {{ row }}u, 1u, 0u);
    var of_{{ row }} = vec4(0.0);
    {{ end }}
    for (var chunk = lane.x; chunk < info.chunks; chunk += ACROSS) {
        {{ each row }}
        of_{{ row }} =
            fma(vec4<f32>(d_mixed[at_{{ row }} + chunk]), vec4<f32>(mixed[at_{{ row }} + chunk]), of_{{ row }});
        {{ end }}
    }
    return vec4({{ each row }}total(of_{{ row }}), {{ end }});
}

fn log_of(block: Block, token: u32) -> f32 {
    return row_lse[block.first_log + min(token, block.tokens - 1u)];
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) number: u32) {
    let block = block_of(number_of(place));
    if block.is_none {
        return;
    }
    let lane = lane_of(number, block);
    let scale = info.scale;
    let token = block.first + lane.y * 4u;
    let log_of_sum = vec4({{ each row }}log_of(block, token + {{ row }}u), {{ end }});
    let all_along = total_of_rows(lane, along_in_lane(block, lane, token));
    var d_query: Sums;
    for (var first = 0u; first < block.tokens; first += COLUMNS) {
        put_away(lane, products(block, lane, QUERIES, KEYS, first));
        let d_shares = products(block, lane, D_MIXED, VALUES, first);
        let scores = taken_back(lane);
        var d_scores: Products;
        {{ each column }}
        d_scores.of_{{ column }} =
            exp(scores.of_{{ column }} * scale - log_of_sum) * (d_shares.of_{{ column }} - all_along);
        {{ end }}
        d_query = with_columns(block, lane, d_query, d_scores, KEYS, first);
    }
    {{ each row }}
    if token + {{ row }}u < block.tokens {
        let to = token_at(block, token + {{ row }}u, 3u, QUERIES) + lane.x;
        {{ each output }}
        if has_output(lane, {{ output }}u) {
            d_qkv[to + {{ output }}u * ACROSS] = Rows(d_query.of_{{ row }}_{{ output }} * scale);
        }
        {{ end }}
        if lane.x == 0u {
            along[block.first_log + token + {{ row }}u] = all_along[{{ row }}];
        }
    }
    {{ end }}
}
