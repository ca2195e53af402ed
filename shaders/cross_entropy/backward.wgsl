// Gradient of the cross-entropy by the student logits, written over them:
//
//   d_s_ij = d_loss w_i / student_temperature * sum_{r targets i} (exp(s_ij / student_temperature - row_max_i - row_lse_i) - q_rj)
//
// with the targets q of operands.wgsl.
//
// Bindings: those of operands.wgsl, of_rows [M, 2], which holds (row_max, row_lse), d_loss [1], info.
// Launch: one workgroup for each (row, span of columns), spans inner; a span is ROUNDS chunks a lane.
// Not handled: strides.

@group(0) @binding(5) var<storage, read_write> of_rows: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> d_loss: array<f32>;

const ROUNDS = {{ rounds }}u;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let group = number_of(place);
    let row = group / info.spans;
    if row >= info.rows {
        return;
    }
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let inverse_student = info.inverse_student_temperature;
    let inverse_target = info.inverse_target_temperature;
    let start = row * chunks;
    var count = 0.0;
    {{ each view }}
    let met_{{ view }} = met_in({{ view }}u, row);
    count += met_{{ view }}.counts;
    {{ end }}
    let first = (group % info.spans) * LANES * ROUNDS + lane;
    let end = min(first + LANES * ROUNDS, chunks);
    let of_row = of_rows[row];
    let scale = d_loss[0] * row_weights[row] * inverse_student;
    for (var chunk = first; chunk < end; chunk += LANES) {
        let prototypes = prototypes_of(chunk, inverse_target);
        var targets = Chunk(0.0);
        {{ each view }}
        targets += targets_of(met_{{ view }}, prototypes);
        {{ end }}
        let probs = exp((student[start + chunk] * inverse_student - of_row.x) - of_row.y);
        student[start + chunk] = (count * probs - targets) * scale;
    }
}
