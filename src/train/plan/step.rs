//! A step from beginning to end, as `Trainer::advance` makes it, in sizes alone.

use crate::train::plan::backbone::Backbone;
use crate::train::plan::heads::Rows;
use crate::train::plan::ledger::{Kind, Ledger, Moment};
use crate::train::plan::network::{product, sum};
use crate::train::plan::sizes::StepSizes;

/// Counts a step after the first one, whose moments are there.
pub(super) fn walk(step: &StepSizes) -> Ledger {
    let mut ledger = Ledger::new();
    let parameters = step.network.parameters;
    ledger.hold(Kind::Student, parameters.student());
    ledger.hold(Kind::Teacher, parameters.teacher());
    let moments = product([step.moments, parameters.student()]);
    ledger.hold(Kind::Optimizer, sum([moments, step.centers]));
    ledger.hold(Kind::Views, step.view_entries);
    prepare(step, &mut ledger);
    // a later part differs from the second one in nothing but its sums, and may have an image less
    for part in 0..step.parts.min(2) {
        let sums = if part > 0 { sums_beside(step.parts) } else { 0 };
        ledger.hold(Kind::Gradients, product([sums, parameters.student()]));
        forward_and_backward(step, &mut ledger);
        ledger.free(Kind::Gradients, product([sums, parameters.student()]));
        if part > 0 {
            ledger.hold_briefly([step.network.largest()]);
            ledger.free(Kind::Gradients, parameters.student());
        }
    }
    ledger.now = Moment::Optimizer;
    let workspace = match (step.moments, step.clips_each_gradient) {
        // the momentum optimizers are made of tensor operations
        (1, _) => product([3, step.network.largest()]),
        (_, true) => product([2, step.network.largest()]),
        (_, false) => 0,
    };
    ledger.hold_briefly([workspace]);
    ledger
}

/// Sums of gradients that wait beside the largest while a part is computed: `Pairwise` keeps one for each power of two in the
/// number of parts before it, at most the logarithm of all.
fn sums_beside(parts: u64) -> u64 {
    u64::from(parts.max(2).ilog2()) - 1
}

/// The teacher's targets of all parts, and what KoLeo needs of the student.
fn prepare(step: &StepSizes, ledger: &mut Ledger) {
    ledger.now = Moment::Teacher;
    let backbone = backbone(step);
    let global = &step.passes[0];
    let embedding = product([global.chosen, step.network.width]);
    let losses: Vec<Rows<'_>> = losses(step);
    // of all parts but the last, which is when most is there
    ledger.hold(Kind::Targets, product([step.parts - 1, embedding]));
    for rows in &losses {
        rows.teacher_before(ledger, step.parts);
    }
    backbone.forward_no_grad(ledger, global);
    ledger.hold(Kind::Targets, embedding);
    for rows in &losses {
        rows.teacher(ledger, step.parts);
    }
    ledger.now = Moment::Targets;
    for rows in &losses {
        rows.targets(ledger, step.parts);
    }
    if step.has_koleo && step.parts > 1 {
        ledger.now = Moment::Forward;
        let tokens = product([step.parts, global.images, step.network.width]);
        ledger.hold(Kind::Targets, tokens);
        backbone.forward_no_grad(ledger, global);
    }
}

/// A part of the batch.
fn forward_and_backward(step: &StepSizes, ledger: &mut Ledger) {
    let backbone = backbone(step);
    let losses = losses(step);
    ledger.now = Moment::Forward;
    for pass in &step.passes {
        backbone.forward(ledger, pass);
    }
    for rows in &losses {
        rows.forward(ledger);
    }
    // visible patches share the head of masked ones
    let has_gradients = |number: usize| {
        let head = |number: usize| &step.losses[number].head;
        (0..number).any(|before| head(before) == head(number))
    };
    ledger.now = Moment::Losses;
    for (number, rows) in losses.iter().enumerate() {
        rows.loss_backward(ledger, has_gradients(number));
    }
    ledger.now = Moment::HeadsBackward;
    for (number, rows) in losses.iter().enumerate() {
        rows.head_backward(ledger, has_gradients(number));
    }
    backbone.backward(ledger, &step.passes);
}

fn backbone(step: &StepSizes) -> Backbone<'_> {
    Backbone {
        network: &step.network,
        is_checkpointed: step.is_checkpointed,
        has_halves: step.has_halves,
    }
}

fn losses(step: &StepSizes) -> Vec<Rows<'_>> {
    let losses = step.losses.iter();
    losses
        .map(|rows| Rows::new(&step.network, *rows, step.has_halves))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::LogitLimits;
    use crate::train::RunConfig;
    use crate::train::plan::sizes::MemorySavers;
    use crate::train::presets::{preset, preset_names};

    fn sizes(
        config: &RunConfig,
        micro_batch_size: Option<usize>,
        checkpointing: bool,
    ) -> StepSizes {
        let savers = MemorySavers {
            micro_batch_size,
            grad_checkpointing: checkpointing,
        };
        let limits = |_| LogitLimits::new(None, usize::MAX);
        StepSizes::of(config, savers, &limits).unwrap()
    }

    /// Everything that a step holds it lets go of, but for the states and one gradient of each parameter.
    #[test]
    fn a_step_ends_with_its_gradients() {
        for name in preset_names() {
            let config = preset(name).unwrap().resolved().unwrap();
            for (micro, checkpointing, has_halves) in [
                (None, false, false),
                (None, false, true),
                (Some(3), true, false),
                (Some(3), true, true),
                (Some(5), false, false),
            ] {
                let sizes = StepSizes {
                    has_halves,
                    ..sizes(&config, micro, checkpointing)
                };
                let live = walk(&sizes).live;
                let student = 4 * sizes.network.parameters.student();
                let left = (live.activations, live.workspace, live.gradients);
                assert_eq!(left, (0, 0, student), "{name} {micro:?} {checkpointing}");
                assert_eq!(live.student, student);
            }
        }
    }

    #[test]
    fn parts_and_checkpointing_save_memory() {
        let config = RunConfig::default();
        let peak = |micro, checkpointing| walk(&sizes(&config, micro, checkpointing)).peak.total();
        assert!(peak(Some(16), false) < peak(Some(32), false));
        assert!(peak(Some(32), false) < peak(None, false));
        assert!(peak(None, true) < peak(None, false) / 2);
        assert!(peak(Some(16), true) < peak(Some(16), false));
    }
}
