// What stands for the matrices of cooperative_matrices.wgsl where there are none, for tests: all but what loads, multiplies and
// stores a matrix then runs on any device. An operand is the place where it lies, and a lane holds every SUBGROUP-th four of a
// matrix of sums.
//
// Not handled: sums of more than some thousand terms, as lavapipe leaves the loops of a kernel after 65 535 rounds of all of
// them together.

/// Fours of a lane.
const OWN = AREA / (4u * SUBGROUP);

alias LeftMatrix = u32;
alias RightMatrix = u32;
alias Sums = array<vec4<f32>, OWN>;

fn left_matrix(place: u32) -> LeftMatrix {
    return place;
}

fn right_matrix(place: u32) -> RightMatrix {
    return place;
}

fn no_sums() -> Sums {
    return Sums();
}

fn left_entry(place: u32) -> f32 {
    {{ each together_4 }}
    return f32(left_tile[place / 4u][place % 4u]);
    {{ end }}
    {{ each together_1 }}
    return left_tile[place];
    {{ end }}
}

fn right_entry(place: u32) -> f32 {
    {{ each together_4 }}
    return f32(right_tile[place / 4u][place % 4u]);
    {{ end }}
    {{ each together_1 }}
    return right_tile[place];
    {{ end }}
}

fn right_of(right: RightMatrix, term: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(
        right_entry(right + right_place(term, column)),
        right_entry(right + right_place(term, column + 1u)),
        right_entry(right + right_place(term, column + 2u)),
        right_entry(right + right_place(term, column + 3u)),
    );
}

fn multiply_add(left: LeftMatrix, right: RightMatrix, sums: Sums, lane: u32) -> Sums {
    var next = sums;
    for (var own = 0u; own < OWN; own += 1u) {
        let entry = 4u * (own * SUBGROUP + lane % SUBGROUP);
        let row = entry / SIDE;
        let column = entry % SIDE;
        for (var term = 0u; term < SIDE; term += 1u) {
            let of_left = vec4<f32>(left_entry(left + left_place(row, term)));
            next[own] = fma(of_left, right_of(right, term, column), next[own]);
        }
    }
    return next;
}

{{ each split }}
fn corrected(sums: Sums, products: Sums, corrections: Sums) -> Sums {
    var next = sums;
    for (var own = 0u; own < OWN; own += 1u) {
        next[own] += products[own] + corrections[own] * (1.0 / LOW_SCALE);
    }
    return next;
}
{{ end }}

fn put_sums(sums: Sums, place: u32, lane: u32) {
    for (var own = 0u; own < OWN; own += 1u) {
        put_result(place + 4u * (own * SUBGROUP + lane % SUBGROUP), sums[own]);
    }
}
