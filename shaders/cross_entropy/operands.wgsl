// What both passes of the cross-entropy take, and the targets of a student row that they make of it:
//
//   q_rj = exp((t_rj - prototype_shift_j - row_shift_r) / target_temperature - prototype_log_j - row_lse_r)
//
// Bindings: student [M, C], teacher [T R, C], of_prototypes [K, 2], of_targets [T R, 2], row_weights [M]; of_prototypes
// holds (prototype_shift, prototype_log), of_targets (row_shift, row_lse).
// R = rows_per_view, C = K / (lanes of Chunk). Row i of the student belongs to row i mod R of each teacher view; with
// skip_own, not to that of its own view i / R.

struct Info {
    rows: u32,
    chunks: u32,
    rows_per_view: u32,
    skip_own: u32,
    inverse_student_temperature: f32,
    inverse_target_temperature: f32,
    spans: u32,
}

@group(0) @binding(0) var<storage, read_write> student: array<Chunk>;
@group(0) @binding(1) var<storage, read_write> teacher: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> of_prototypes: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> of_targets: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> row_weights: array<f32>;
@group(0) @binding(7) var<storage, read> info: Info;

/// The row of a teacher view that a student row meets there.
struct Met {
    /// Its first chunk.
    start: u32,
    potentials: vec2<f32>,
    /// 0 where it is no target, else 1.
    counts: f32,
}

fn met_in(view: u32, row: u32) -> Met {
    let rows_per_view = info.rows_per_view;
    let target_row = view * rows_per_view + row % rows_per_view;
    let is_own = info.skip_own == 1u && row / rows_per_view == view;
    return Met(
        target_row * info.chunks,
        of_targets[target_row],
        select(1.0, 0.0, is_own),
    );
}

/// A chunk of prototypes, with what info says of targets.
struct Prototypes {
    chunk: u32,
    shift: Chunk,
    log: Chunk,
    inverse_temperature: f32,
}

fn prototypes_of(chunk: u32, inverse_temperature: f32) -> Prototypes {
    let low = of_prototypes[2u * chunk];
    let high = of_prototypes[2u * chunk + 1u];
    return Prototypes(chunk, first_of(low, high), second_of(low, high), inverse_temperature);
}

fn targets_of(met: Met, prototypes: Prototypes) -> Chunk {
    let shifted = teacher[met.start + prototypes.chunk] - prototypes.shift - met.potentials.x;
    return met.counts * exp(shifted * prototypes.inverse_temperature - prototypes.log - met.potentials.y);
}
