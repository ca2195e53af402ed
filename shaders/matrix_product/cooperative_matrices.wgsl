// Matrices that a subgroup holds and multiplies together, for cooperative.wgsl.

alias LeftMatrix = coop_mat{{ side }}x{{ side }}<{{ element }}, A>;
alias RightMatrix = coop_mat{{ side }}x{{ side }}<{{ element }}, B>;
alias Sums = coop_mat{{ side }}x{{ side }}<f32, C>;

fn left_matrix(place: u32) -> LeftMatrix {
    return {{ load_left }}<LeftMatrix>(&left_tile[place / TOGETHER], LEFT_PITCH / TOGETHER);
}

fn right_matrix(place: u32) -> RightMatrix {
    return {{ load_right }}<RightMatrix>(&right_tile[place / TOGETHER], RIGHT_PITCH / TOGETHER);
}

/// Zeros. What a matrix of Metal holds without a value is not certain, so that it is loaded: before the first product the result
/// tile has nothing but zeros.
fn no_sums() -> Sums {
    {{ each together_4 }}
    return Sums();
    {{ end }}
    {{ each together_1 }}
    return {{ load_sums }}<Sums>(&result_tile[0], SIDE);
    {{ end }}
}

/// `lane` is what an emulation needs.
fn multiply_add(left: LeftMatrix, right: RightMatrix, sums: Sums, lane: u32) -> Sums {
    return coopMultiplyAdd(left, right, sums);
}

{{ each split }}
fn corrected(sums: Sums, products: Sums, corrections: Sums) -> Sums {
    return sums + (products + corrections * (1.0 / LOW_SCALE));
}
{{ end }}

fn put_sums(sums: Sums, place: u32, lane: u32) {
    {{ store }}(sums, &result_tile[place / TOGETHER], SIDE / TOGETHER);
}
