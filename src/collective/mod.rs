//! What the ranks of a data-parallel run do together: each has a part of every batch, and all compute what one would.

mod agreement;
mod local_ranks;
#[cfg(feature = "mpi")]
mod mpi;
mod pairwise;
mod reduce;
mod share;
mod wire;

pub use agreement::{all_ok, any_rank, check_equal, from_rank_0};
pub use local_ranks::LocalRanks;
#[cfg(feature = "mpi")]
pub use mpi::{Host, Mpi};
pub use pairwise::Pairwise;
pub use reduce::{all_reduce_max, all_reduce_sum, all_reduce_sum_as, broadcast, gather};
pub use share::{gather_counts, gather_lists, share};
pub use wire::Wire;

use std::fmt::Debug;

use crate::error::Result;

/// Exchange between the ranks of a run: processes, or threads of one in tests. All ranks make the same calls in the same order;
/// a call returns when this rank has what the others sent it. Names are MPI's.
///
/// # Errors
/// Each call: [`Error::Ranks`](crate::Error::Ranks) that names the rank that is gone or silent, or the call that differs.
pub trait Collective: Debug + Send + Sync {
    /// This rank, below `size`.
    fn rank(&self) -> usize;

    /// Number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Ranks of each machine, where all have as many and those of one are neighbors; otherwise 1. The same on all ranks.
    fn ranks_per_host(&self) -> usize {
        1
    }

    /// Sends `sent[r]` to rank r, for every r, and returns what each rank sent to this one, in the order of the ranks.
    fn all_to_all(&self, sent: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>;

    /// The bytes of all ranks, in the order of the ranks. They may differ in length.
    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>>;
}

/// The only rank.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleProcess;

impl Collective for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_to_all(&self, sent: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        Ok(sent)
    }

    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes])
    }
}
