//! Ranks that are processes, on one machine or several, through MPI (feature `mpi`).
//!
//! A thread of its own talks to MPI, and nothing else does: not every MPI takes calls from several threads.

mod exchanges;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use self::exchanges::Host;
use self::exchanges::{Call, Joined, Sent, serve};
use crate::collective::Collective;
use crate::error::{Error, Result, counted};
use crate::lock::lock;

/// How long a rank that has nothing to wait for waits for the others.
const FINISH: Duration = Duration::from_secs(10);

/// A rank that is a process of its own.
#[derive(Debug)]
pub struct Mpi {
    joined: Joined,
    /// None once this rank has left.
    calls: Mutex<Option<Sender<Call>>>,
    thread: JoinHandle<()>,
    /// Whether a rank was silent, or made another call.
    has_failed: Arc<AtomicBool>,
}

impl Mpi {
    /// Joins the ranks that `mpiexec`, `mpirun` or `srun` has started; once in a process. An exchange in which a rank is silent
    /// for `timeout` is an error, as is every one after it.
    ///
    /// # Errors
    /// [`Error::Ranks`] if MPI cannot be used. MPI itself ends the process where its launcher is not the one that it knows.
    pub fn join(timeout: Duration) -> Result<Self> {
        let (ready, joined) = channel();
        let (calls, queue) = channel();
        let has_failed = Arc::new(AtomicBool::new(false));
        let failed = has_failed.clone();
        let thread = std::thread::Builder::new().name("ibot-mpi".into());
        let thread = thread
            .spawn(move || serve(&ready, &queue, timeout, &failed))
            .map_err(|error| Error::Ranks(format!("no thread for MPI: {error}")))?;
        let ended = |_| Error::Ranks("MPI ended while it was started".into());
        Ok(Self {
            joined: joined.recv().map_err(ended)??,
            calls: Mutex::new(Some(calls)),
            thread,
            has_failed,
        })
    }

    /// Where this rank runs.
    pub fn host(&self) -> &Host {
        &self.joined.host
    }

    /// Leaves the ranks, which waits for the others to do the same: at most 10 seconds, unless `is_patient`, which a rank is that has
    /// done its part, while another one still classifies or writes; if that one dies, MPI's launcher ends all. Says whether the others
    /// left: where one did not, this process must end, and the launcher ends all too.
    pub fn finish(&self, is_patient: bool) -> bool {
        drop(self.calls().take());
        let begun = Instant::now();
        while !self.thread.is_finished() {
            if self.has_failed.load(Ordering::Relaxed) || (!is_patient && begun.elapsed() > FINISH)
            {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn calls(&self) -> MutexGuard<'_, Option<Sender<Call>>> {
        lock(&self.calls)
    }

    fn exchange(&self, sent: Sent) -> Result<Vec<Vec<u8>>> {
        let ended = || Error::Ranks("MPI has ended; the ranks are no longer together".into());
        let (reply, result) = channel();
        let calls = self.calls().clone().ok_or_else(ended)?;
        calls.send(Call { sent, reply }).map_err(|_| ended())?;
        result.recv().map_err(|_| ended())?
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.joined.rank
    }

    fn size(&self) -> usize {
        self.joined.size
    }

    fn ranks_per_host(&self) -> usize {
        self.joined.ranks_per_host
    }

    fn all_to_all(&self, sent: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        if sent.len() != self.joined.size {
            let (found, ranks) = (counted(sent.len(), "message"), self.joined.size);
            return Err(Error::Ranks(format!("{found} for {ranks} ranks")));
        }
        self.exchange(Sent::Each(sent))
    }

    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.exchange(Sent::Same(bytes))
    }
}
