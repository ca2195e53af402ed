//! Ranks that are threads of one process, for tests.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::lock::lock;

/// A rank that is a thread of this process: for tests. Once one is dropped, calls of the others fail.
#[derive(Debug)]
pub struct LocalRanks {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// `[to][from]`
    mail: Vec<Vec<Vec<u8>>>,
    /// Ranks that wait for the others.
    waiting: usize,
    /// How often all have met.
    meetings: u64,
    /// A rank that was dropped.
    gone: Option<usize>,
}

impl LocalRanks {
    /// All ranks of a group, one for each thread.
    pub fn group(size: usize) -> Vec<Self> {
        let state = State {
            mail: vec![vec![Vec::new(); size]; size],
            waiting: 0,
            meetings: 0,
            gone: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let of_rank = |rank| Self {
            rank,
            size,
            shared: shared.clone(),
        };
        (0..size).map(of_rank).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// Waits until all ranks are here.
    fn meet(&self) -> Result<()> {
        let mut state = self.state();
        state.waiting += 1;
        if state.waiting == self.size {
            state.waiting = 0;
            state.meetings += 1;
            self.shared.changed.notify_all();
            return Ok(());
        }
        let meetings = state.meetings;
        loop {
            if state.meetings > meetings {
                return Ok(());
            }
            if let Some(rank) = state.gone {
                return Err(Error::Ranks(format!("rank {rank} is gone")));
            }
            let woken = self.shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for LocalRanks {
    fn drop(&mut self) {
        self.state().gone.get_or_insert(self.rank);
        self.shared.changed.notify_all();
    }
}

impl Collective for LocalRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_to_all(&self, sent: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        if sent.len() != self.size {
            let (found, ranks) = (sent.len(), self.size);
            return Err(Error::Ranks(format!("{found} messages for {ranks} ranks")));
        }
        for (to, bytes) in sent.into_iter().enumerate() {
            self.state().mail[to][self.rank] = bytes;
        }
        self.meet()?;
        let got: Vec<Vec<u8>> = {
            let mut state = self.state();
            let mail = state.mail[self.rank].iter_mut();
            mail.map(std::mem::take).collect()
        };
        // nobody sends again before all have read
        self.meet()?;
        Ok(got)
    }

    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.all_to_all(vec![bytes; self.size])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{all_reduce_max, all_reduce_sum, broadcast};

    #[test]
    fn ranks_get_the_same_sums_and_largest_values() {
        for size in 1..=5 {
            let ranks = LocalRanks::group(size).into_iter().map(|collective| {
                std::thread::spawn(move || {
                    let rank = collective.rank();
                    let own: Vec<f32> = (0..7).map(|at| 0.1 + (at * rank) as f32 / 3.0).collect();
                    let (mut sums, mut largest) = (own.clone(), own);
                    all_reduce_sum(&collective, &mut sums).unwrap();
                    all_reduce_max(&collective, &mut largest).unwrap();
                    let word = broadcast(&collective, vec![rank as u8 + 7]).unwrap();
                    (sums, largest, word)
                })
            });
            let ranks: Vec<_> = ranks.collect();
            let found: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
            let (sums, largest, word) = &found[0];
            let last = size - 1;
            let total = 0.1 * size as f32 + 2.0 * (last * size) as f32 / 2.0;
            assert!((sums[6] - total).abs() < 1e-5, "{sums:?}");
            assert_eq!(largest[6], 0.1 + (6 * last) as f32 / 3.0);
            assert_eq!(word, &[7]);
            assert!(found.iter().all(|other| other == &found[0]));
        }
    }

    #[test]
    fn a_rank_that_is_gone_ends_the_calls_of_the_others() {
        let mut ranks = LocalRanks::group(3);
        drop(ranks.pop());
        let waiting = ranks.into_iter().map(|rank| {
            std::thread::spawn(move || rank.all_gather(Vec::new()).unwrap_err().to_string())
        });
        for message in waiting.collect::<Vec<_>>() {
            assert_eq!(message.join().unwrap(), "rank 2 is gone");
        }
    }
}
