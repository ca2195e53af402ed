//! Targets of a batch in parts, on one rank or several.
//!
//! A part keeps its logits and the potentials of its rows; those of the prototypes are of all rows. So the arithmetic of a
//! part does not depend on who computes it, and sums over the parts are in the order of [`Pairwise`]: the same parts have
//! targets with the same bits on any number of ranks with equally many, a power of two.

use burn::tensor::Tensor;

use crate::collective::{Collective, Pairwise, gather_counts};
use crate::error::Result;
use crate::kernels::{
    Drift, IbotBackend, Known, Logits, TargetPotentials, TiledTargets, taken_back,
};
use crate::method::losses::teacher_targets::{TargetRule, TeacherTargets};
use crate::method::tensor_collectives::{all_reduce, plus};

/// Sinkhorn iterations that need no [`Drift`].
const FEW: usize = 3;

/// Logits of a part, as they are kept.
#[derive(Debug, Clone)]
enum PartLogits<B: IbotBackend> {
    Stored(Tensor<B, 2>),
    Tiled(Logits<B>, usize),
}

impl<B: IbotBackend> PartLogits<B> {
    fn rows(&self) -> usize {
        match self {
            Self::Stored(logits) => logits.dims()[0],
            Self::Tiled(logits, _) => logits.rows(),
        }
    }

    /// Shifts and logs of the prototypes over the rows of this part, `[K, 2]`.
    fn prototypes_under(&self, of_rows: Tensor<B, 2>, temperature: f64) -> Tensor<B, 2> {
        match self {
            Self::Stored(logits) => {
                B::potentials_under(logits.clone(), Known::Rows(of_rows), temperature)
            }
            Self::Tiled(logits, columns) => {
                logits.prototype_potentials(*columns, &of_rows, temperature)
            }
        }
    }

    /// The targets of this part under potentials of the prototypes, `[K, 2]`.
    fn targets_under(&self, of_prototypes: &Tensor<B, 2>, temperature: f64) -> TeacherTargets<B> {
        match self.clone() {
            Self::Stored(logits) => {
                let known = Known::Prototypes(of_prototypes.clone());
                let potentials = TargetPotentials {
                    of_rows: B::potentials_under(logits.clone(), known, temperature),
                    of_prototypes: of_prototypes.clone(),
                    temperature,
                };
                TeacherTargets::Stored { logits, potentials }
            }
            Self::Tiled(logits, columns) => TeacherTargets::Tiled(TiledTargets::under(
                logits,
                columns,
                of_prototypes,
                temperature,
            )),
        }
    }
}

/// The targets of this rank's parts; `None` for a part without rows. Collective: every rank calls it, also one without rows. At least
/// one rank has a row.
///
/// With tiles, each Sinkhorn iteration makes the logits of a part twice, where those of an undivided batch are made once.
///
/// # Errors
/// As [`Collective`].
pub(in crate::method) fn targets_of_parts<B: IbotBackend>(
    parts: Vec<Option<Logits<B>>>,
    rule: &TargetRule<B>,
    temperature: f64,
    tile_columns: Option<usize>,
    context: &PartsContext<'_, B>,
) -> Result<Vec<Option<TeacherTargets<B>>>> {
    let iterations = match rule {
        TargetRule::Sinkhorn(iterations) => *iterations,
        // each row for itself
        TargetRule::Centering(_) => {
            let alone =
                |logits| TeacherTargets::new(logits, rule.clone(), temperature, tile_columns);
            return Ok(parts.into_iter().map(|part| part.map(alone)).collect());
        }
    };
    let kept = |logits: Logits<B>| match tile_columns {
        None => PartLogits::Stored(logits.stored()),
        Some(columns) => PartLogits::Tiled(logits, columns),
    };
    let parts: Vec<Option<PartLogits<B>>> = parts.into_iter().map(|part| part.map(kept)).collect();
    let no_rows = |part: &PartLogits<B>| Tensor::zeros([part.rows(), 2], context.device);
    let mut of_rows: Vec<_> = parts
        .iter()
        .map(|part| part.as_ref().map(no_rows))
        .collect();
    let mut found = Vec::new();
    let rows = parts.iter().flatten().map(PartLogits::rows).sum();
    let mut drift = Drift::new(rows_of_all(rows, iterations, context)?, context.prototypes);
    for iteration in 0..iterations {
        if iteration > 0 {
            let back = drift.after_iteration();
            let taken = of_rows
                .into_iter()
                .map(|rows| Some(taken_back(rows?, back)));
            of_rows = taken.collect();
        }
        let pairs = parts.iter().zip(of_rows).map(|(part, of_rows)| {
            let (part, of_rows) = (part.as_ref()?, of_rows?);
            Some(part.prototypes_under(of_rows, temperature))
        });
        let of_prototypes = joined(pairs.collect(), temperature, context)?;
        let under = |part: &PartLogits<B>| part.targets_under(&of_prototypes, temperature);
        found = parts.iter().map(|part| part.as_ref().map(under)).collect();
        of_rows = found
            .iter()
            .map(|part| part.as_ref().map(rows_of))
            .collect();
    }
    Ok(found)
}

