//! Which parts and whether checkpointing: the least costly choice that fits.

use std::path::Path;

use serde::Serialize;

use crate::error::Result;
use crate::train::config::RunConfig;
use crate::train::plan::device::PlannedDevice;
use crate::train::plan::memory::{StepMemory, Verdict};
use crate::train::plan::sizes::MemorySavers;

/// What each part of a batch costs beside its rows, in token rows: launches, and gradients that are added to those before. On
/// a fast GPU (an H100 by estimate, not measured) about 6 ms, in which it computes as many rows of ViT-S.
const ROWS_OF_A_PART: f64 = 1024.0;

/// Settings that a plan may choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choosable {
    /// `micro_batch_size`; left as it is where it is set.
    pub micro_batch_size: bool,
    /// `method.grad_checkpointing`; left as it is where it is true.
    pub grad_checkpointing: bool,
}

impl Choosable {
    /// All but `method.grad_checkpointing` where this TOML file, which merged well before, sets it: to false perhaps.
    pub fn left_open_by(file: Option<&Path>) -> Self {
        let text = file.and_then(|file| std::fs::read_to_string(file).ok());
        let table: Option<toml::Table> = text.and_then(|text| text.parse().ok());
        let method = table.as_ref().and_then(|table| table.get("method"));
        Self {
            micro_batch_size: true,
            grad_checkpointing: method.is_none_or(|it| it.get("grad_checkpointing").is_none()),
        }
    }
}

/// What a plan has come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanChoice {
    /// Images that the student sees at once; the whole batch for none.
    pub micro_batch_size: Option<usize>,
    /// Whether the student's blocks keep only their inputs.
    pub grad_checkpointing: bool,
    /// Why, in words.
    pub reason: String,
    /// The work of a step by that of the whole batch at once without checkpointing, by estimate.
    pub relative_cost: f64,
}

/// A way to make a step.
struct Candidate {
    savers: MemorySavers,
    memory: StepMemory,
    verdict: Verdict,
    cost: f64,
}

impl Candidate {
    fn of(config: &RunConfig, device: &PlannedDevice, savers: MemorySavers) -> Result<Self> {
        let memory = StepMemory::of(config, device, savers)?;
        Ok(Self {
            verdict: memory.verdict(device),
            cost: cost(config, savers, memory.rows),
            memory,
            savers,
        })
    }
}

/// By forward passes of the student's rows: the teacher's, the student's, two for its backward pass, one more for
/// checkpointing and one for KoLeo of a batch in parts.
fn cost(config: &RunConfig, savers: MemorySavers, rows: u64) -> f64 {
    let parts = match savers.micro_batch_size {
        Some(most) => config.batch_size.div_ceil(most.max(1)),
        None => 1,
    };
    let again = u8::from(savers.grad_checkpointing);
    let koleo = u8::from(parts > 1 && config.method.koleo_weight > 0.0);
    let passes = f64::from(4 + again + koleo) / 4.0;
    let rows = rows as f64;
    let with_parts = |parts: usize| 1.0 + parts as f64 * ROWS_OF_A_PART / rows.max(1.0);
    passes * with_parts(parts) / with_parts(1)
}

