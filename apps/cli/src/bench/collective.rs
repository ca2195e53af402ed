//! How long the ranks of a run take to sum their gradients.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use ibot::collective::{Collective, LocalRanks, Wire, all_reduce_sum_as};
use ibot::device::Selected;
use ibot::train::RunConfig;
use ibot::train::plan::{Choosable, Plan};
use ibot::{Error, Result};
use serde::Serialize;

use super::median::median;
use super::size::StepSize;

/// Ranks where this process is alone: threads, so that a figure is that of memory.
const THREADS: usize = 2;

/// Times of a sum over ranks.
#[derive(Debug, Serialize)]
pub struct SumTimes {
    size: String,
    ranks: usize,
    /// Whether ranks are threads of this process.
    in_one_process: bool,
    /// Parameters of the student, of which each has a gradient.
    parameters: usize,
    /// What a rank sends in a step.
    bytes: usize,
    /// Seconds of a sum, the median.
    seconds: f64,
    /// Seconds of a step without it, where given.
    step_s: Option<f64>,
}

/// Sums gradients of a model of this size over these ranks, in so many rounds after one that is not counted; over two threads where
/// there are no others.
///
/// # Errors
/// Sizes that cannot work, and as [`Collective`].
pub fn bench_collective(
    size: &StepSize,
    ranks: &Arc<dyn Collective>,
    rounds: usize,
    step_s: Option<f64>,
) -> Result<SumTimes> {
    let config = RunConfig {
        method: size.method()?,
        batch_size: size.batch_size,
        ..RunConfig::default()
    };
    let plan = Plan::new(
        &config,
        &Selected::Flex,
        size.batch_size,
        Choosable::default(),
    )?;
    let parameters = usize::try_from(plan.parameters.student()).unwrap_or(usize::MAX);
    let is_alone = ranks.size() == 1;
    let seconds = if is_alone {
        over_threads(parameters, rounds)?
    } else {
        seconds(&**ranks, parameters, rounds)?
    };
    let ranks = if is_alone { THREADS } else { ranks.size() };
    Ok(SumTimes {
        size: size.to_string(),
        ranks,
        in_one_process: is_alone,
        parameters,
        bytes: 2 * 4 * parameters / ranks * (ranks - 1),
        seconds,
        step_s,
    })
}

fn over_threads(parameters: usize, rounds: usize) -> Result<f64> {
    let group = LocalRanks::group(THREADS).into_iter();
    let threads = group.map(|rank| std::thread::spawn(move || seconds(&rank, parameters, rounds)));
    let threads: Vec<_> = threads.collect();
    let mut slowest = 0.0f64;
    for thread in threads {
        let ended = thread.join();
        let seconds = ended.map_err(|_| Error::Training("a thread of the sum failed".into()))??;
        slowest = slowest.max(seconds);
    }
    Ok(slowest)
}

/// The median of the seconds of a sum.
fn seconds(ranks: &dyn Collective, parameters: usize, rounds: usize) -> Result<f64> {
    let mut values = vec![1e-3; parameters];
    let mut times = Vec::new();
    for _ in 0..=rounds.max(1) {
        let begun = Instant::now();
        all_reduce_sum_as(ranks, &mut values, Wire::F32)?;
        times.push(begun.elapsed().as_secs_f64());
        // far from infinity, however many rounds
        values.fill(1e-3);
    }
    Ok(median(times.split_off(1)))
}

impl fmt::Display for SumTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.in_one_process {
            "threads of this process; start it by mpirun for others"
        } else {
            "processes"
        };
        writeln!(f, "{}", self.size)?;
        writeln!(f, "ranks       {}, {of}", self.ranks)?;
        writeln!(
            f,
            "gradients   {:.1} M numbers; each rank sends {:.1} MB a step",
            self.parameters as f64 / 1e6,
            self.bytes as f64 / 1e6
        )?;
        write!(
            f,
            "sum         {:.3} s, {:.0} MB/s from each rank",
            self.seconds,
            self.bytes as f64 / 1e6 / self.seconds
        )?;
        match self.step_s {
            Some(step_s) => write!(
                f,
                "\nof a step   at most {:.0} %, beside {step_s} s of computing; part of it passes during the backward pass",
                100.0 * self.seconds / (self.seconds + step_s)
            ),
            None => write!(
                f,
                "\nof a step   give --step-seconds, the seconds of a step without it (`ibot bench`)"
            ),
        }
    }
}
