// Sum of the squares of what each workgroup walks over, for TENSORS tensors in one dispatch; always in the same order, so
// that two runs give the same bits.
//
// Bindings: tensor 0, tensor 1, ..., sums [workgroups of all dispatches], info.
// Launch: the workgroups of tensor 0, then those of tensor 1, and so on; a lane takes ROUNDS chunks. first_group says
// where a tensor's workgroups begin, chunks how many chunks it has; groups_before counts those of other dispatches.
// Not handled: strides.

const TENSORS = {{ tensors }}u;
const ROUNDS = {{ rounds }}u;

struct Part {
    first_group: u32,
    chunks: u32,
}

struct Info {
    groups_before: u32,
    parts: array<Part, TENSORS>,
}

{{ each tensor }}
@group(0) @binding({{ tensor }}) var<storage, read_write> tensor_{{ tensor }}: array<Chunk>;
{{ end }}
@group(0) @binding({{ tensors }}) var<storage, read_write> sums: array<f32>;
@group(0) @binding({{ tensors }} + 1) var<storage, read> info: Info;

var<workgroup> of_lanes: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let group = number_of(place);
    var part = 0u;
    while part + 1u < TENSORS && group >= info.parts[part + 1u].first_group {
        part += 1u;
    }
    let first_chunk = (group - info.parts[part].first_group) * LANES * ROUNDS;
    let chunks = info.parts[part].chunks;
    let end = min(first_chunk + lane + LANES * ROUNDS, chunks);
    var sum = Chunk();
    switch part {
        {{ each tensor }}
        case {{ tensor }}u: {
            for (var at = first_chunk + lane; at < end; at += LANES) {
                let v = tensor_{{ tensor }}[at];
                sum += v * v;
            }
        }
        {{ end }}
        default: {}
    }
    of_lanes[lane] = total(sum);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            of_lanes[lane] += of_lanes[lane + half];
        }
        workgroupBarrier();
    }
    // a workgroup more than asked for, at the end of the launch's rectangle, has nothing
    if lane == 0u && first_chunk < chunks {
        sums[info.groups_before + group] = of_lanes[0];
    }
}
