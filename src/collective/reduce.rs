//! Sums and largest values over the ranks, with the same bits on each.

use std::ops::Range;

use crate::collective::Collective;
use crate::collective::pairwise::Pairwise;
use crate::collective::share::share;
use crate::collective::wire::Wire;
use crate::error::Result;

/// All-reduce: replaces `values` on every rank by their sum over the ranks, added in the order of [`Pairwise`].
///
/// Each rank sums a share of the entries and sends it to all, so that 2 (R - 1) / R of the bytes leave it, as in a ring. Where
/// machines have several ranks each, as many as a power of two, their sums go over the network once. MPI's own `MPI_Allreduce`
/// may add in any order.
///
/// # Errors
/// As [`Collective`]; values of different lengths.
pub fn all_reduce_sum(collective: &dyn Collective, values: &mut [f32]) -> Result<()> {
    all_reduce_sum_as(collective, values, Wire::F32)
}

/// [`all_reduce_sum`] with numbers that travel as `wire` says; with [`Wire::F16`] the result differs from that of one rank.
///
/// # Errors
/// As [`all_reduce_sum`].
pub fn all_reduce_sum_as(
    collective: &dyn Collective,
    values: &mut [f32],
    wire: Wire,
) -> Result<()> {
    reduce(collective, values, wire, |a, b| a + b)
}

/// All-reduce: replaces `values` on every rank by the largest of all ranks; NaN where one is.
///
/// # Errors
/// As [`all_reduce_sum`].
pub fn all_reduce_max(collective: &dyn Collective, values: &mut [f32]) -> Result<()> {
    reduce(collective, values, Wire::F32, |a, b| {
        if a.is_nan() || a > b { a } else { b }
    })
}

/// The bytes of rank 0, on all ranks.
///
/// # Errors
/// As [`Collective`].
pub fn broadcast(collective: &dyn Collective, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let own = if collective.rank() == 0 {
        bytes
    } else {
        Vec::new()
    };
    Ok(collective.all_gather(own)?.swap_remove(0))
}

/// The bytes of all ranks, in their order, on rank 0; the other ranks get none.
///
/// # Errors
/// As [`Collective`].
pub fn gather(collective: &dyn Collective, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let mut sent = vec![Vec::new(); collective.size()];
    sent[0] = bytes;
    collective.all_to_all(sent)
}

fn reduce(
    collective: &dyn Collective,
    values: &mut [f32],
    wire: Wire,
    combine: fn(f32, f32) -> f32,
) -> Result<()> {
    let (rank, ranks) = (collective.rank(), collective.size());
    if ranks == 1 {
        return Ok(());
    }
    let all = Group {
        collective,
        ranks: (0..ranks).collect(),
        wire,
    };
    let near = collective.ranks_per_host();
    if !near.is_power_of_two() || near == 1 || near == ranks {
        let own = all.scatter(values, combine)?;
        return all.gather(&own, values);
    }
    // First those of a machine, then one of each machine with its own share of the entries, so that the network between them
    // carries each entry once, and not for each rank: the order of a sum by pairs stays what it is.
    let of_host = rank / near * near;
    let near_ones = Group {
        collective,
        ranks: (of_host..of_host + near).collect(),
        // memory is fast enough
        wire: Wire::F32,
    };
    let far_ones = Group {
        collective,
        ranks: (rank % near..ranks).step_by(near).collect(),
        wire,
    };
    let mut share = near_ones.scatter(values, combine)?;
    let own = far_ones.scatter(&share, combine)?;
    far_ones.gather(&own, &mut share)?;
    near_ones.gather(&share, values)
}

/// Some of the ranks, this one among them; the others have groups of their own at the same time.
struct Group<'c> {
    collective: &'c dyn Collective,
    ranks: Vec<usize>,
    wire: Wire,
}

impl Group<'_> {
    /// The share of a rank of the group in so many entries.
    fn share(&self, place: usize, entries: usize) -> Range<usize> {
        share(place, self.ranks.len(), entries)
    }

    /// The share of this rank, reduced over the group.
    fn scatter(&self, values: &[f32], combine: fn(f32, f32) -> f32) -> Result<Vec<f32>> {
        let mut sent = vec![Vec::new(); self.collective.size()];
        for (place, &rank) in self.ranks.iter().enumerate() {
            sent[rank] = self.wire.bytes(&values[self.share(place, values.len())]);
        }
        let got = self.collective.all_to_all(sent)?;
        let mut terms = Pairwise::default();
        let add = |mut a: Vec<f32>, b: Vec<f32>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = combine(*a, b));
            a
        };
        for &rank in &self.ranks {
            terms.push(self.wire.values(&got[rank]), add);
        }
        Ok(terms.finish(add).unwrap_or_default())
    }

    /// `values` become the shares of all ranks of the group.
    fn gather(&self, own: &[f32], values: &mut [f32]) -> Result<()> {
        let bytes = self.wire.bytes(own);
        let got = if self.ranks.len() == self.collective.size() {
            self.collective.all_gather(bytes)?
        } else {
            let mut sent = vec![Vec::new(); self.collective.size()];
            for &rank in &self.ranks {
                sent[rank].clone_from(&bytes);
            }
            self.collective.all_to_all(sent)?
        };
        let shares = self
            .ranks
            .iter()
            .flat_map(|&rank| self.wire.values(&got[rank]));
        values
            .iter_mut()
            .zip(shares)
            .for_each(|(value, share)| *value = share);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::LocalRanks;

    /// Ranks that are on machines of so many.
    #[derive(Debug)]
    struct OnHosts(LocalRanks, usize);

    impl Collective for OnHosts {
        fn rank(&self) -> usize {
            self.0.rank()
        }

        fn size(&self) -> usize {
            self.0.size()
        }

        fn ranks_per_host(&self) -> usize {
            self.1
        }

        fn all_to_all(&self, sent: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
            let (rank, near) = (self.rank(), self.1);
            for (to, bytes) in sent.iter().enumerate() {
                let is_near = to / near == rank / near;
                let is_far = to % near == rank % near;
                assert!(is_near || is_far || bytes.is_empty());
            }
            self.0.all_to_all(sent)
        }

        fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
            self.0.all_gather(bytes)
        }
    }

    fn sums(size: usize, near: usize) -> Vec<Vec<u32>> {
        let ranks = LocalRanks::group(size).into_iter().map(|rank| {
            std::thread::spawn(move || {
                let rank = OnHosts(rank, near);
                let term = |at: usize| ((at * 37 + rank.rank() * 101) as f32).sin();
                let mut values: Vec<f32> = (0..103).map(term).collect();
                all_reduce_sum(&rank, &mut values).unwrap();
                values.iter().map(|value| value.to_bits()).collect()
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    }

    #[test]
    fn sums_over_machines_have_the_bits_of_sums_over_ranks() {
        for (size, near) in [(4, 2), (6, 2), (8, 4), (12, 4), (4, 4)] {
            let found = sums(size, near);
            assert!(found.iter().all(|other| other == &found[0]));
            // a machine for all is none to the sum
            assert_eq!(found, sums(size, size), "{size} ranks, {near} on a machine");
        }
    }
}
