//! The thread that owns MPI, and what it does: messages between two ranks, which are polled. MPI's own collectives cannot tell which
//! rank they wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use ::mpi::Threading;
use ::mpi::environment::processor_name;
use ::mpi::request::{RequestCollection, multiple_scope};
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, Destination as _, Source as _};

use crate::error::{Error, Result};

/// Bytes of one message at most: MPI counts them in 31 bits, and each that arrives shows that a rank is alive.
const CHUNK: usize = 8 << 20;
/// Bytes of a first message: what the exchange is, and all of a short one.
const FIRST: usize = 4096;
/// Of it: kind, number and bytes of the exchange.
const HEADER: usize = 24;
const FIRST_TAG: i32 = 1;
const REST_TAG: i32 = 2;
/// For so long the thread looks for messages without a pause; then it leaves the core to others between two looks.
const EAGER: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// Where a rank runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The machine, as MPI calls it.
    pub name: String,
    /// This rank among those of the machine.
    pub local_rank: usize,
    /// Ranks on the machine.
    pub local_ranks: usize,
}

/// An exchange, and where its result is waited for.
#[derive(Debug)]
pub(super) struct Call {
    pub sent: Sent,
    pub reply: Sender<Result<Vec<Vec<u8>>>>,
}

#[derive(Debug)]
pub(super) enum Sent {
    Each(Vec<Vec<u8>>),
    Same(Vec<u8>),
}

impl Sent {
    fn to(&self, rank: usize) -> &[u8] {
        match self {
            Self::Each(each) => &each[rank],
            Self::Same(bytes) => bytes,
        }
    }

    fn into_own(self, rank: usize) -> Vec<u8> {
        match self {
            Self::Each(mut each) => std::mem::take(&mut each[rank]),
            Self::Same(bytes) => bytes,
        }
    }

    fn kind(&self) -> u64 {
        match self {
            Self::Each(_) => 1,
            Self::Same(_) => 2,
        }
    }
}

/// The call of a kind of exchange.
fn call_of(kind: u64) -> &'static str {
    match kind {
        1 => "all_to_all",
        2 => "all_gather",
        _ => "an unknown call",
    }
}

/// What a rank knows once it has joined.
#[derive(Debug)]
pub(super) struct Joined {
    pub rank: usize,
    pub size: usize,
    pub host: Host,
    pub ranks_per_host: usize,
}

/// The thread that owns MPI: joins, answers calls until there are no more, and leaves.
pub(super) fn serve(
    ready: &Sender<Result<Joined>>,
    calls: &Receiver<Call>,
    timeout: Duration,
    has_failed: &AtomicBool,
) {
    // this thread is MPI's main thread, as it is the one that starts it
    let Some((universe, _)) = ::mpi::initialize_with_threading(Threading::Funneled) else {
        let text = "MPI was started before in this process";
        let _ = ready.send(Err(Error::Ranks(text.into())));
        return;
    };
    let world = universe.world();
    let local = world.split_shared(world.rank());
    let host = Host {
        name: processor_name().unwrap_or_else(|_| "a machine without a name".into()),
        local_rank: local.rank() as usize,
        local_ranks: local.size() as usize,
    };
    let mut exchanges = Exchanges {
        own: world.rank() as usize,
        size: world.size() as usize,
        world,
        hosts: Vec::new(),
        made: 0,
        timeout,
        calls,
        has_failed,
    };
    let numbers = [host.local_rank as u64, host.local_ranks as u64];
    let numbers = numbers.map(u64::to_le_bytes).concat();
    let name = Sent::Same([numbers, host.name.clone().into_bytes()].concat());
    let hosts = exchanges.make(name, &|error| {
        let _ = ready.send(Err(error));
    });
    let is_even = |(rank, host): (usize, &Vec<u8>)| {
        let near = numbers_of(host);
        let local = [
            (rank % near[1].max(1) as usize) as u64,
            numbers_of(&hosts[0])[1],
        ];
        near == local
    };
    let ranks_per_host = if hosts.iter().enumerate().all(is_even) {
        host.local_ranks
    } else {
        1
    };
    let name = |host: &Vec<u8>| String::from_utf8_lossy(&host[16..]).into_owned();
    exchanges.hosts = hosts.iter().map(name).collect();
    let joined = Joined {
        rank: exchanges.own,
        size: exchanges.size,
        host,
        ranks_per_host,
    };
    if ready.send(Ok(joined)).is_err() {
        return;
    }
    while let Ok(Call { sent, reply }) = calls.recv() {
        let got = exchanges.make(sent, &|error| {
            let _ = reply.send(Err(error));
        });
        // nobody waits for it only where this process ends
        let _ = reply.send(Ok(got));
    }
}

