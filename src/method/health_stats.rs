//! Health statistics without labels: the teacher's targets, its features, and the student's agreement with it.

use std::ops::Range;

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use crate::backbone::{Backbone, TrainBackbone};
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, Logits, TiledTargets, TrainBackend, tile_columns};
use crate::method::config::TargetKind;
use crate::method::ibot::Ibot;
use crate::method::losses::tiled_targets;
use crate::method::terms::IbotInput;

/// Keeps the logarithm of a target of 0 finite.
const LOG_EPS: f64 = 1e-12;
/// Keeps the norm of a feature of zeros above 0.
const NORM_EPS: f64 = 1e-12;

/// Statistics of the teacher's targets of one head, each `[1]`.
#[derive(Debug, Clone)]
pub struct TargetStats<B: Backend> {
    /// Mean entropy of a row's targets, in nats: 0 for one sure prototype, `ln K` for all alike.
    pub entropy: Tensor<B, 1>,
    /// Entropy of the mean of all rows' targets, in nats: 0 where all rows have one prototype.
    pub entropy_of_mean: Tensor<B, 1>,
    /// Largest magnitude of a logit.
    pub largest_logit: Tensor<B, 1>,
}

/// Health statistics of one batch, on the device.
#[derive(Debug, Clone)]
pub struct HealthStats<B: Backend> {
    /// Number of images.
    pub images: usize,
    /// Targets of the class tokens.
    pub cls: TargetStats<B>,
    /// Targets of the masked patches; none without a masked patch.
    pub patch: Option<TargetStats<B>>,
    /// Share of the views whose likeliest prototype is the same in the student's logits as in the teacher's, after centering where there
    /// is a center, `[1]`.
    pub agreement: Tensor<B, 1>,
    /// Deviation of the teacher's unit class tokens over the batch, times the root of their width: 0 where all images
    /// look alike, about 1 where they spread over the sphere (SimSiam, arXiv 2011.10566, section 4.1). `[1]`.
    pub feature_std: Tensor<B, 1>,
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// Health statistics of a batch; changes nothing. Costs a forward pass of both networks; logits are computed in tiles.
    ///
    /// # Errors
    /// As [`Ibot::prepare`].
    pub fn health_stats(&self, input: &IbotInput<B>) -> Result<HealthStats<B::InnerBackend>> {
        let mut logits = self.teacher_logits(vec![input.clone()])?;
        let (count, cls_rows, masked_rows) = {
            let part = &logits.parts[0];
            let count = part.input.images();
            (count, count * part.input.views(), part.masked.len())
        };
        // always in tiles: entropies need the probabilities, which would double the memory of stored logits
        let tiled = |logits: Logits<_>, student_rows: usize, rule, temperature| {
            let rows = logits.rows().max(student_rows);
            let columns = tile_columns(rows, self.tile_entries);
            tiled_targets(logits, rule, temperature, columns)
        };
        let rule = self.rule(self.config.cls_targets, &self.center);
        let cls = logits.cls.pop().flatten();
        let cls = cls.ok_or_else(|| Error::Training("health statistics need an image".into()))?;
        let of_cls = tiled(cls, cls_rows, rule, input.temperature_cls);
        let of_masked = logits.masked.pop().flatten().map(|logits| {
            let rule = self.rule(self.config.patch_targets, &self.patch_center);
            tiled(logits, masked_rows, rule, input.temperature_patch)
        });
        let images = Tensor::cat(input.global_views.clone(), 0);
        let student = self
            .student
            .network
            .backbone
            .valid()
            .tokens(images, None) // unmasked, so that both networks get the same image
            .cls;
        let head = self.student.network.cls_head.valid();
        Ok(HealthStats {
            images: count,
            agreement: agreement(&head.logits(student), &of_cls, self.config.cls_targets),
            cls: target_stats(&of_cls),
            patch: of_masked.as_ref().map(target_stats),
            feature_std: feature_std(logits.parts[0].embedding.clone()),
        })
    }
}

fn target_stats<B: IbotBackend>(targets: &TiledTargets<B>) -> TargetStats<B> {
    let rows = targets.teacher.rows() as f64;
    let entropy = |targets: Tensor<B, 2>| {
        let terms = targets.clone() * (targets + LOG_EPS).log();
        B::column_sums(B::column_sums(terms.neg()).unsqueeze_dim(1))
    };
    let [mut of_rows, mut of_mean, mut largest] = [const { Vec::new() }; 3];
    for columns in targets.tiles() {
        let logits = targets.teacher.tile(&columns);
        largest.push(logits.clone().abs().max_dim(1).max_dim(0).reshape([1]));
        let tile = targets.potentials.columns(&columns).targets(logits);
        of_mean.push(entropy(
            B::column_sums(tile.clone()).unsqueeze_dim(0) / rows,
        ));
        of_rows.push(entropy(tile));
    }
    let sum = |terms: Vec<Tensor<B, 1>>| Tensor::cat(terms, 0).sum();
    TargetStats {
        entropy: sum(of_rows) / rows,
        entropy_of_mean: sum(of_mean),
        largest_logit: Tensor::cat(largest, 0).max_dim(0),
    }
}

