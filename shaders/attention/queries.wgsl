// Gradient with respect to the queries, from the maps p_ij = exp(scale q_i k_j - row_lse_i) computed once more:
//
//   along_i = d_mixed_i mixed_i, d_score_ij = p_ij (d_mixed_i v_j - along_i), d_q_i = scale sum_j d_score_ij k_j
//
// Bindings: qkv [B T, 3 H C], row_lse [B H T], mixed [B T, H C], d_mixed [B T, H C], d_qkv [B T, 3 H C], along [B H T],
// info.
// Launch: one lane for MEMBERS queries of a head; those of one head side by side.
// Not handled: strides.

@group(0) @binding(0) var<storage, read_write> qkv: array<Rows>;
@group(0) @binding(1) var<storage, read_write> row_lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> mixed: array<Rows>;
@group(0) @binding(3) var<storage, read_write> d_mixed: array<Rows>;
@group(0) @binding(4) var<storage, read_write> d_qkv: array<Rows>;
@group(0) @binding(5) var<storage, read_write> along: array<f32>;
@group(0) @binding(6) var<storage, read> info: Info;

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
    let row_{{ member }} = work.first_row + token_{{ member }};
    let query_at_{{ member }} = row_{{ member }} * 3u * width + column;
    let mixed_at_{{ member }} = row_{{ member }} * width + column;
    let log_{{ member }} = row_lse[work.first_log + token_{{ member }}];
    var products_{{ member }} = Chunk(0.0);
    {{ each head_chunk }}
    let query_{{ member }}_{{ head_chunk }} = Chunk(qkv[query_at_{{ member }} + {{ head_chunk }}u]) * scale;
    let d_mixed_{{ member }}_{{ head_chunk }} = Chunk(d_mixed[mixed_at_{{ member }} + {{ head_chunk }}u]);
    products_{{ member }} +=
        d_mixed_{{ member }}_{{ head_chunk }} * Chunk(mixed[mixed_at_{{ member }} + {{ head_chunk }}u]);
    var d_query_{{ member }}_{{ head_chunk }} = Chunk(0.0);
    {{ end }}
    let along_{{ member }} = total(products_{{ member }});
    {{ end }}
    for (var other = 0u; other < tokens; other += 1u) {
        let key_at = (work.first_row + other) * 3u * width + width + column;
        {{ each member }}
        var scores_{{ member }} = Chunk(0.0);
        var d_shares_{{ member }} = Chunk(0.0);
        {{ end }}
        {{ each head_chunk }}
        let key_{{ head_chunk }} = Chunk(qkv[key_at + {{ head_chunk }}u]);
        let value_{{ head_chunk }} = Chunk(qkv[key_at + width + {{ head_chunk }}u]);
        {{ each member }}
        scores_{{ member }} += query_{{ member }}_{{ head_chunk }} * key_{{ head_chunk }};
        d_shares_{{ member }} += d_mixed_{{ member }}_{{ head_chunk }} * value_{{ head_chunk }};
        {{ end }}
        {{ end }}
        {{ each member }}
        let share_{{ member }} = exp(total(scores_{{ member }}) - log_{{ member }});
        let d_score_{{ member }} = share_{{ member }} * (total(d_shares_{{ member }}) - along_{{ member }});
        {{ each head_chunk }}
        d_query_{{ member }}_{{ head_chunk }} += d_score_{{ member }} * key_{{ head_chunk }};
        {{ end }}
        {{ end }}
    }
    {{ each member }}
    if work.token + {{ member }}u < tokens {
        {{ each head_chunk }}
        d_qkv[query_at_{{ member }} + {{ head_chunk }}u] = Rows(d_query_{{ member }}_{{ head_chunk }} * scale);
        {{ end }}
        along[work.first_log + token_{{ member }}] = along_{{ member }};
    }
    {{ end }}
}
