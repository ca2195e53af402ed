//! What shows whether training is healthy, without labels: the teacher's targets, its features, and the student beside it.

use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::rows::most_logit_rows;
use super::targets::HeadRows;
use super::{Ibot, IbotInput};
use crate::backbone::{Backbone, TrainBackbone};
use crate::error::Result;
use crate::kernels::{TargetPotentials, TrainBackend};

/// Keeps the logarithm of a target of 0 finite.
const LOG_EPS: f64 = 1e-12;
/// Keeps the norm of a feature of zeros above 0.
const NORM_EPS: f64 = 1e-12;

/// What the teacher's targets of one head look like, each `[1]`.
#[derive(Debug, Clone)]
pub struct TargetProbe<B: Backend> {
    /// Mean entropy of a row's targets, in nats: 0 for one sure prototype, `ln K` for all alike.
    pub entropy: Tensor<B, 1>,
    /// Entropy of the mean of all rows' targets, in nats: 0 where all rows have one prototype.
    pub entropy_of_mean: Tensor<B, 1>,
    /// Largest magnitude of a logit.
    pub largest_logit: Tensor<B, 1>,
}

/// What one batch shows, on the device.
#[derive(Debug, Clone)]
pub struct Probe<B: Backend> {
    /// Targets of the class tokens.
    pub cls: TargetProbe<B>,
    /// Targets of the masked patches; none without a masked patch.
    pub patch: Option<TargetProbe<B>>,
    /// Share of the views whose likeliest prototype is the same in student and teacher, `[1]`.
    pub agreement: Tensor<B, 1>,
    /// Deviation of the teacher's unit class tokens over the batch, times the root of their width: 0 where all pictures
    /// look alike, about 1 where they spread over the sphere (SimSiam, arXiv 2011.10566, section 4.1). `[1]`.
    pub feature_std: Tensor<B, 1>,
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// Looks at a batch and changes nothing. Costs a forward of both networks.
    ///
    /// # Errors
    /// As [`Ibot::targets`].
    pub fn probe(&self, input: &IbotInput<'_, B>) -> Result<Probe<B::InnerBackend>> {
        let targets = self.targets(std::slice::from_ref(input))?;
        let part = &targets.parts[0];
        let images = Tensor::cat(input.global_views.to_vec(), 0);
        let student = self
            .student
            .network
            .backbone
            .valid()
            .tokens(images, None)
            .cls;
        let device = student.device();
        let views = input.global_views.len();
        let most = most_logit_rows::<B>(self.config.n_cls_prototypes, views, &device)?;
        let head = self.student.network.cls_head.valid();
        let student = HeadRows::new(&head, &student, part.batch, most / views);
        let of_patches = targets.masked.as_ref();
        Ok(Probe {
            cls: probe_targets(&part.of_cls, &targets.cls),
            patch: of_patches.map(|potentials| probe_targets(&part.of_masked, potentials)),
            agreement: agreement(&student, &part.of_cls, &device),
            feature_std: feature_std(part.cls.clone()),
        })
    }
}

fn probe_targets<B: Backend>(
    rows: &HeadRows<B>,
    potentials: &TargetPotentials<B>,
) -> TargetProbe<B> {
    let total = rows.rows() as f64;
    let mut start = 0;
    let mut sums: Option<[Tensor<B, 1>; 3]> = None; // entropy, targets by prototype, largest logit
    for logits in &rows.teacher_logits {
        let [count, prototypes] = logits.dims();
        let targets = potentials
            .rows(start, start + count)
            .targets(logits.clone());
        start += count;
        let entropy = (targets.clone() * (targets.clone() + LOG_EPS).log()).neg();
        let found = [
            entropy.sum_dim(1).sum_dim(0).reshape([1]),
            targets.sum_dim(0).reshape([prototypes]),
            logits.clone().abs().max_dim(1).max_dim(0).reshape([1]),
        ];
        sums = Some(match sums {
            None => found,
            Some([entropy, mean, largest]) => {
                let [more_entropy, more_mean, other] = found;
                let largest = Tensor::cat(vec![largest, other], 0).max();
                [entropy + more_entropy, mean + more_mean, largest]
            }
        });
    }
    let zero = || Tensor::zeros([1], &potentials.row_log.device());
    let [entropy, mean, largest_logit] = sums.unwrap_or_else(|| [zero(), zero(), zero()]);
    let mean = mean / total.max(1.0);
    TargetProbe {
        entropy: entropy / total.max(1.0),
        entropy_of_mean: (mean.clone() * (mean + LOG_EPS).log()).neg().sum_dim(0),
        largest_logit,
    }
}

/// Share of rows with the same likeliest prototype in both.
fn agreement<B: Backend>(
    student: &HeadRows<B>,
    teacher: &HeadRows<B>,
    device: &B::Device,
) -> Tensor<B, 1> {
    let pairs = student.teacher_logits.iter().zip(&teacher.teacher_logits);
    let same = pairs.map(|(student, teacher)| {
        let same = student.clone().argmax(1).equal(teacher.clone().argmax(1));
        same.float().sum_dim(0).reshape([1])
    });
    let all = same.reduce(|sum, next| sum + next);
    let rows = teacher.rows().max(1) as f64;
    all.map_or_else(|| Tensor::zeros([1], device), |all| all / rows)
}

fn feature_std<B: Backend>(features: Tensor<B, 2>) -> Tensor<B, 1> {
    let [rows, width] = features.dims();
    let norms = features.clone().powi_scalar(2).sum_dim(1).sqrt();
    let unit = features / (norms + NORM_EPS);
    let mean = unit.clone().sum_dim(0) / rows as f64;
    let variance = (unit - mean).powi_scalar(2).sum_dim(0) / rows as f64;
    let deviation = variance.sqrt().sum_dim(1).reshape([1]) / width as f64;
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
        let probe = |logits: [[f32; 2]; 2]| {
            let logits = Tensor::<Flex, 2>::from_floats(logits, &device);
            let rows = HeadRows {
                spans: vec![0..1, 1..2],
                teacher_logits: vec![
                    logits.clone().narrow(0, 0, 1),
                    logits.clone().narrow(0, 1, 1),
                ],
            };
            let potentials = crate::kernels::IbotBackend::centered_potentials(&[logits], None, 0.1);
            let found = probe_targets(&rows, &potentials);
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
        close(probe([[9.0, 0.0], [0.0, -9.0]]), [0.0, 0.0, 9.0]); // all on one prototype
        close(probe([[9.0, 0.0], [-9.0, 0.0]]), [0.0, ln_2, 9.0]); // each on its own
        close(probe([[1.0, 1.0], [0.0, 0.0]]), [ln_2, ln_2, 1.0]); // uniform
    }
}
