// Softmax attention of each head, by tiles; the function and its names as in ../forward.wgsl.
//
// Bindings: qkv [B T, 3 H C], mixed [B T, H C], row_lse [B H T], info.
// Launch: one workgroup for ROWS queries of a head; those of one head side by side.
// Not handled: strides, widths that the lanes of a row do not share out.

@group(0) @binding(0) var<storage, read_write> qkv: array<Rows>;
@group(0) @binding(1) var<storage, read_write> mixed: array<Rows>;
@group(0) @binding(2) var<storage, read_write> row_lse: array<f32>;
@group(0) @binding(3) var<storage, read> info: Info;

fn entry(operand: u32, at: u32) -> vec4<f32> {
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
    var out: Sums;
    var most = vec4(LOWEST);
    var sum = vec4(0.0);
    for (var first = 0u; first < block.tokens; first += COLUMNS) {
        var scores = products(block, lane, QUERIES, KEYS, first);
        var next = most;
        {{ each column }}
        let is_there_{{ column }} = first + lane.x + {{ column }}u * ACROSS < block.tokens;
        scores.of_{{ column }} = select(vec4(LOWEST), scores.of_{{ column }} * scale, is_there_{{ column }});
        next = max(next, scores.of_{{ column }});
        {{ end }}
        next = largest_of_rows(lane, next);
        let keep = exp(most - next);
        most = next;
        sum *= keep;
        {{ each column }}
        scores.of_{{ column }} = exp(scores.of_{{ column }} - most);
        sum += scores.of_{{ column }};
        {{ end }}
        {{ each output }}
        {{ each row }}
        out.of_{{ row }}_{{ output }} *= keep[{{ row }}];
        {{ end }}
        {{ end }}
        out = with_columns(block, lane, out, scores, VALUES, first);
    }
    sum = total_of_rows(lane, sum);
    let log_of_sum = most + log(sum);
    {{ each row }}
    let token_{{ row }} = block.first + lane.y * 4u + {{ row }}u;
    if token_{{ row }} < block.tokens {
        let to = token_at(block, token_{{ row }}, 1u, 0u) + lane.x;
        {{ each output }}
        if has_output(lane, {{ output }}u) {
            mixed[to + {{ output }}u * ACROSS] = Rows(out.of_{{ row }}_{{ output }} / sum[{{ row }}]);
        }
        {{ end }}
        if lane.x == 0u {
            row_lse[block.first_log + token_{{ row }}] = log_of_sum[{{ row }}];
        }
    }
    {{ end }}
}
