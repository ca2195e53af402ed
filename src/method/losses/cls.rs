//! Self-distillation on class tokens across views (DINO, arXiv 2104.14294, equation 3).

use burn::tensor::Tensor;

use crate::kernels::{IbotBackend, Logits, Pairing};
use crate::method::losses::targets::{TeacherTargets, cross_entropy};

/// What [`cls_loss`] takes. Views are in the same order for both networks: view `v` of each is one crop.
#[derive(Debug, Clone)]
pub struct ClsLossInput<B: IbotBackend> {
    /// Student logits of all S views, view by view, `[S B, K]`.
    pub student: Logits<B>,
    /// Targets of the T global views, view by view, `[T B, K]`, T <= S.
    pub targets: TeacherTargets<B>,
    /// Number B of images.
    pub images: usize,
    /// Images that the mean is over: B, or all of a batch of which these are a part.
    pub batch: usize,
    /// Student temperature.
    pub student_temperature: f64,
}

/// Mean cross-entropy over the images and over all pairs of different views; zero where there is no such pair.
///
/// A view is not compared with itself: the student would have nothing to predict that it does not see.
///
/// Source: `DINOv1Loss.forward` in stable_pretraining/losses/dino.py, `DINOLoss.forward` in lightly.
///
/// # Shapes
/// See [`ClsLossInput`]; -> `[1]`.
pub fn cls_loss<B: IbotBackend>(input: ClsLossInput<B>) -> Tensor<B, 1> {
    let (rows, images) = (input.student.rows(), input.images);
    let [student_views, teacher_views] = [rows, input.targets.rows()].map(|rows| rows / images);
    // at least one: without pairs there is nothing to weigh
    let pairs = (student_views * teacher_views - student_views.min(teacher_views)).max(1);
    let weight = 1.0 / (pairs * input.batch) as f64;
    let device = input.student.bottleneck.device();
    cross_entropy(
        input.student,
        input.targets,
        Pairing::OtherViews { images },
        Tensor::full([rows], weight, &device),
        input.student_temperature,
    )
}
