// Softmax attention of each head, one pass over the keys with a running maximum (FlashAttention, arXiv 2205.14135):
//
//   mixed_i = sum_j exp(scale q_i k_j - row_lse_i) v_j, row_lse_i = log sum_j exp(scale q_i k_j)
//
// Bindings: qkv [B T, 3 H C], mixed [B T, H C], row_lse [B H T], info.
// Launch: one lane for MEMBERS queries of a head; those of one head side by side.
// Not handled: strides.

@group(0) @binding(0) var<storage, read_write> qkv: array<Rows>;
@group(0) @binding(1) var<storage, read_write> mixed: array<Rows>;
@group(0) @binding(2) var<storage, read_write> row_lse: array<f32>;
@group(0) @binding(3) var<storage, read> info: Info;

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
    let from_{{ member }} = (work.first_row + token_{{ member }}) * 3u * width + column;
    var max_{{ member }} = LOWEST;
    var sum_{{ member }} = 0.0;
    {{ each head_chunk }}
    let query_{{ member }}_{{ head_chunk }} = Chunk(qkv[from_{{ member }} + {{ head_chunk }}u]) * scale;
    var mixed_{{ member }}_{{ head_chunk }} = Chunk(0.0);
    {{ end }}
    {{ end }}
    for (var other = 0u; other < tokens; other += 1u) {
        let key_at = (work.first_row + other) * 3u * width + width + column;
        {{ each member }}
        var products_{{ member }} = Chunk(0.0);
        {{ end }}
        {{ each head_chunk }}
        let key_{{ head_chunk }} = Chunk(qkv[key_at + {{ head_chunk }}u]);
        {{ each member }}
        products_{{ member }} += query_{{ member }}_{{ head_chunk }} * key_{{ head_chunk }};
        {{ end }}
        {{ end }}
        {{ each member }}
        let score_{{ member }} = total(products_{{ member }});
        let next_{{ member }} = max(max_{{ member }}, score_{{ member }});
        let keep_{{ member }} = exp(max_{{ member }} - next_{{ member }});
        let share_{{ member }} = exp(score_{{ member }} - next_{{ member }});
        sum_{{ member }} = sum_{{ member }} * keep_{{ member }} + share_{{ member }};
        max_{{ member }} = next_{{ member }};
        {{ end }}
        {{ each head_chunk }}
        let value_{{ head_chunk }} = Chunk(qkv[key_at + width + {{ head_chunk }}u]);
        {{ each member }}
        mixed_{{ member }}_{{ head_chunk }} =
            mixed_{{ member }}_{{ head_chunk }} * keep_{{ member }} + value_{{ head_chunk }} * share_{{ member }};
        {{ end }}
        {{ end }}
    }
    {{ each member }}
    if work.token + {{ member }}u < tokens {
        let to = (work.first_row + token_{{ member }}) * width + column;
        {{ each head_chunk }}
        mixed[to + {{ head_chunk }}u] = Rows(mixed_{{ member }}_{{ head_chunk }} / sum_{{ member }});
        {{ end }}
        row_lse[work.first_log + token_{{ member }}] = max_{{ member }} + log(sum_{{ member }});
    }
    {{ end }}
}
