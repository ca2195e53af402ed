//! How many rows each part of a batch has, on all ranks: means are over the whole batch.

use crate::collective::{Collective, gather_lists};
use crate::error::Result;

/// The size of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartCounts {
    pub images: usize,
    /// Masked patches of its global views.
    pub masked: usize,
    /// The other patches of its global views.
    pub visible: usize,
}

/// The sizes of all parts of all ranks, in the order of the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchCounts {
    parts: Vec<PartCounts>,
    /// How many of them are those of earlier ranks.
    before: usize,
    /// The parts of each rank.
    of_rank: Vec<usize>,
}

impl BatchCounts {
    /// Those of all ranks, each of which calls this.
    ///
    /// # Errors
    /// As [`gather_lists`].
    pub fn gather(own: &[PartCounts], ranks: &dyn Collective) -> Result<Self> {
        let own: Vec<_> = own
            .iter()
            .map(|part| [part.images, part.masked, part.visible])
            .collect();
        let lists = gather_lists(ranks, &own)?;
        let of_rank: Vec<usize> = lists.iter().map(Vec::len).collect();
        let part = |[images, masked, visible]: [usize; 3]| PartCounts {
            images,
            masked,
            visible,
        };
        let parts = lists.into_iter().flatten().map(part).collect();
        Ok(Self {
            parts,
            before: of_rank[..ranks.rank()].iter().sum(),
            of_rank,
        })
    }

    /// All of a kind of rows in the batch.
    pub fn total(&self, count: impl Fn(&PartCounts) -> usize) -> usize {
        self.parts.iter().map(count).sum()
    }

    /// The rows of the part with most of them.
    pub fn most_in_a_part(&self, count: impl Fn(&PartCounts) -> usize) -> usize {
        self.parts.iter().map(count).max().unwrap_or(0)
    }

    /// The rows of the rank with most of them.
    pub fn most_on_a_rank(&self, count: impl Fn(&PartCounts) -> usize) -> usize {
        let mut parts = self.parts.iter();
        let of_rank = self
            .of_rank
            .iter()
            .map(|own| parts.by_ref().take(*own).map(&count).sum());
        of_rank.max().unwrap_or(0)
    }

    /// The images of each part of all ranks.
    pub fn images(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|part| part.images)
    }

    /// The number of a part of this rank among those of all ranks.
    pub fn place(&self, own: usize) -> usize {
        self.before + own
    }

    /// Whether there is one part on one rank.
    pub fn is_undivided(&self) -> bool {
        self.parts.len() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::LocalRanks;

    #[test]
    fn sizes_of_all_ranks_are_known_to_each() {
        let part = |images| PartCounts {
            images,
            masked: 2 * images,
            visible: 0,
        };
        let ranks = LocalRanks::group(2).into_iter().map(|ranks| {
            std::thread::spawn(move || {
                use crate::collective::Collective as _;
                let own = [vec![part(1), part(2)], vec![part(4)]][ranks.rank()].clone();
                BatchCounts::gather(&own, &ranks).unwrap()
            })
        });
        let ranks: Vec<_> = ranks.collect();
        let found: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        for counts in &found {
            assert_eq!(counts.total(|part| part.masked), 14);
            assert_eq!(counts.most_in_a_part(|part| part.images), 4);
            assert_eq!(counts.most_on_a_rank(|part| part.images), 4);
            assert_eq!(counts.most_on_a_rank(|_| 1), 2);
        }
        assert_eq!([found[0].place(1), found[1].place(0)], [1, 2]);
    }
}
