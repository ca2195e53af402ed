//! What the ranks of a data-parallel run do together: each has a part of every batch, and all compute what one would.

mod agreement;
#[cfg(feature = "mpi")]
mod mpi;
mod pairwise;
mod reduce;
mod share;
mod threads;
mod wire;

pub use agreement::{agree, any, by_rank_0, same};
#[cfg(feature = "mpi")]
pub use mpi::{Host, Mpi};
pub use pairwise::Pairwise;
pub use reduce::{broadcast, max, sum, sum_by};
pub use share::{counts, share};
pub use threads::Threads;
pub use wire::Wire;

use std::fmt::Debug;

use crate::error::Result;

/// Exchange between the ranks of a run: processes, or threads of one in tests. All ranks make the same calls in the same order;
/// a call returns when this rank has what the others sent it. Names are MPI's.
///
/// # Errors
/// Each call: [`Error::Training`](crate::Error::Training) that names the rank that is gone or silent, or the call that differs.
pub trait Collective: Debug + Send + Sync {
    /// This rank, below `size`.
    fn rank(&self) -> usize;

    /// Number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Ranks of each machine, where all have as many and those of one are neighbors; otherwise 1. The same on all ranks.
    fn ranks_per_host(&self) -> usize {
        1
    }

    /// What this rank sends to each rank, in the order of the ranks, becomes what it got from each.
    fn all_to_all(&self, sent: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>;

    /// The bytes of all ranks, in the order of the ranks. They may differ in length.
    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>>;
}

/// The only rank.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
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
