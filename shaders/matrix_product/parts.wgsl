// Adds up the parts of a product whose sums several workgroups made a part each, one after the other, so that two runs give
// the same bits; and of the sums beside it.
//
// Bindings: product_parts [P, C], product [C], with totals also total_parts [P, D] and totals [D], info. C and D in chunks.
// Launch: a lane takes a chunk of product, or after those one of totals.

alias Stored = {{ stored }};

struct Info {
    parts: u32,
    /// C.
    chunks: u32,
    /// D.
    total_chunks: u32,
}

@group(0) @binding(0) var<storage, read_write> product_parts: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> product: array<Stored>;
{{ each totals }}
@group(0) @binding(2) var<storage, read_write> total_parts: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> totals: array<Chunk>;
{{ end }}
@group(0) @binding(2 + 2 * {{ totals }}) var<storage, read> info: Info;

@compute @workgroup_size(LANES)
fn main(place: Place) {
    let at = group_of(place) * LANES + place.lane;
    if at < info.chunks {
        var sum = product_parts[at];
        for (var part = 1u; part < info.parts; part += 1u) {
            sum += product_parts[part * info.chunks + at];
        }
        product[at] = Stored(sum);
    }
    {{ each totals }}
    if at >= info.chunks && at - info.chunks < info.total_chunks {
        let total_at = at - info.chunks;
        var total = total_parts[total_at];
        for (var part = 1u; part < info.parts; part += 1u) {
            total += total_parts[part * info.total_chunks + total_at];
        }
        totals[total_at] = total;
    }
    {{ end }}
}