/// What all parts of a batch share.
pub(in crate::method) struct PartsContext<'a, B: IbotBackend> {
    pub ranks: &'a dyn Collective,
    /// Number K of prototypes.
    pub prototypes: usize,
    pub device: &'a B::Device,
}

/// Rows on all ranks, for [`Drift`]. Up to [`FEW`] iterations do not drift out of range: they skip the exchange and get the number of
/// prototypes, with which the drift is 0.
fn rows_of_all<B: IbotBackend>(
    own: usize,
    iterations: usize,
    context: &PartsContext<'_, B>,
) -> Result<usize> {
    if iterations <= FEW {
        return Ok(context.prototypes);
    }
    let of_ranks = gather_counts(context.ranks, [own])?;
    Ok(of_ranks.iter().map(|[rows]| rows).sum())
}

fn rows_of<B: IbotBackend>(targets: &TeacherTargets<B>) -> Tensor<B, 2> {
    match targets {
        TeacherTargets::Stored { potentials, .. } => potentials.of_rows.clone(),
        TeacherTargets::Tiled(targets) => targets.potentials.of_rows.clone(),
    }
}

/// Potentials of the prototypes over the rows of all parts, from those over the rows of each, `[K, 2]`.
fn joined<B: IbotBackend>(
    parts: Vec<Option<Tensor<B, 2>>>,
    temperature: f64,
    context: &PartsContext<'_, B>,
) -> Result<Tensor<B, 2>> {
    let column = |pairs: &Tensor<B, 2>, of: usize| pairs.clone().narrow(1, of, 1); // [K, 1]
    let shape = [context.prototypes, 1];
    let shifts = parts.iter().flatten().map(|pairs| column(pairs, 0));
    let shift = shifts.reduce(Tensor::max_pair);
    let none = || Tensor::full(shape, f32::NEG_INFINITY, context.device);
    let shift = shift.unwrap_or_else(none);
    let shift = all_reduce(shift, context.ranks, crate::collective::all_reduce_max)?;
    let mut sum = Pairwise::default();
    for part in parts {
        let of_part = part.map(|pairs| {
            let smaller = (column(&pairs, 0) - shift.clone()) / temperature;
            (column(&pairs, 1) + smaller).exp()
        });
        sum.push(of_part, plus);
    }
    let none = || Tensor::zeros(shape, context.device);
    let sum = sum.finish(plus).flatten().unwrap_or_else(none);
    let sum = all_reduce(sum, context.ranks, crate::collective::all_reduce_sum)?;
    Ok(Tensor::cat(vec![shift, sum.log()], 1))
}
