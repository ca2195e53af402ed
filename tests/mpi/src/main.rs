//! One rank of a test: `src/collective` of the library, compiled here without the rest.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a test"
)]
#![allow(dead_code, missing_docs, unused_imports, reason = "parts of a library")]

#[path = "../../../src/collective/mod.rs"]
pub mod collective;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/lock.rs"]
mod lock;

use std::time::{Duration, Instant};

use collective::{
    Collective, LocalRanks, Mpi, Wire, all_ok, all_reduce_max, all_reduce_sum, all_reduce_sum_as,
    from_rank_0,
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let patience = Duration::from_secs(3);
    let ranks = Mpi::join(patience).unwrap();
    match arguments[1].as_str() {
        "exchange" => exchange(&ranks),
        "sums" => sums(&ranks),
        "large" => large(&ranks, arguments[2].parse().unwrap()),
        // these end by an error or a signal
        "hang" => hang(&ranks, patience),
        "die" => die(&ranks),
        "differ" => differ(&ranks),
        "fail" => fail(&ranks),
        "write" => return write(&ranks),
        other => panic!("no scenario {other}"),
    }
    assert!(ranks.finish(false));
}

/// The first rank has something to write, for longer than ranks wait that have nothing to wait for.
fn write(ranks: &Mpi) {
    if ranks.rank() == 0 {
        std::thread::sleep(Duration::from_secs(12));
    }
    assert!(ranks.finish(ranks.rank() > 0));
    println!("rank {} is done", ranks.rank());
}

/// Messages of all lengths about those at which something changes, also of none.
fn exchange(ranks: &Mpi) {
    let (own, size) = (ranks.rank(), ranks.size());
    let host = ranks.host();
    assert_eq!((host.local_rank, host.local_ranks), (own, size));
    let lengths = [0, 1, 4071, 4072, 4073, 9_000_000];
    let message = |from: usize, to: usize, round: usize| {
        let length = lengths[(from + 2 * to + round) % lengths.len()];
        vec![(1 + from * size + to) as u8; length]
    };
    for round in 0..lengths.len() {
        let sent = (0..size).map(|to| message(own, to, round)).collect();
        let got = ranks.all_to_all(sent).unwrap();
        for (from, bytes) in got.iter().enumerate() {
            assert_eq!(bytes, &message(from, own, round), "of {from}");
        }
        let got = ranks.all_gather(message(own, 0, round)).unwrap();
        for (from, bytes) in got.iter().enumerate() {
            assert_eq!(bytes, &message(from, 0, round), "of {from}");
        }
    }
    assert_eq!(from_rank_0(ranks, || Ok(own + 7)).unwrap(), 7);
    let stopped = all_ok(ranks, Ok::<_, error::Error>(own)).unwrap();
    assert_eq!(stopped, own);
    assert!(ranks.all_to_all(Vec::new()).is_err());
    println!("rank {own} of {size} is done");
}

/// What a rank contributes.
fn terms(rank: usize) -> Vec<f32> {
    let term = |at: usize| ((at * 37 + rank * 101) as f32).sin() * 10f32.powi((at % 13) as i32 - 6);
    (0..100_003).map(term).collect()
}

fn reduced(ranks: &dyn Collective) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    for reduce in [
        all_reduce_sum as fn(&dyn Collective, &mut [f32]) -> error::Result<()>,
        all_reduce_max,
        |ranks, values| all_reduce_sum_as(ranks, values, Wire::F16),
    ] {
        let mut values = terms(ranks.rank());
        reduce(ranks, &mut values).unwrap();
        all.push(values.iter().map(|value| value.to_bits()).collect());
    }
    all
}

/// The bits are those of threads of one process.
fn sums(ranks: &Mpi) {
    let found = reduced(ranks);
    let threads = LocalRanks::group(ranks.size()).into_iter();
    let threads: Vec<_> = threads
        .map(|rank| std::thread::spawn(move || reduced(&rank)))
        .collect();
    // rounded numbers travel between machines alone, and threads have none
    let on_one = ranks.host().local_ranks == ranks.size();
    let exact = if on_one { found.len() } else { 2 };
    for thread in threads {
        assert!(found[..exact] == thread.join().unwrap()[..exact]);
    }
    println!("rank {} is done", ranks.rank());
}

/// A sum of so many million numbers.
fn large(ranks: &Mpi, millions: usize) {
    let mut values = vec![(1 << ranks.rank()) as f32; millions * 1_000_000];
    for _ in 0..2 {
        let began = Instant::now();
        all_reduce_sum(ranks, &mut values).unwrap();
        let seconds = began.elapsed().as_secs_f64();
        if ranks.rank() == 0 {
            println!("{millions} million numbers in {seconds:.2} s");
        }
    }
    let sum = ((1 << ranks.size()) - 1) as f32 * ranks.size() as f32;
    assert!(values.iter().all(|value| *value == sum));
    println!("rank {} is done", ranks.rank());
}

/// Rank 1 stops to answer.
fn hang(ranks: &Mpi, patience: Duration) {
    ranks.all_gather(vec![1]).unwrap();
    if ranks.rank() == 1 {
        std::thread::sleep(10 * patience);
    }
    let error = ranks.all_gather(vec![2; 10_000_000]).unwrap_err();
    println!("rank {}: {error}", ranks.rank());
    let error = ranks.all_gather(vec![3]).unwrap_err();
    println!("rank {} again: {error}", ranks.rank());
    std::process::exit(7);
}

/// Rank 1 is killed.
fn die(ranks: &Mpi) {
    ranks.all_gather(vec![1]).unwrap();
    if ranks.rank() == 1 {
        let own = std::process::id().to_string();
        let mut kill = std::process::Command::new("kill");
        kill.args(["-9", &own]).status().unwrap();
    }
    let error = ranks.all_gather(vec![2; 10_000_000]).unwrap_err();
    println!("rank {}: {error}", ranks.rank());
    std::process::exit(7);
}

/// Rank 1 makes another call than the others.
fn differ(ranks: &Mpi) {
    let size = ranks.size();
    let error = match ranks.rank() {
        1 => ranks.all_to_all(vec![Vec::new(); size]).unwrap_err(),
        _ => ranks.all_gather(vec![1]).unwrap_err(),
    };
    println!("rank {}: {error}", ranks.rank());
    std::thread::sleep(Duration::from_secs(1));
    std::process::exit(7);
}

/// Rank 1 ends with an error that the others do not have.
fn fail(ranks: &Mpi) {
    if ranks.rank() == 1 {
        std::process::exit(7);
    }
    let error = ranks.all_gather(vec![1]).unwrap_err();
    println!("rank {}: {error}", ranks.rank());
}
