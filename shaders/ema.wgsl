// teacher <- teacher * keep + student * take, for TENSORS pairs of tensors in one dispatch, in place; where the grad_scale is
// 0, nothing moves.
//
// Bindings: teacher 0, student 0, teacher 1, student 1, ..., grad_scale [1], rates, info.
// Launch: the workgroups of tensor 0, then those of tensor 1, and so on; a lane takes ROUNDS chunks. first_group says
// where a tensor's workgroups begin, chunks how many chunks it has.
// Not handled: a teacher that is its own student, strides.

const TENSORS = {{ tensors }}u;
const ROUNDS = {{ rounds }}u;

struct Part {
    first_group: u32,
    chunks: u32,
}

struct Info {
    parts: array<Part, TENSORS>,
}

/// What changes from step to step: it comes apart from the info, which stays.
struct Rates {
    keep: f32,
    take: f32,
}

{{ each tensor }}
@group(0) @binding(2 * {{ tensor }}) var<storage, read_write> teacher_{{ tensor }}: array<Chunk>;
@group(0) @binding(2 * {{ tensor }} + 1) var<storage, read_write> student_{{ tensor }}: array<Chunk>;
{{ end }}
@group(0) @binding(2 * {{ tensors }}) var<storage, read_write> grad_scale: array<f32>;
@group(0) @binding(2 * {{ tensors }} + 1) var<storage, read_write> rates: Rates;
@group(0) @binding(2 * {{ tensors }} + 2) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    if grad_scale[0] == 0.0 {
        return;
    }
    let group = number_of(place);
    var part = 0u;
    while part + 1u < TENSORS && group >= info.parts[part + 1u].first_group {
        part += 1u;
    }
    let first = (group - info.parts[part].first_group) * LANES * ROUNDS + lane;
    let end = min(first + LANES * ROUNDS, info.parts[part].chunks);
    // read once: a software device goes to memory each time
    let keep = rates.keep;
    let take = rates.take;
    switch part {
        {{ each tensor }}
        case {{ tensor }}u: {
            for (var at = first; at < end; at += LANES) {
                teacher_{{ tensor }}[at] = teacher_{{ tensor }}[at] * keep + student_{{ tensor }}[at] * take;
            }
        }
        {{ end }}
        default: {}
    }
}
