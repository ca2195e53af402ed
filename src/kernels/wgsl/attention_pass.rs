//! One of the three passes of attention: its kernel and how far its workgroups reach.

use super::launch::Kernel;
use crate::kernels::ops::attention::Sizes;

/// A kernel, and how a head's tokens are dealt out to its workgroups.
pub(super) struct Pass {
    pub kernel: Kernel,
    /// Tokens of a worker, who works on one head of one image.
    pub tokens: usize,
    /// Workers of a workgroup: its lanes, or all of them together.
    pub workers: usize,
}

impl Pass {
    pub fn groups(&self, sizes: &Sizes) -> usize {
        let blocks = sizes.batch * sizes.heads * sizes.tokens.div_ceil(self.tokens);
        blocks.div_ceil(self.workers)
    }
}
