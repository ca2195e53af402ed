// The rows' normalizers, one pass over the logits with a running maximum:
//
//   row_shift_i = max_j (t_ij - prototype_shift_j)
//   row_lse_i = log sum_j exp((t_ij - prototype_shift_j - row_shift_i) / temperature - prototype_log_j)
//
// Bindings: logits [M, C], of_prototypes [K, 2], of_rows, info. C = K / (lanes of Chunk).
// of_prototypes holds (prototype_shift, prototype_log), of_rows (row_shift, row_lse).
// Launch: one workgroup a row.
// Not handled: strides.

struct Info {
    rows: u32,
    chunks: u32,
    inverse_temperature: f32,
}

@group(0) @binding(0) var<storage, read_write> logits: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> of_prototypes: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> of_rows: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> info: Info;

/// Maximum and sum of each lane.
var<workgroup> found: array<vec2<f32>, LANES>;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let row = number_of(place);
    if row >= info.rows {
        return;
    }
    // read once: a software device goes to memory each time
    let chunks = info.chunks;
    let inverse = info.inverse_temperature;
    let start = row * chunks;
    var lane_max = LOWEST;
    var lane_sum = 0.0;
    for (var chunk = lane; chunk < chunks; chunk += LANES) {
        let low = of_prototypes[2u * chunk];
        let high = of_prototypes[2u * chunk + 1u];
        let shifted = logits[start + chunk] - first_of(low, high);
        let next = max(lane_max, largest(shifted));
        lane_sum = lane_sum * exp((lane_max - next) * inverse)
            + total(exp((shifted - next) * inverse - second_of(low, high)));
        lane_max = next;
    }
    found[lane] = vec2<f32>(lane_max, lane_sum);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let a = found[lane];
            let b = found[lane + half];
            let next = max(a.x, b.x);
            found[lane] = vec2<f32>(next, a.y * exp((a.x - next) * inverse) + b.y * exp((b.x - next) * inverse));
        }
        workgroupBarrier();
    }
    if lane == 0u {
        of_rows[row] = vec2<f32>(found[0].x, log(found[0].y));
    }
}
