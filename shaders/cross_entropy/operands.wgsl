// What both passes of the cross-entropy take.
//
// Bindings: student [M, C], teacher [T R, C], prototype_shift [C], prototype_log [C], target_shift [T R],
// target_log [T R], row_weights [M].
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
@group(0) @binding(2) var<storage, read_write> prototype_shift: array<Chunk>;
@group(0) @binding(3) var<storage, read_write> prototype_log: array<Chunk>;
@group(0) @binding(4) var<storage, read_write> target_shift: array<f32>;
@group(0) @binding(5) var<storage, read_write> target_log: array<f32>;
@group(0) @binding(6) var<storage, read_write> row_weights: array<f32>;
@group(0) @binding(10) var<storage, read> info: Info;
