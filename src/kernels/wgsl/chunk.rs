//! Values of `shaders/chunk.wgsl`, and how entries lie in memory.

use burn::tensor::DType;

use super::launch::GpuTensor;
use crate::precision::Precision;

/// What an entry of a tensor is in memory. Kernels compute in f32: they widen what they load, and round once where they store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Element {
    #[default]
    F32,
    F16,
}

impl Element {
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// Of the tokens that the current precision keeps, and of its products' operands.
    pub fn current() -> Self {
        match Precision::current() {
            Precision::F16 => Self::F16,
            Precision::F32 | Precision::Bf16 => Self::F32, // `check_precision` refuses bf16
        }
    }

    /// Panics on anything but f32 and f16, which no caller passes.
    pub fn of(tensor: &GpuTensor) -> Self {
        Self::of_dtype(tensor.dtype)
    }

    pub fn of_dtype(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            other => panic!("the kernels take f32 and f16 tensors, not {other:?}"),
        }
    }

    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Its name in WGSL.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

/// Entries that a lane handles at once: a vector of 4 where rows are a multiple of that, else one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk(usize);

impl Chunk {
    pub(super) const ALL: [Self; 2] = [Self(4), Self(1)];

    pub(super) fn for_length(length: usize) -> Self {
        Self(if length.is_multiple_of(4) { 4 } else { 1 })
    }

    /// Chunks in `length` entries.
    pub(super) fn count(self, length: usize) -> usize {
        length / self.0
    }

    /// The type of so many entries in memory.
    pub(super) fn of(self, element: Element) -> String {
        let name = element.name();
        match self.0 {
            1 => name.to_owned(),
            entries => format!("vec{entries}<{name}>"),
        }
    }

    /// What chunk.wgsl takes: the type of a chunk that is computed with, and the bodies of the functions that reduce a chunk `v` to
    /// a number.
    pub(super) fn values(self) -> Vec<(&'static str, String)> {
        let [largest, total] = match self.0 {
            4 => [
                "max(max(v.x, v.y), max(v.z, v.w))",
                "(v.x + v.y) + (v.z + v.w)",
            ],
            _ => ["v", "v"],
        };
        vec![
            ("chunk", self.of(Element::F32)),
            ("largest", largest.to_owned()),
            ("total", total.to_owned()),
        ]
    }

    /// What levels.wgsl takes: the type of a chunk's bits, and how its levels are read from words of four.
    pub(super) fn level_values(self) -> [(&'static str, String); 2] {
        let [bits, levels] = match self.0 {
            4 => [
                "vec4<u32>",
                "vec4<f32>((vec4<u32>(words[at]) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u))",
            ],
            _ => ["u32", "f32((words[at / 4u] >> (8u * (at % 4u))) & 255u)"],
        };
        [("bits", bits.to_owned()), ("levels", levels.to_owned())]
    }

    /// What target_potentials/pairs.wgsl takes: the bodies of the functions that part pairs, and put them together.
    pub(super) fn pair_values(self) -> [(&'static str, String); 4] {
        let bodies = match self.0 {
            4 => [
                "vec4<f32>(low.x, low.z, high.x, high.z)",
                "vec4<f32>(low.y, low.w, high.y, high.w)",
                "vec4<f32>(first.x, second.x, first.y, second.y)",
                "vec4<f32>(first.z, second.z, first.w, second.w)",
            ],
            _ => ["low", "high", "first", "second"],
        };
        let [first, second, low, high] = bodies.map(str::to_owned);
        [
            ("first", first),
            ("second", second),
            ("low", low),
            ("high", high),
        ]
    }
}
