// How an operand becomes two f16, for cooperative.wgsl.

{{ each split }}
/// What a low half is multiplied by, so that it is a normal f16 wherever its high half is one.
const LOW_SCALE = 2048.0;
/// The smallest f16 with all of its bits, 2^-14.
const LEAST_NORMAL = 6.103515625e-5;
/// Workgroups of largest.wgsl for each operand.
const GROUPS = {{ groups }}u;

/// Bits of the largest absolute values of the operands.
var<workgroup> largest_bits: array<atomic<u32>, 2>;

/// The nearest f16, or zero where that has fewer bits than others. From its bits: compilers may take f32(f16(x)) for x, as Mesa
/// 26.2 does, and then there would be no low half.
fn high_of(x: vec4<f32>) -> vec4<f32> {
    let bits = (bitcast<vec4<u32>>(x) + vec4<u32>(0x1000u)) & vec4<u32>(0xffffe000u);
    return select(vec4<f32>(), bitcast<vec4<f32>>(bits), abs(x) >= vec4<f32>(LEAST_NORMAL));
}

/// The exponent of the power of two that brings these bits' number near 2^14.
fn exponent_for(bits: u32) -> i32 {
    return min(14 - (i32(bits >> 23u) - 127), 127);
}

/// NaN where an operand is not finite: then no entry of the product means anything.
fn power_of_two(exponent: i32, bits: u32) -> f32 {
    return bitcast<f32>(select(u32(exponent + 127) << 23u, 0x7fc00000u, bits >= 0x7f800000u));
}
{{ end }}
