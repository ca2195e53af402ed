//! How a kernel whose lanes share nothing walks through memory.

use super::lanes::is_software;
use super::launch::Client;

/// How a kernel whose lanes share nothing walks through memory: lanes of a workgroup, and chunks that a lane handles one
/// after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    pub lanes: u32,
    pub rounds: usize,
}

impl Walk {
    /// A CPU wants few lanes that walk far through memory, a GPU many that stand side by side (22 M entries averaged on
    /// lavapipe: 22 ms with 8 lanes of 64 rounds, 29 ms with 256 of 4, 90 ms with 256 of 64).
    const SOFTWARE: Self = Self {
        lanes: 8,
        rounds: 256,
    };
    const GPU: Self = Self {
        lanes: 256,
        rounds: 4,
    };

    pub fn of(client: &Client) -> Self {
        if is_software(client) {
            return Self::SOFTWARE;
        }
        let lanes = client.properties().hardware.max_units_per_cube;
        Self {
            lanes: Self::GPU.lanes.min(1 << lanes.max(1).ilog2()), // halved in reductions
            ..Self::GPU
        }
    }

    pub const ALL: [Self; 2] = [Self::SOFTWARE, Self::GPU];

    pub fn value(self) -> (&'static str, String) {
        ("rounds", self.rounds.to_string())
    }

    /// Workgroups for this many chunks.
    pub fn groups(self, chunks: usize) -> usize {
        chunks.div_ceil(self.lanes as usize * self.rounds)
    }
}
