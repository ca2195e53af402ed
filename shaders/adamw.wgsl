// One AdamW step of TENSORS tensors in one dispatch, in place; where the gradients' scale is 0, nothing moves.
//
// Bindings: param 0, grad 0, first moment 0, second moment 0, param 1, ..., grad_scale [1], rates, info.
// Launch: the workgroups of tensor 0, then those of tensor 1, and so on; a lane takes ROUNDS chunks. first_group says
// where a tensor's workgroups begin, chunks how many chunks it has.
// Source: arXiv 1711.05101, algorithm 2, in the order of operations of torch.optim.AdamW.
// Not handled: strides, tensors that share memory.

const TENSORS = {{ tensors }}u;
const ROUNDS = {{ rounds }}u;

struct Part {
    /// Which of the pairs.
    pair: u32,
    first_group: u32,
    chunks: u32,
}

struct Info {
    parts: array<Part, TENSORS>,
}

/// What changes from step to step: it comes apart from the info, which stays.
struct Rates {
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    root_scale: f32,
    /// What a parameter is multiplied by, and how far it moves.
    pairs: array<vec2<f32>>,
}

{{ each tensor }}
@group(0) @binding(4 * {{ tensor }}) var<storage, read_write> param_{{ tensor }}: array<Chunk>;
@group(0) @binding(4 * {{ tensor }} + 1) var<storage, read_write> grad_{{ tensor }}: array<Chunk>;
@group(0) @binding(4 * {{ tensor }} + 2) var<storage, read_write> first_{{ tensor }}: array<Chunk>;
@group(0) @binding(4 * {{ tensor }} + 3) var<storage, read_write> second_{{ tensor }}: array<Chunk>;
{{ end }}
@group(0) @binding(4 * {{ tensors }}) var<storage, read_write> grad_scale: array<f32>;
@group(0) @binding(4 * {{ tensors }} + 1) var<storage, read_write> rates: Rates;
@group(0) @binding(4 * {{ tensors }} + 2) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let scale = grad_scale[0];
    if scale == 0.0 {
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
    let pair = rates.pairs[info.parts[part].pair];
    let keep = pair.x;
    let step_size = pair.y;
    let beta1 = rates.beta1;
    let rest1 = rates.rest1;
    let beta2 = rates.beta2;
    let rest2 = rates.rest2;
    let eps = rates.eps;
    let root_scale = rates.root_scale;
    switch part {
        {{ each tensor }}
        case {{ tensor }}u: {
            for (var at = first; at < end; at += LANES) {
                let grad = grad_{{ tensor }}[at] * scale;
                let m = first_{{ tensor }}[at] * beta1 + grad * rest1;
                let v = second_{{ tensor }}[at] * beta2 + grad * grad * rest2;
                first_{{ tensor }}[at] = m;
                second_{{ tensor }}[at] = v;
                param_{{ tensor }}[at] = param_{{ tensor }}[at] * keep - m * step_size / (sqrt(v) * root_scale + eps);
            }
        }
        {{ end }}
        default: {}
    }
}
