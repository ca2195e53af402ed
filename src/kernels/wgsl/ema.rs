//! Launches of `shaders/ema.wgsl`: many tensors a dispatch.

use burn::tensor::DType;
use burn_wgpu::into_contiguous;

use super::super::ema as tensor_ema;
use super::launch::{GpuTensor, Kernel, launch, shader, unshared};
use super::{Chunk, Gpu};

/// Lanes of a workgroup. Lanes share nothing, so that a software device likes many of them as well as a GPU (22 M
/// entries copied on lavapipe: 19 ms at 256, 40 ms at 8).
const WORKGROUP: u32 = 256;

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

pub(super) fn kernel(workgroup: u32, chunk: Chunk, pairs: usize) -> Kernel {
    let values = vec![
        chunk.value(),
        ("pair", pairs.to_string()),
        ("pairs", pairs.to_string()),
    ];
    Kernel::new(shader!("ema"), workgroup, values)
}

/// Pairs that fit a dispatch: two buffers each, and one is the kernel's info.
fn pairs_per_dispatch(max_bindings: u32) -> usize {
    (max_bindings.saturating_sub(1) as usize / 2).max(1)
}

/// See [`super::super::IbotBackend::ema`].
pub(super) fn ema(teacher: Vec<GpuTensor>, student: Vec<GpuTensor>, decay: f64) -> Vec<GpuTensor> {
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
        let alike: Vec<&Pair> = pairs.iter().filter(|pair| pair.chunk == chunk).collect();
        if let Some(pair) = alike.first() {
            let most = pairs_per_dispatch(pair.teacher.client.properties().hardware.max_bindings);
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
    let mut groups = 0;
    let first_groups = pairs.iter().map(|pair| {
        let first = groups;
        groups += pair.chunks.div_ceil(WORKGROUP as usize);
        first as u32
    });
    let mut info = vec![(decay as f32).to_bits(), ((1.0 - decay) as f32).to_bits()];
    info.extend(first_groups);
    info.extend(pairs.iter().map(|pair| pair.chunks as u32));
    let tensors: Vec<&GpuTensor> = pairs
        .iter()
        .flat_map(|pair| [&pair.teacher, &pair.student])
        .collect();
    let lanes = WORKGROUP.min(client.properties().hardware.max_units_per_cube);
    launch(
        client,
        kernel(lanes, chunk, pairs.len()),
        groups,
        &tensors,
        &info,
    );
}
