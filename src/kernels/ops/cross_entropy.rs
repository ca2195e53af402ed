//! Cross-entropy between teacher targets and the student's softmax.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::kernels::ops::target_potentials::TargetPotentials;
use crate::kernels::ops::target_potentials::{pairs_of, shifts_and_logs};

/// Which teacher rows a student row is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Row i of the student with row i of the teacher: masked patches.
    SameRow,
    /// Both have `images` rows a view, view by view; a student row is compared with its image in all *other* views of
    /// the teacher: class tokens. The views that both have come first.
    OtherViews {
        /// Rows of one view.
        images: usize,
    },
}

/// What [`crate::kernels::IbotBackend::cross_entropy`] takes.
#[derive(Debug, Clone)]
pub struct CrossEntropyInput<B: Backend> {
    /// Student logits, `[M, K]`.
    pub student_logits: Tensor<B, 2>,
    /// Teacher logits, `[M, K]`, or `[G B, K]` of B images with [`Pairing::OtherViews`]; no gradient flows into them.
    pub teacher_logits: Tensor<B, 2>,
    /// Potentials that make the targets of the teacher logits.
    pub potentials: TargetPotentials<B>,
    /// Which rows belong together.
    pub pairing: Pairing,
    /// Weight of each student row in the sum, `[M]`: 1/M for a plain mean.
    pub row_weights: Tensor<B, 1>,
    /// Student temperature.
    pub student_temperature: f64,
}

/// The loss, and the log-sum-exp of each student row as maximum and rest: what the backward pass needs beside the input.
#[derive(Debug, Clone)]
pub struct CrossEntropyOutput<B: Backend> {
    /// `[1]`.
    pub loss: Tensor<B, 1>,
    /// Of each row of `student_logits / temperature` the largest entry `max_i`, and
    /// `log sum_j exp(student_logits_ij / temperature - max_i)`, side by side, `[M, 2]`.
    pub of_rows: Tensor<B, 2>,
}

impl Pairing {
    /// Views of student and teacher, and rows of one view.
    fn views(self, [student_rows, teacher_rows]: [usize; 2]) -> [usize; 3] {
        match self {
            Self::SameRow => [1, 1, student_rows],
            Self::OtherViews { images } => {
                let views = |rows: usize| rows.checked_div(images).unwrap_or(0);
                [views(student_rows), views(teacher_rows), images]
            }
        }
    }

    /// Of `teacher_views`, those that a student view is compared with.
    fn targets_of(self, student_view: usize, teacher_views: usize) -> Vec<usize> {
        let other = |view: &usize| self == Self::SameRow || *view != student_view;
        (0..teacher_views).filter(other).collect()
    }

    /// What the teacher's rows say, summed over those that each of `student_rows` is compared with.
    ///
    /// # Shapes
    /// `[M, n]`, or `[G B, n]` of B images with [`Pairing::OtherViews`] -> `[M, n]`.
    pub(in crate::kernels) fn paired<B: Backend>(
        self,
        of_teacher: Tensor<B, 2>,
        student_rows: usize,
    ) -> Tensor<B, 2> {
        if self == Self::SameRow {
            return of_teacher;
        }
        let [teacher_rows, width] = of_teacher.dims();
        let [student_views, teacher_views, images] = self.views([student_rows, teacher_rows]);
        let none = || Tensor::zeros([images, width], &of_teacher.device());
        let of_view = |student_view| {
            let views = self.targets_of(student_view, teacher_views).into_iter();
            let parts = views.map(|view| of_teacher.clone().narrow(0, view * images, images));
            parts.reduce(|sum, part| sum + part).unwrap_or_else(none)
        };
        Tensor::cat((0..student_views).map(of_view).collect(), 0)
    }
}

impl<B: Backend> CrossEntropyInput<B> {
    /// Views of student and teacher, and rows of one view.
    pub(in crate::kernels) fn views(&self) -> [usize; 3] {
        let rows = [&self.student_logits, &self.teacher_logits].map(|logits| logits.dims()[0]);
        self.pairing.views(rows)
    }