/// Share of rows whose likeliest prototype is the same for student and teacher, `[1]`.
fn agreement<B: IbotBackend>(
    student: &Logits<B>,
    targets: &TiledTargets<B>,
    kind: TargetKind,
) -> Tensor<B, 1> {
    let of_student = likeliest(targets, |columns| student.tile(columns));
    let of_target = likeliest(targets, |columns| {
        let logits = targets.teacher.tile(columns);
        match kind {
            TargetKind::Centering => targets.potentials.columns(columns).targets(logits),
            // Sinkhorn-Knopp spreads so few rows over all prototypes, which says nothing of a batch
            TargetKind::Sinkhorn => logits,
        }
    });
    let same = of_student.zip(of_target);
    let same = same.map(|(student, target)| student.equal(target).float());
    let none = || Tensor::zeros([1], &student.bottleneck.device());
    same.map_or_else(none, |same| B::column_sums(same) / student.rows() as f64)
}

/// The column with the largest entry of each row, `[R, 1]`, of a matrix that is made in the tiles of `targets`; none without columns.
fn likeliest<B: IbotBackend>(
    targets: &TiledTargets<B>,
    tile: impl Fn(&Range<usize>) -> Tensor<B, 2>,
) -> Option<Tensor<B, 2, Int>> {
    let mut best: Option<(Tensor<B, 2>, Tensor<B, 2, Int>)> = None;
    for columns in targets.tiles() {
        let tile = tile(&columns);
        let (value, at) = (tile.clone().max_dim(1), tile.argmax(1));
        let at = at + columns.start as i64;
        best = Some(match best {
            None => (value, at),
            Some((before, place)) => {
                let is_better = value.clone().greater(before.clone());
                (before.max_pair(value), place.mask_where(is_better, at))
            }
        });
    }
    best.map(|(_, at)| at)
}

fn feature_std<B: IbotBackend>(features: Tensor<B, 2>) -> Tensor<B, 1> {
    let [rows, width] = features.dims();
    let norms = features.clone().powi_scalar(2).sum_dim(1).sqrt();
    let unit = features / (norms + NORM_EPS);
    let mean = B::column_sums(unit.clone()).unsqueeze_dim(0) / rows as f64;
    let variance = B::column_sums((unit - mean).powi_scalar(2)) / rows as f64;
    let deviation = variance.sqrt().sum() / width as f64;
    deviation * (width as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;

    fn one(tensor: Tensor<Flex, 1>) -> f64 {
        f64::from(tensor.into_scalar())
    }

    #[test]
    fn features_that_are_alike_have_no_deviation() {
        let device = Default::default();
        let alike = Tensor::<Flex, 2>::from_floats([[3.0, 4.0], [6.0, 8.0]], &device);
        assert!(one(feature_std(alike)) < 1e-6);
        let spread = Tensor::<Flex, 2>::from_floats(
            [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]],
            &device,
        );
        assert!((one(feature_std(spread)) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn targets_are_told_by_their_entropies() {
        let device = Default::default();
        let stats = |logits: [[f32; 2]; 2]| {
            let teacher = Logits {
                bottleneck: Tensor::<Flex, 2>::from_floats(logits, &device),
                prototypes: Tensor::eye(2, &device),
            };
            let found = target_stats(&TiledTargets::centered(teacher, 1, None, 0.1));
            [found.entropy, found.entropy_of_mean, found.largest_logit].map(one)
        };
        let ln_2 = std::f64::consts::LN_2;
        let close = |found: [f64; 3], expected: [f64; 3]| {
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-5;
            assert!(
                found.iter().zip(&expected).all(near),
                "{found:?}, not {expected:?}"
            );
        };
        close(stats([[9.0, 0.0], [0.0, -9.0]]), [0.0, 0.0, 9.0]); // all on one prototype
        close(stats([[9.0, 0.0], [-9.0, 0.0]]), [0.0, ln_2, 9.0]); // each on its own
        close(stats([[1.0, 1.0], [0.0, 0.0]]), [ln_2, ln_2, 1.0]); // uniform
    }
}
