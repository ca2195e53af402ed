// The gradients of a scaled loss without the scale, and the scale of the next step: half of it where they overflowed, in a step
// that then moves nothing; twice of it after GROWTH_INTERVAL sound steps.
//
// Bindings: squared_norm [1], scale [1], sound_steps [1], unscaled_norm [1], factor [1], next_scale [1], next_steps [1], info.
// Launch: one lane.
// Source: torch.amp.GradScaler. The squared norm is bits here: a compiler may assume finite math (no infinity, no NaN).

const EXPONENT = 0x7f800000u;

struct Info {
    growth_interval: f32,
    smallest: f32,
    largest: f32,
}

@group(0) @binding(0) var<storage, read_write> squared_norm: array<u32>;
@group(0) @binding(1) var<storage, read_write> scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> sound_steps: array<f32>;
@group(0) @binding(3) var<storage, read_write> unscaled_norm: array<u32>;
@group(0) @binding(4) var<storage, read_write> factor: array<f32>;
@group(0) @binding(5) var<storage, read_write> next_scale: array<f32>;
@group(0) @binding(6) var<storage, read_write> next_steps: array<f32>;
@group(0) @binding(7) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    if lane > 0u || number_of(place) > 0u {
        return;
    }
    let bits = squared_norm[0];
    let before = scale[0];
    let steps = sound_steps[0] + 1.0;
    let inverse = 1.0 / before;
    let overflowed = (bits & EXPONENT) == EXPONENT;
    if overflowed && before > info.smallest {
        unscaled_norm[0] = 0u;
        factor[0] = 0.0;
        next_scale[0] = before * 0.5;
        next_steps[0] = 0.0;
        return;
    }
    var unscaled = bits; // what is not finite stays so
    if !overflowed {
        unscaled = bitcast<u32>(bitcast<f32>(bits) * inverse * inverse);
    }
    unscaled_norm[0] = unscaled;
    factor[0] = inverse;
    let grows = steps >= info.growth_interval;
    next_scale[0] = select(before, min(before * 2.0, info.largest), grows);
    next_steps[0] = select(steps, 0.0, grows);
}
