// teacher <- teacher * keep + student * take, for PAIRS pairs of tensors in one dispatch, in place.
//
// Bindings: teacher 0, student 0, teacher 1, student 1, ..., info.
// Launch: the workgroups of pair 0, then those of pair 1, and so on; a lane takes ROUNDS chunks. first_group says where
// a pair's workgroups begin, chunks how many chunks it has.
// Not handled: a teacher that is its own student, strides.

const PAIRS = {{ pairs }}u;
const ROUNDS = {{ rounds }}u;

struct Info {
    keep: f32,
    take: f32,
    first_group: array<u32, PAIRS>,
    chunks: array<u32, PAIRS>,
}

{{ each pair }}
@group(0) @binding(2 * {{ pair }}) var<storage, read_write> teacher_{{ pair }}: array<Chunk>;
@group(0) @binding(2 * {{ pair }} + 1) var<storage, read_write> student_{{ pair }}: array<Chunk>;
{{ end }}
@group(0) @binding(2 * {{ pairs }}) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let lane = place.lane;
    let group = group_of(place);
    var pair = 0u;
    while pair + 1u < PAIRS && group >= info.first_group[pair + 1u] {
        pair += 1u;
    }
    let first = (group - info.first_group[pair]) * LANES * ROUNDS + lane;
    let end = min(first + LANES * ROUNDS, info.chunks[pair]);
    // read once: a software device goes to memory each time
    let keep = info.keep;
    let take = info.take;
    switch pair {
        {{ each pair }}
        case {{ pair }}u: {
            for (var at = first; at < end; at += LANES) {
                teacher_{{ pair }}[at] = teacher_{{ pair }}[at] * keep + student_{{ pair }}[at] * take;
            }
        }
        {{ end }}
        default: {}
    }
}