    /// Teacher views that a student view is compared with.
    pub(in crate::kernels) fn targets_of(&self, student_view: usize) -> Vec<usize> {
        let [_, teacher_views, _] = self.views();
        self.pairing.targets_of(student_view, teacher_views)
    }

    /// Panics where shapes do not belong together; a kernel would read beyond its buffers.
    pub(in crate::kernels) fn check(&self) {
        let [rows, prototypes] = self.student_logits.dims();
        let [teacher_rows, teacher_prototypes] = self.teacher_logits.dims();
        let [student_views, teacher_views, images] = self.views();
        assert_eq!(
            (rows, teacher_rows),
            (student_views * images, teacher_views * images),
            "{rows} student and {teacher_rows} teacher rows do not fit {:?}",
            self.pairing
        );
        assert_eq!(prototypes, teacher_prototypes, "prototypes must agree");
        self.potentials.check([teacher_rows, prototypes]);
        assert_eq!(self.row_weights.dims(), [rows], "one weight a student row");
    }

    /// The targets of each student row, summed over the teacher views, `[M, K]`.
    fn paired_targets(&self) -> Tensor<B, 2> {
        let targets = self.potentials.targets(self.teacher_logits.clone());
        let [student_rows, _] = self.student_logits.dims();
        self.pairing.paired(targets, student_rows)
    }

    /// How many targets each student row has, `[M, 1]`: what they sum to.
    fn target_counts(&self) -> Tensor<B, 2> {
        let [student_views, _, images] = self.views();
        let counts: Vec<f32> = (0..student_views)
            .flat_map(|view| std::iter::repeat_n(self.targets_of(view).len() as f32, images))
            .collect();
        let rows = counts.len();
        Tensor::from_data(
            TensorData::new(counts, [rows, 1]),
            &self.row_weights.device(),
        )
    }
}

/// `sum_i w_i * -sum_j q_ij log softmax(s_i / temperature)_j`.
pub fn reference<B: Backend>(input: &CrossEntropyInput<B>) -> CrossEntropyOutput<B> {
    input.check();
    let [rows, _] = input.student_logits.dims();
    if rows == 0 {
        let device = input.row_weights.device();
        return CrossEntropyOutput {
            loss: Tensor::zeros([1], &device),
            of_rows: Tensor::zeros([0, 2], &device),
        };
    }
    let logits = input.student_logits.clone() / input.student_temperature;
    let row_max = logits.clone().max_dim(1);
    let shifted = logits - row_max.clone();
    let row_lse = shifted.clone().exp().sum_dim(1).log();
    let log_probs = shifted - row_lse.clone();
    // [M, K] -> [M, 1]; no full `sum`: on wgpu it adds with atomics, in any order
    let losses = (input.paired_targets() * log_probs).sum_dim(1);
    let weights = input.row_weights.clone().unsqueeze_dim(1);
    CrossEntropyOutput {
        loss: -(losses * weights).sum_dim(0).reshape([1]),
        of_rows: pairs_of(row_max, row_lse),
    }
}

/// `d_loss w_i / temperature * (softmax(s_i / temperature)_j - q_ij)`, for each target of row i.
pub fn reference_backward<B: Backend>(
    input: &CrossEntropyInput<B>,
    output: CrossEntropyOutput<B>,
    d_loss: Tensor<B, 1>,
) -> Tensor<B, 2> {
    let [rows, _] = input.student_logits.dims();
    if rows == 0 {
        return input.student_logits.clone();
    }
    let logits = input.student_logits.clone() / input.student_temperature;
    let [row_max, row_lse] = shifts_and_logs(output.of_rows);
    let probs = (logits - row_max - row_lse).exp();
    let d_rows = input.row_weights.clone() * d_loss / input.student_temperature;
    (probs * input.target_counts() - input.paired_targets()) * d_rows.unsqueeze_dim(1)
}
