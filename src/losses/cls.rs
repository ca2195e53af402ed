//! Self-distillation on class tokens across views (DINO, arXiv 2104.14294, equation 3).

use burn::tensor::Tensor;

use crate::kernels::{
    CrossEntropyInput, IbotBackend, Pairing, StreamedInput, StreamedLogits, StreamedTargets,
    TargetPotentials,
};

/// Class-token logits of some images; views are in the same order for both networks, so that view `v` of each is one
/// crop.
#[derive(Debug, Clone)]
pub struct ClsLogits<B: IbotBackend> {
    /// Student logits of all views, `[S, B_p, K]`.
    pub student: Tensor<B, 3>,
    /// Teacher logits of the global views, `[T, B_p, K]`, T <= S.
    pub teacher: Tensor<B, 3>,
}

/// What [`cls_loss`] takes.
#[derive(Debug, Clone)]
pub struct ClsLossInput<B: IbotBackend> {
    /// Logits of all images, in one or more parts (one, unless a single tensor is too large for the device:
    /// [`IbotBackend::max_logit_rows`]).
    pub logits: Vec<ClsLogits<B>>,
    /// Potentials of the teacher's rows: part by part, in a part view by view.
    pub potentials: TargetPotentials<B>,
    /// Student temperature.
    pub student_temperature: f64,
}

/// Mean cross-entropy over the images and over all pairs of different views; zero where there is no such pair.
///
/// Source: `DINOv1Loss.forward` in stable_pretraining/losses/dino.py, `DINOLoss.forward` in lightly.
///
/// # Shapes
/// See [`ClsLossInput`]; -> `[1]`.
pub fn cls_loss<B: IbotBackend>(input: ClsLossInput<B>) -> Tensor<B, 1> {
    let device = input.potentials.of_rows.device();
    let images = input.logits.iter().map(|part| part.student.dims()[1]);
    let all_images: usize = images.sum();
    let mut start = 0;
    let losses = input.logits.into_iter().map(|part| {
        let [student_views, images, prototypes] = part.student.dims();
        let [teacher_views, ..] = part.teacher.dims();
        let end = start + teacher_views * images;
        let weight = weight_of_pair(student_views, teacher_views, all_images);
        let loss = B::cross_entropy(&CrossEntropyInput {
            student_logits: part.student.reshape([student_views * images, prototypes]),
            teacher_logits: part.teacher.reshape([teacher_views * images, prototypes]),
            potentials: input.potentials.rows(start, end),
            pairing: Pairing::OtherViews { images },
            row_weights: Tensor::full([student_views * images], weight, &device),
            student_temperature: input.student_temperature,
        });
        start = end;
        loss.loss
    });
    losses
        .reduce(|sum, part| sum + part)
        .unwrap_or_else(|| Tensor::zeros([1], &device))
}

/// What [`streamed_cls_loss`] takes; views are in the same order for both networks.
#[derive(Debug, Clone)]
pub struct StreamedClsLossInput<B: IbotBackend> {
    /// Student logits of all views, view by view, S B rows.
    pub student: StreamedLogits<B>,
    /// Targets of the global views, view by view, T B rows, T <= S.
    pub targets: StreamedTargets<B>,
    /// Number B of images.
    pub images: usize,
    /// Student temperature.
    pub student_temperature: f64,
}

/// [`cls_loss`] of logits that are never stored.
///
/// # Shapes
/// See [`StreamedClsLossInput`]; -> `[1]`.
pub fn streamed_cls_loss<B: IbotBackend>(input: StreamedClsLossInput<B>) -> Tensor<B, 1> {
    let images = input.images;
    let rows = [input.student.rows(), input.targets.teacher.rows()];
    let [student_views, teacher_views] = rows.map(|rows| rows / images);
    let weight = weight_of_pair(student_views, teacher_views, images);
    let device = input.student.unit.device();
    let loss = B::streamed_cross_entropy(&StreamedInput {
        row_weights: Tensor::full([student_views * images], weight, &device),
        pairing: Pairing::OtherViews { images },
        student: input.student,
        targets: input.targets,
        student_temperature: input.student_temperature,
    });
    loss.loss
}

/// One over the pairs of different views of all images; at least one: without pairs there is nothing to weigh.
fn weight_of_pair(student_views: usize, teacher_views: usize, images: usize) -> f64 {
    let pairs = (student_views * teacher_views - student_views.min(teacher_views)).max(1);
    1.0 / (pairs * images) as f64
}
