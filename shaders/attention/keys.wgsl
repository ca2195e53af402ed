// Gradients with respect to the keys and values; p_ij, along_i and d_score_ij as in queries.wgsl:
//
//   d_k_j = scale sum_i d_score_ij q_i, d_v_j = sum_i p_ij d_mixed_i
//
// Bindings: qkv [B T, 3 H C], row_lse [B H T], along [B H T], d_mixed [B T, H C], d_qkv [B T, 3 H C], info.
// Launch: one lane for MEMBERS keys of a head; those of one head side by side.
// Not handled: strides.

@group(0) @binding(0) var<storage, read_write> qkv: array<Rows>;
@group(0) @binding(1) var<storage, read_write> row_lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> along: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_mixed: array<Rows>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<Rows>;
@group(0) @binding(5) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let work = work_of(place);
    if work.is_none {
        return;
    }
    let tokens = work.tokens;
    let scale = work.scale;
    let width = work.width;
    let column = work.column;
    {{ each member }}
    // beyond the last token: the last one once more, not written
    let token_{{ member }} = min(work.token + {{ member }}u, tokens - 1u);
    let key_at_{{ member }} = (work.first_row + token_{{ member }}) * 3u * width + width + column;
    {{ each head_chunk }}
    let key_{{ member }}_{{ head_chunk }} = Chunk(qkv[key_at_{{ member }} + {{ head_chunk }}u]) * scale;
    let value_{{ member }}_{{ head_chunk }} = Chunk(qkv[key_at_{{ member }} + width + {{ head_chunk }}u]);
    var d_key_{{ member }}_{{ head_chunk }} = Chunk(0.0);
    var d_value_{{ member }}_{{ head_chunk }} = Chunk(0.0);
    {{ end }}
    {{ end }}
    for (var other = 0u; other < tokens; other += 1u) {
        let row = work.first_row + other;
        let of_log = row_lse[work.first_log + other];
        let of_along = along[work.first_log + other];
        {{ each member }}
        var scores_{{ member }} = Chunk(0.0);
        var d_shares_{{ member }} = Chunk(0.0);
        {{ end }}
        {{ each head_chunk }}
        let query_{{ head_chunk }} = Chunk(qkv[row * 3u * width + column + {{ head_chunk }}u]);
        let d_mixed_{{ head_chunk }} = Chunk(d_mixed[row * width + column + {{ head_chunk }}u]);
        {{ each member }}
        scores_{{ member }} += key_{{ member }}_{{ head_chunk }} * query_{{ head_chunk }};
        d_shares_{{ member }} += value_{{ member }}_{{ head_chunk }} * d_mixed_{{ head_chunk }};
        {{ end }}
        {{ end }}
        {{ each member }}
        let share_{{ member }} = exp(total(scores_{{ member }}) - of_log);
        let d_score_{{ member }} = share_{{ member }} * (total(d_shares_{{ member }}) - of_along);
        {{ each head_chunk }}
        d_key_{{ member }}_{{ head_chunk }} += d_score_{{ member }} * query_{{ head_chunk }};
        d_value_{{ member }}_{{ head_chunk }} += share_{{ member }} * d_mixed_{{ head_chunk }};
        {{ end }}
        {{ end }}
    }
    {{ each member }}
    if work.token + {{ member }}u < tokens {
        {{ each head_chunk }}
        d_qkv[key_at_{{ member }} + {{ head_chunk }}u] = Rows(d_key_{{ member }}_{{ head_chunk }} * scale);
        d_qkv[key_at_{{ member }} + width + {{ head_chunk }}u] = Rows(d_value_{{ member }}_{{ head_chunk }});
        {{ end }}
    }
    {{ end }}
}
