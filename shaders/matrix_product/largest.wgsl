// The largest absolute values of a product's operands, for the scales of cooperative.wgsl.
//
// Bindings: left, right, maxima [2 GROUPS]: bits of the largest one that each workgroup found; info.
// Launch: GROUPS workgroups for left, then as many for right.

alias Left = {{ left_stored }};
alias Right = {{ right_stored }};

const GROUPS = {{ groups }}u;

struct Info {
    /// Elements.
    left: u32,
    right: u32,
}

@group(0) @binding(0) var<storage, read_write> left: array<Left>;
@group(0) @binding(1) var<storage, read_write> right: array<Right>;
@group(0) @binding(2) var<storage, read_write> maxima: array<u32>;
@group(0) @binding(3) var<storage, read> info: Info;

var<workgroup> largest_bits: array<u32, LANES>;

/// Of numbers without a sign, the bits have the order of the numbers; those of NaN and infinity are the largest.
fn bits_of(x: Chunk) -> u32 {
    let all = bitcast<{{ bits }}>(x) & {{ bits }}(0x7fffffffu);
    {{ each vectors }}
    return max(max(all.x, all.y), max(all.z, all.w));
    {{ end }}
    {{ each singles }}
    return all;
    {{ end }}
}

@compute @workgroup_size(LANES)
fn main(place: GroupPlace, @builtin(local_invocation_index) lane: u32) {
    let group = number_of(place);
    if group >= 2u * GROUPS {
        return;
    }
    let first = group % GROUPS * LANES + lane;
    var found = 0u;
    if group < GROUPS {
        for (var at = first; at < info.left; at += GROUPS * LANES) {
            found = max(found, bits_of(Chunk(left[at])));
        }
    } else {
        for (var at = first; at < info.right; at += GROUPS * LANES) {
            found = max(found, bits_of(Chunk(right[at])));
        }
    }
    largest_bits[lane] = found;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            largest_bits[lane] = max(largest_bits[lane], largest_bits[lane + half]);
        }
        workgroupBarrier();
    }
    if lane == 0u {
        maxima[group] = largest_bits[0];
    }
}
