//! Launches of `shaders/ema.wgsl`: many tensors a dispatch.

use burn::tensor::DType;
use burn_wgpu::into_contiguous;

use super::super::ema as tensor_ema;
use super::launch::{Client, GpuTensor, Kernel, is_software, launch, shader, unshared};
use super::{Chunk, Gpu, Walk};

/// A teacher's tensor, its student's, and how many chunks both have.
struct Pair {
    teacher: GpuTensor,
    student: GpuTensor,
    chunk: Chunk,
    chunks: usize,
}

impl Pair {
    fn new(teacher: GpuTensor, student: GpuTensor) -> Self {
        let (shape, of_student) = (teacher.meta.shape(), student.meta.shape());
        assert_eq!(shape, of_student, "teacher and student are of one shape");
        let entries = shape.num_elements();
        let chunk = Chunk::for_length(entries);
        Self {
            teacher: unshared(into_contiguous(teacher)),
            student: into_contiguous(student),
            chunk,
            chunks: chunk.count(entries),
        }
    }
}

pub(super) fn kernel(walk: Walk, chunk: Chunk, pairs: usize) -> Kernel {
    let mut values = chunk.values();
    values.extend([
        walk.value(),
        ("pair", pairs.to_string()),
        ("pairs", pairs.to_string()),
    ]);
    Kernel::new(shader!("chunk", "ema"), walk.lanes, values)
}

/// Pairs of a dispatch on a software device, which runs all cases of a switch one after the other, whichever is taken
/// (51 M entries in 164 tensors on lavapipe: 87 ms with one pair, 54 ms with 4, 57 ms with 15).
const SOFTWARE_PAIRS: usize = 4;

/// Pairs of a dispatch on any device. Desktop drivers allow a million bindings; a shader of as many cases would take long
/// to compile.
const MOST_PAIRS: usize = 16;

fn pairs_per_dispatch(client: &Client) -> usize {
    match is_software(client) {
        true => SOFTWARE_PAIRS.min(pairs_that_fit(client)),
        false => pairs_that_fit(client),
    }
}

/// Two buffers a pair, and one is the kernel's info; no more than [`MOST_PAIRS`].
fn pairs_that_fit(client: &Client) -> usize {
    let bindings = client.properties().hardware.max_bindings as usize;
    (bindings.saturating_sub(1) / 2).clamp(1, MOST_PAIRS)
}

/// See [`super::super::IbotBackend::ema`].
pub(super) fn ema(teacher: Vec<GpuTensor>, student: Vec<GpuTensor>, decay: f64) -> Vec<GpuTensor> {
    let most_pairs = teacher.first().map_or(1, |t| pairs_per_dispatch(&t.client));
    packed_ema(teacher, student, decay, most_pairs)
}

/// [`super::super::IbotBackend::ema`] with up to this many pairs a dispatch, or as many as fit.
pub fn packed_ema(
    teacher: Vec<GpuTensor>,
    student: Vec<GpuTensor>,
    decay: f64,
    most_pairs: usize,
) -> Vec<GpuTensor> {
    assert_eq!(teacher.len(), student.len(), "one student a teacher");
    if teacher
        .iter()
        .chain(&student)
        .any(|t| t.dtype != DType::F32)
    {
        return tensor_ema::reference::<Gpu>(teacher, student, decay);
    }
    let pairs = teacher.into_iter().zip(student);
    let pairs: Vec<Pair> = pairs
        .map(|(teacher, student)| Pair::new(teacher, student))
        .collect();
    for chunk in Chunk::ALL {
        let mut alike: Vec<&Pair> = pairs.iter().filter(|pair| pair.chunk == chunk).collect();
        // tensors of one size are done at one time
        alike.sort_by_key(|pair| std::cmp::Reverse(pair.chunks));
        if let Some(pair) = alike.first() {
            let most = most_pairs.clamp(1, pairs_that_fit(&pair.teacher.client));
            alike
                .chunks(most)
                .for_each(|pairs| dispatch(pairs, chunk, decay));
        }
    }
    pairs.into_iter().map(|pair| pair.teacher).collect()
}

/// One kernel over all these pairs.
fn dispatch(pairs: &[&Pair], chunk: Chunk, decay: f64) {
    let client = &pairs[0].teacher.client;
    let walk = Walk::of(client);
    let mut groups = 0;
    let first_groups = pairs.iter().map(|pair| {
        let first = groups;
        groups += walk.groups(pair.chunks);
        first as u32
    });
    let mut info = vec![(decay as f32).to_bits(), ((1.0 - decay) as f32).to_bits()];
    info.extend(first_groups);
    info.extend(pairs.iter().map(|pair| pair.chunks as u32));
    let tensors: Vec<&GpuTensor> = pairs
        .iter()
        .flat_map(|pair| [&pair.teacher, &pair.student])
        .collect();
    launch(
        client,
        kernel(walk, chunk, pairs.len()),
        groups,
        &tensors,
        &info,
    );
}
