// Cross-entropy of each student row with its targets, one pass over both logits with a running maximum:
//
//   loss_i = w_i * sum_{r targets i} sum_j q_rj (row_max_i + row_lse_i - s_ij / student_temperature)
//
// with the targets q of operands.wgsl.
//
// Bindings: those of operands.wgsl, of_rows [M, 2], which holds (row_max, row_lse), row_loss [M], info.
// Launch: one workgroup a student row.
// Not handled: strides.

@group(0) @binding(5) var<storage, read_write> of_rows: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> row_loss: array<f32>;

/// What each lane found of its row: maximum and sum of exponentials of the student, sum of targets, and
/// sum of targets times (student logit - maximum).
var<workgroup> found: array<vec4<f32>, LANES>;

fn merge(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let next = max(a.x, b.x);
    let of_a = a.x - next;
    let of_b = b.x - next;
    return vec4<f32>(
        next,
        a.y * exp(of_a) + b.y * exp(of_b),
        a.z + b.z,
        (a.w + a.z * of_a) + (b.w + b.z * of_b),
    );
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let row = number_of(place);
    if row >= info.rows {
        return;
    }
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let inverse_student = info.inverse_student_temperature;
    let inverse_target = info.inverse_target_temperature;
    let start = row * chunks;
    {{ each view }}
    let met_{{ view }} = met_in({{ view }}u, row);
    {{ end }}
    var lane_max = LOWEST;
    var lane_sum = 0.0;
    var lane_mass = 0.0;
    var lane_dot = 0.0;
    for (var chunk = lane; chunk < chunks; chunk += LANES) {
        let logit = student[start + chunk] * inverse_student;
        let prototypes = prototypes_of(chunk, inverse_target);
        var targets = Chunk(0.0);
        {{ each view }}
        targets += targets_of(met_{{ view }}, prototypes);
        {{ end }}
        let next = max(lane_max, largest(logit));
        let below = logit - next;
        lane_sum = lane_sum * exp(lane_max - next) + total(exp(below));
        lane_dot = lane_dot + lane_mass * (lane_max - next) + total(targets * below);
        lane_mass += total(targets);
        lane_max = next;
    }
    found[lane] = vec4<f32>(lane_max, lane_sum, lane_mass, lane_dot);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            found[lane] = merge(found[lane], found[lane + half]);
        }
        workgroupBarrier();
    }
    if lane == 0u {
        let all = found[0];
        let rest = log(all.y);
        of_rows[row] = vec2<f32>(all.x, rest);
        row_loss[row] = row_weights[row] * (all.z * rest - all.w);
    }
}
