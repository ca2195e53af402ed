//! Kernels of `shaders/attention/tiles/`, in which a workgroup multiplies tiles that lie in its memory: for GPUs.

use super::attention_pass::Pass;
use super::chunk::{Chunk, Element};
use super::launch::{Kernel, Shader, shader};

/// Lanes of a workgroup, whatever the device: the tiles are cut for them.
pub(super) const LANES: usize = 128;
/// Entries of a chunk: these kernels take vectors only.
const CHUNK: usize = 4;
/// Chunks of the width that are staged at a time; each lane loads one of each 32 rows or columns.
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

    fn pass(self, shader: Shader, chunks: usize, element: Element) -> Pass {
        let count = |there: bool| usize::from(there);
        let is_whole = chunks.is_multiple_of(SLICE);
        let is_even = chunks.is_multiple_of(self.across());
        let chunk = Chunk::for_length(CHUNK);
        let mut values = chunk.values();
        values.push(("rows", chunk.of(element)));
        let numbers = [
            ("head_chunk", chunks),
            ("row", LANE_ROWS),
            ("column", self.lane_columns()),
            ("output", self.outputs(chunks)),
            ("row_load", self.rows() * SLICE / LANES),
            ("load", loads(chunks)),
            ("part", PART),
            ("whole", count(is_whole)),
            ("ragged", count(!is_whole)),
            ("even", count(is_even)),
            ("uneven", count(!is_even)),
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
    /// For GPUs with registers to spare, heads of 20 to 96. By keys a lane sums twice as much, and in large tiles of heads
    /// wider than 32 RDNA3's compiler spills; by queries, wider than 64.
    pub fn large(head_width: usize) -> Option<Self> {
        let shapes = match head_width {
            20..=32 => [Shape::Large; 3],
            36..=64 => [Shape::Large, Shape::Large, Shape::Small],
            68..=96 => [Shape::Large, Shape::Small, Shape::Small],
            _ => return None,
        };
        Self::of(shapes, head_width)
    }

    /// For GPUs whose lanes have few registers, and for heads wider than 96, to 128. The 16 lanes of a row share out its
    /// chunks: half of them have none to sum in heads of 32.
    pub fn small(head_width: usize) -> Option<Self> {
        match head_width {
            20..=128 => Self::of([Shape::Small; 3], head_width),
            _ => None,
        }
    }

    fn of(shapes: [Shape; 3], head_width: usize) -> Option<Self> {
        let chunks = head_width / CHUNK;
        let is_whole = head_width.is_multiple_of(CHUNK);
        is_whole.then_some(Self { shapes, chunks })
    }

    /// Workgroup memory that the largest of the kernels takes.
    pub fn workgroup_bytes(self) -> usize {
        let vectors = |shape: Shape| shape.stage(self.chunks) + shape.shares();
        let largest = self.shapes.map(vectors).into_iter().fold(0, usize::max);
        largest * CHUNK * size_of::<f32>()
    }

    /// Forward, by queries, by keys.
    pub fn passes(self, element: Element) -> [Pass; 3] {
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
        .map(|(shape, shader)| shape.pass(shader, self.chunks, element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_what_webgpu_promises() {
        let all = (0..200).flat_map(|width| [Tiles::large(width), Tiles::small(width)]);
        let all: Vec<Tiles> = all.flatten().collect();
        assert_eq!(all.len(), 20 + 28);
        for tiles in all {
            let bytes = tiles.workgroup_bytes();
            assert!(bytes <= 16_384, "{tiles:?}: {bytes}");
        }
    }
}