/// The least costly way that fits; if none does, the one that takes least.
pub(super) fn choose(
    config: &RunConfig,
    device: &PlannedDevice,
    may: Choosable,
) -> Result<(PlanChoice, StepMemory, Verdict)> {
    let set = MemorySavers {
        micro_batch_size: config.micro_batch_size,
        grad_checkpointing: config.method.grad_checkpointing,
    };
    let as_set = Candidate::of(config, device, set)?;
    let may_split = may.micro_batch_size && set.micro_batch_size.is_none();
    let may_checkpoint = may.grad_checkpointing && !set.grad_checkpointing;
    if as_set.verdict.may_run() || !(may_split || may_checkpoint) {
        let reason = as_it_is(&as_set, may_split && may_checkpoint);
        return Ok(chosen(as_set, reason));
    }
    let mut best: Option<Candidate> = None;
    let mut least: Option<Candidate> = None;
    for grad_checkpointing in [set.grad_checkpointing, true] {
        if grad_checkpointing != set.grad_checkpointing && !may_checkpoint {
            continue;
        }
        let sizes = if may_split {
            micro_batch_sizes(config.batch_size)
        } else {
            vec![set.micro_batch_size]
        };
        // from the largest part down: the first that fits is the cheapest
        for micro_batch_size in sizes {
            let savers = MemorySavers {
                micro_batch_size,
                grad_checkpointing,
            };
            let candidate = Candidate::of(config, device, savers)?;
            if candidate.verdict.may_run() {
                if best.as_ref().is_none_or(|best| candidate.cost < best.cost) {
                    best = Some(candidate);
                }
                break;
            }
            let needed = candidate.memory.needed_bytes;
            if least
                .as_ref()
                .is_none_or(|least| needed < least.memory.needed_bytes)
            {
                least = Some(candidate);
            }
        }
    }
    let whole = as_set.verdict.in_words();
    Ok(match (best, least) {
        (Some(best), _) => {
            let before = if may_split && may_checkpoint {
                "the whole batch at once"
            } else {
                "with the settings of the run"
            };
            let reason = format!("{before}: {whole}; of what fits, this costs least");
            chosen(best, reason)
        }
        (None, Some(least)) => {
            let reason = "nothing fits; this takes least".to_owned();
            chosen(least, reason)
        }
        (None, None) => chosen(as_set, whole),
    })
}

fn as_it_is(candidate: &Candidate, is_free: bool) -> String {
    match (&candidate.verdict, is_free) {
        (Verdict::Fits, true) => "the whole batch at once fits, and nothing is faster".to_owned(),
        (Verdict::Unknown, true) => {
            "the memory is not known, so that the fastest way is taken".to_owned()
        }
        _ => "with the settings of the run".to_owned(),
    }
}

fn chosen(candidate: Candidate, reason: String) -> (PlanChoice, StepMemory, Verdict) {
    let choice = PlanChoice {
        micro_batch_size: candidate.savers.micro_batch_size,
        grad_checkpointing: candidate.savers.grad_checkpointing,
        reason,
        relative_cost: candidate.cost,
    };
    (choice, candidate.memory, candidate.verdict)
}

/// Sizes of parts that differ, from the whole batch down to one image.
fn micro_batch_sizes(batch: usize) -> Vec<Option<usize>> {
    let mut sizes = vec![None];
    let mut parts = 2;
    while parts <= batch {
        let size = batch.div_ceil(parts);
        sizes.push(Some(size));
        // the next number of parts with smaller ones
        parts = match size {
            0 | 1 => break,
            _ => batch.div_ceil(size - 1).max(parts + 1),
        };
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_shrink_to_one_image() {
        let some = |sizes: &[usize]| {
            let sizes = sizes.iter().map(|size| Some(*size));
            std::iter::once(None).chain(sizes).collect::<Vec<_>>()
        };
        assert_eq!(micro_batch_sizes(8), some(&[4, 3, 2, 1]));
        assert_eq!(micro_batch_sizes(3), some(&[2, 1]));
        assert_eq!(micro_batch_sizes(1), some(&[]));
        let many = micro_batch_sizes(1 << 20);
        assert!(many.len() < 2100 && many.last() == Some(&Some(1)));
    }

    #[test]
    fn few_parts_cost_less_than_checkpointing_and_many_more() {
        let config = RunConfig::default();
        let rows = 128 * 197;
        let cost = |micro_batch_size, grad_checkpointing| {
            let savers = MemorySavers {
                micro_batch_size,
                grad_checkpointing,
            };
            cost(&config, savers, rows)
        };
        assert_eq!(cost(None, false), 1.0);
        assert_eq!(cost(None, true), 1.25);
        assert!(cost(Some(16), false) < cost(None, true));
        assert!(cost(Some(4), false) > cost(Some(32), true));
    }
}
