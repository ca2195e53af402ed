//! Lanes that go over a row together, for the kernels that need sums of it: layer norm, L2 norm.

use super::chunk::Chunk;
use super::info::info;
use super::lanes::{MAX_ROUNDS, SOFTWARE_SUBGROUP, is_software, reducing_workgroup, workgroup};
use super::launch::{Client, GpuTensor, Kernel, Shader, launch};

/// Chunks of columns that a workgroup of column_totals.wgsl sums on a GPU: 128 bytes of a slab side by side, and few
/// enough that the lanes of a chunk have about a dozen slabs each (394 slabs are 25 216 rows of a step).
const COLUMNS: u32 = 8;

/// Chunks of a row that a lane handles, about, on a GPU: more lanes would wait at more barriers than they save rounds.
const CHUNKS_A_LANE: usize = 3;

/// Lanes of a workgroup, and how many of them share a row, or a chunk of columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Team {
    lanes: u32,
    team: u32,
}

impl Team {
    /// Rows of a software device have one lane each, in workgroups of its subgroup.
    pub const SOFTWARE: Self = Self {
        lanes: SOFTWARE_SUBGROUP,
        team: 1,
    };

    /// Rows of so many chunks have as many lanes as pays, and a workgroup of so many lanes as many rows as fit.
    fn of_rows(lanes: u32, chunks: usize) -> Self {
        let team = (chunks / CHUNKS_A_LANE).next_power_of_two() as u32;
        Self {
            lanes,
            team: team.min(lanes),
        }
    }

    /// The lanes of a GPU's workgroup that sum the slabs of columns.
    pub fn of_columns(lanes: u32) -> Self {
        let team = (lanes / COLUMNS).max(1);
        Self { lanes, team }
    }

    /// The teams of rows, from one lane to all of a workgroup.
    pub fn all_of_rows(lanes: u32) -> impl Iterator<Item = Self> {
        let teams = (0..=lanes.ilog2()).map(|level| 1 << level);
        teams.map(move |team| Self { lanes, team })
    }

    pub fn for_rows(client: &Client, chunks: usize) -> Self {
        // a lane goes over its row three times
        if is_software(client) && 3 * chunks <= MAX_ROUNDS {
            Self::SOFTWARE
        } else {
            Self::of_rows(reducing_workgroup(client, 3 * chunks), chunks)
        }
    }

    pub fn for_columns(client: &Client) -> Self {
        if is_software(client) {
            Self::SOFTWARE
        } else {
            Self::of_columns(workgroup(client))
        }
    }

    fn values(self) -> [(&'static str, String); 3] {
        let shared = usize::from(self.team > 1);
        [
            ("team", self.team.to_string()),
            ("shared", shared.to_string()),
            ("alone", (1 - shared).to_string()),
        ]
    }

    /// Workgroups for this many rows, or chunks of columns.
    pub fn groups(self, count: usize) -> usize {
        count.div_ceil((self.lanes / self.team) as usize)
    }

    /// The kernel of this shader with such a team, filled with `values` beside those of team and chunk.
    pub fn kernel(
        self,
        shader: Shader,
        chunk: Chunk,
        values: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Kernel {
        let own = chunk.values().into_iter().chain(self.values());
        Kernel::new(shader, self.lanes, own.chain(values).collect())
    }
}

/// A pass over the rows of a matrix that has some.
pub(super) struct RowPass {
    shape: [usize; 2],
    chunk: Chunk,
    team: Team,
}

impl RowPass {
    /// Over those of `x`, `[R, D]`.
    pub fn over(x: &GpuTensor) -> Self {
        let shape = [x.meta.shape()[0], x.meta.shape()[1]];
        let chunk = Chunk::for_length(shape[1]);
        Self {
            team: Team::for_rows(&x.client, chunk.count(shape[1])),
            chunk,
            shape,
        }
    }

    /// Launches a norm's kernel; `parts` are those of a gradient that is still to be added up.
    pub fn launch(
        &self,
        kernel: impl FnOnce(Team, Chunk) -> Kernel,
        tensors: &[&GpuTensor],
        eps: f64,
        parts: usize,
    ) {
        let [rows, width] = self.shape;
        launch(
            &tensors[0].client,
            kernel(self.team, self.chunk),
            self.team.groups(rows),
            tensors,
            &info! {
                rows: rows,
                chunks: self.chunk.count(width),
                width: width as f32,
                eps: eps as f32,
                parts: parts,
            },
        );
    }
}