/// Exchanges of all ranks, one after the other.
struct Exchanges<'c> {
    world: SimpleCommunicator,
    own: usize,
    size: usize,
    /// The machine of each rank, once known.
    hosts: Vec<String>,
    /// Exchanges so far.
    made: u64,
    timeout: Duration,
    calls: &'c Receiver<Call>,
    has_failed: &'c AtomicBool,
}

impl Exchanges<'_> {
    /// What all ranks send this one. Where a rank is silent, or makes another call, `tell` gets the error, and nothing
    /// follows but the end of the job.
    fn make(&mut self, sent: Sent, tell: &dyn Fn(Error)) -> Vec<Vec<u8>> {
        self.made += 1;
        let own = self.own;
        let silent = |silent: &[usize]| tell(self.silence(&sent, silent));
        let mut firsts = vec![vec![0; FIRST]; self.size];
        self.messages(&self.firsts(&sent), &mut firsts, FIRST_TAG, &silent);
        let mut got = Vec::with_capacity(self.size);
        for (rank, first) in firsts.into_iter().enumerate() {
            let [kind, number, length] = [0, 1, 2].map(|at| word(&first, at));
            if rank == own {
                got.push(Vec::new());
                continue;
            }
            if (kind, number) != (sent.kind(), self.made) {
                tell(self.difference(rank, &sent, kind, number));
                self.wait_for_the_end();
            }
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            got.push(if length <= FIRST - HEADER {
                first[HEADER..HEADER + length].to_vec()
            } else {
                vec![0; length]
            });
        }
        let is_long = |bytes: usize| bytes > FIRST - HEADER;
        let ranks = 0..self.size;
        let rests: Vec<&[u8]> = ranks
            .map(|to| Some(sent.to(to)).filter(|bytes| is_long(bytes.len())))
            .map(Option::unwrap_or_default)
            .collect();
        let mut long: Vec<&mut [u8]> = got
            .iter_mut()
            .map(|got| Some(&mut got[..]).filter(|got| is_long(got.len())))
            .map(Option::unwrap_or_default)
            .collect();
        self.messages(&rests, &mut long, REST_TAG, &silent);
        got[own] = sent.into_own(own);
        got
    }

    /// The first messages to all ranks.
    fn firsts(&self, sent: &Sent) -> Vec<Vec<u8>> {
        let first = |to| {
            let bytes = sent.to(to);
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let mut first = Vec::with_capacity(HEADER + bytes.len().min(FIRST - HEADER));
            for word in [sent.kind(), self.made, length] {
                first.extend(word.to_le_bytes());
            }
            if bytes.len() <= FIRST - HEADER {
                first.extend(bytes);
            }
            first
        };
        (0..self.size).map(first).collect()
    }

    /// Sends and receives between this rank and each other one, until all is done. `silent` gets the ranks that it waited
    /// for in vain.
    fn messages<S: AsRef<[u8]>, G: AsMut<[u8]>>(
        &self,
        sent: &[S],
        got: &mut [G],
        tag: i32,
        silent: &dyn Fn(&[usize]),
    ) {
        let own = self.own;
        multiple_scope(2 * sent.len(), |scope, requests| {
            // of each request: its rank
            let mut ranks = Vec::new();
            for (rank, got) in got.iter_mut().enumerate().filter(|(rank, _)| *rank != own) {
                let from = self.world.process_at_rank(rank as i32);
                for chunk in got.as_mut().chunks_mut(CHUNK) {
                    requests.add(from.immediate_receive_into_with_tag(scope, chunk, tag));
                    ranks.push(rank);
                }
            }
            // each begins with the one after it, so that not all send to the same one
            for rank in (1..sent.len()).map(|after| (own + after) % sent.len()) {
                let to = self.world.process_at_rank(rank as i32);
                for chunk in sent[rank].as_ref().chunks(CHUNK) {
                    requests.add(to.immediate_send_with_tag(scope, chunk, tag));
                    ranks.push(rank);
                }
            }
            self.poll(requests, &ranks, silent);
        });
    }

    /// Until all requests, which are of these ranks, are complete.
    fn poll(
        &self,
        requests: &mut RequestCollection<'_, [u8]>,
        ranks: &[usize],
        silent: &dyn Fn(&[usize]),
    ) {
        let mut is_done = vec![false; ranks.len()];
        let (mut left, mut done) = (ranks.len(), Vec::new());
        let mut newest = Instant::now();
        while left > 0 {
            requests.test_some(&mut done);
            for (at, ..) in &done {
                is_done[*at] = true;
            }
            left -= done.len();
            let idle = newest.elapsed();
            if !done.is_empty() {
                newest = Instant::now();
            } else if idle > self.timeout {
                let waits = ranks.iter().zip(&is_done).filter(|(_, is_done)| !**is_done);
                let mut waits: Vec<usize> = waits.map(|(rank, _)| *rank).collect();
                waits.sort_unstable();
                waits.dedup();
                silent(&waits);
                // not out of this scope: MPI may still write what the requests are about
                self.wait_for_the_end();
            } else if idle < EAGER {
                std::thread::yield_now();
            } else {
                std::thread::sleep((idle / 20).min(LONGEST_PAUSE));
            }
        }
    }

    /// Fails every call from now on; whoever makes them ends the process.
    fn wait_for_the_end(&self) -> ! {
        self.has_failed.store(true, Ordering::Relaxed);
        while let Ok(Call { reply, .. }) = self.calls.recv() {
            let text = "an exchange between ranks failed before";
            let _ = reply.send(Err(Error::Ranks(text.into())));
        }
        loop {
            std::thread::park();
        }
    }

    /// A rank with its machine.
    fn named(&self, rank: usize) -> String {
        match self.hosts.get(rank) {
            Some(host) => format!("rank {rank} on {host}"),
            None => format!("rank {rank}"),
        }
    }

    fn silence(&self, sent: &Sent, silent: &[usize]) -> Error {
        let silent: Vec<_> = silent.iter().map(|&rank| self.named(rank)).collect();
        Error::Ranks(format!(
            "{} has heard nothing from {} for {} s in exchange {} ({}): it is gone, hangs or is cut off, or works for longer than \
             `collective_timeout`",
            self.named(self.own),
            silent.join(", "),
            self.timeout.as_secs(),
            self.made,
            call_of(sent.kind()),
        ))
    }

    fn difference(&self, rank: usize, sent: &Sent, kind: u64, made: u64) -> Error {
        Error::Ranks(format!(
            "{} makes exchange {made} ({}), and {} exchange {} ({}): all ranks must run the same program with the same arguments",
            self.named(rank),
            call_of(kind),
            self.named(self.own),
            self.made,
            call_of(sent.kind()),
        ))
    }
}

/// Number among those of its machine, and how many these are.
fn numbers_of(host: &[u8]) -> [u64; 2] {
    [0, 1].map(|at| word(host, at))
}

/// A number of a header.
fn word(first: &[u8], at: usize) -> u64 {
    let word = first[8 * at..8 * at + 8].try_into();
    word.map_or(0, u64::from_le_bytes)
}
