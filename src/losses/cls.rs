//! Self-distillation on class tokens across views (DINO, arXiv 2104.14294, equation 3).

use burn::tensor::Tensor;

use crate::kernels::{CrossEntropyInput, IbotBackend, TargetPotentials};

/// What [`cls_loss`] takes; views are in the same order for both networks, so that view `v` of each is one crop.
#[derive(Debug, Clone)]
pub struct ClsLossInput<B: IbotBackend> {
    /// Student logits of all views, `[S, B, K]`.
    pub student_logits: Tensor<B, 3>,
    /// Teacher logits of the global views, `[T, B, K]`, T <= S.
    pub teacher_logits: Tensor<B, 3>,
    /// Potentials of the teacher's T*B rows, view by view.
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
    let [student_views, batch, prototypes] = input.student_logits.dims();
    let [teacher_views, ..] = input.teacher_logits.dims();
    let device = input.student_logits.device();
    let pairs = student_views * teacher_views - student_views.min(teacher_views);
    let rows_of = |logits: &Tensor<B, 3>, view: usize| {
        let logits = logits.clone().narrow(0, view, 1);
        logits.reshape([batch, prototypes])
    };
    let mut total = Tensor::zeros([1], &device);
    for teacher_view in 0..teacher_views {
        let (start, end) = (teacher_view * batch, (teacher_view + 1) * batch);
        for student_view in (0..student_views).filter(|view| *view != teacher_view) {
            total = total
                + B::cross_entropy(CrossEntropyInput {
                    student_logits: rows_of(&input.student_logits, student_view),
                    teacher_logits: rows_of(&input.teacher_logits, teacher_view),
                    potentials: input.potentials.rows(start, end),
                    row_weights: Tensor::full([batch], 1.0 / (pairs * batch) as f64, &device),
                    student_temperature: input.student_temperature,
                });
        }
    }
    total
}
