//! Kernels of `shaders/attention/tiles/`, in which a workgroup multiplies tiles that lie in its memory: for GPUs.

use super::attention_pass::Pass;
use super::chunk::Chunk;
use super::launch::{Kernel, Shader, shader};

/// Lanes of a workgroup, whatever the device: the tiles are cut for them.
pub(super) const LANES: usize = 128;
/// Entries of a chunk: these kernels take vectors only.
const CHUNK: usize = 4;
/// Chunks of the width that are staged at a time, and that it is a multiple of; each lane loads one of each 32 rows or
/// columns.
const SLICE: usize = 4;
/// Columns of a tile.
const COLUMNS: usize = LANES / SLICE;
/// Columns that are staged at a time to be summed: half a tile, as much as fits where the slices lay.
const PART: usize = 16;
/// Rows of a lane: the components of a vector.
const LANE_ROWS: usize = 4;

/// Rows that a workgroup owns, and columns of a tile that a lane does: what its registers and memory hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// 64 rows, 4 columns a lane: reads least for what it computes. 72 to 120 registers by Mesa's compiler for AMD, up to 160
    /// by NVIDIA's; Intel's spills.
    Large,
    /// 32 rows, 2 columns a lane: for heads of 64 up to 84 registers by the one, 110 by the other, and Intel's does not spill.
    Small,
}

/// Loads of each lane that fill the columns to sum.
fn loads(chunks: usize) -> usize {
    (PART * chunks).div_ceil(LANES)
}

impl Shape {
    fn rows(self) -> usize {
        match self {
            Self::Large => 64,
            Self::Small => 32,
        }
    }

    fn lane_columns(self) -> usize {
        match self {
            Self::Large => 4,
            Self::Small => 2,
        }
    }

    /// Lanes that share a row.
    fn across(self) -> usize {
        COLUMNS / self.lane_columns()
    }

    /// Chunks of a row that a lane sums; where they are not shared out evenly, the last lanes' last one is not there.
    fn outputs(self, chunks: usize) -> usize {
        chunks.div_ceil(self.across())
    }

    /// Vectors of workgroup memory for slices or columns: the rows of a slice are padded to an odd length, and after the
    /// columns that are summed stands what is loaded with them, or read for chunks that are not there.
    fn stage(self, chunks: usize) -> usize {
        let slices = (self.rows() + COLUMNS) * (SLICE + 1);
        let read = (PART - 1) * chunks + self.outputs(chunks) * self.across();
        slices.max(loads(chunks) * LANES).max(read)
    }

    /// Vectors of workgroup memory for the weights of the columns, padded likewise.
    fn shares(self) -> usize {
        COLUMNS * (self.rows() / LANE_ROWS + 1)
    }

    fn pass(self, shader: Shader, chunks: usize) -> Pass {
        let is_even = chunks.is_multiple_of(self.across());
        let mut values = Chunk::for_length(CHUNK).values();
        let numbers = [
            ("head_chunk", chunks),
            ("row", LANE_ROWS),
            ("column", self.lane_columns()),
            ("output", self.outputs(chunks)),
            ("row_load", self.rows() * SLICE / LANES),
            ("load", loads(chunks)),
            ("part", PART),
            ("even", usize::from(is_even)),
            ("uneven", usize::from(!is_even)),
            ("stage", self.stage(chunks)),
        ];
        values.extend(numbers.map(|(name, number)| (name, number.to_string())));
        Pass {
            kernel: Kernel::new(shader, LANES as u32, values),
            tokens: self.rows(),
            workers: 1,
        }
    }
}

/// The shapes of the kernels forward, by queries and by keys, for heads of one width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    shapes: [Shape; 3],
    /// Chunks of the width.
    chunks: usize,
}

impl Tiles {
    /// For GPUs with registers to spare, heads of 32 to 96. By keys a lane sums twice as much, and in large tiles of heads of
    /// 48 or more RDNA3's compiler spills; by queries, of 80 or more.
    pub fn large(head_width: usize) -> Option<Self> {
        let shapes = match head_width {
            32 => [Shape::Large; 3],
            48 | 64 => [Shape::Large, Shape::Large, Shape::Small],
            80 | 96 => [Shape::Large, Shape::Small, Shape::Small],
            _ => return None,
        };
        let chunks = head_width / CHUNK;
        Some(Self { shapes, chunks })
    }

    /// For GPUs whose lanes have few registers, and for heads of 112 and 128. The 16 lanes of a row share out its chunks:
    /// half of them have none to sum in heads of 32.
    pub fn small(head_width: usize) -> Option<Self> {
        let is_taken = matches!(head_width, 32 | 48 | 64 | 80 | 96 | 112 | 128);
        is_taken.then_some(Self {
            shapes: [Shape::Small; 3],
            chunks: head_width / CHUNK,
        })
    }

    /// Workgroup memory that the largest of the kernels takes.
    pub fn workgroup_bytes(self) -> usize {
        let vectors = |shape: Shape| shape.stage(self.chunks) + shape.shares();
        let largest = self.shapes.map(vectors).into_iter().fold(0, usize::max);
        largest * CHUNK * size_of::<f32>()
    }

    /// Forward, by queries, by keys.
    pub fn passes(self) -> [Pass; 3] {
        let [forward, queries, keys] = self.shapes;
        [
            (
                forward,
                shader!("chunk", "attention/tiles/block", "attention/tiles/forward"),
            ),
            (
                queries,
                shader!("chunk", "attention/tiles/block", "attention/tiles/queries"),
            ),
            (
                keys,
                shader!("chunk", "attention/tiles/block", "attention/tiles/keys"),
            ),
        ]
        .map(|(shape, shader)| shape.pass(shader, self.chunks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_what_webgpu_promises() {
        let large = [32, 48, 64, 80, 96].map(Tiles::large);
        let small = [32, 48, 64, 80, 96, 112, 128].map(Tiles::small);
        for tiles in large.into_iter().chain(small) {
            let bytes = tiles.unwrap().workgroup_bytes();
            assert!(bytes <= 16_384, "{tiles:?}: {bytes}");
        }
    }
}
