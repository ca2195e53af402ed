//! Self-distillation on class tokens across views (DINO, arXiv 2104.14294, equation 3).

use burn::tensor::Tensor;

use crate::kernels::{IbotBackend, Logits, Pairing};
use crate::method::losses::teacher_targets::{TeacherTargets, cross_entropy};

/// What [`cls_loss`] takes. Views are in the same order for both networks: view `v` of each is one crop.
#[derive(Debug, Clone)]
pub struct ClsLossInput<B: IbotBackend> {
    /// Student logits of all views, view by view, `[(G + L) B, K]`.
    pub student: Logits<B>,
    /// Targets of the global views, view by view, `[G B, K]`.
    pub targets: TeacherTargets<B>,
    /// Number B of images.
    pub images: usize,
    /// Number of images in the mean: B, or the whole batch if these are a part of it.
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
    // each student view is paired with each teacher view except itself; `max(1)` avoids 0 / 0 without pairs
    // (one global view and no local ones), when no row contributes anyway
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
