//! Moving average of the teacher's logits.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::IbotBackend;

/// The center that DINO takes off the teacher's logits.
///
/// Source: `DINOv1Loss` in stable_pretraining/losses/dino.py (no center at first, the first update sets it) and
/// `Center` in lightly/models/modules/center.py (zero at first).
#[derive(Debug, Clone)]
pub struct Center<B: Backend> {
    value: Option<Tensor<B, 1>>,
    momentum: f64,
}

impl<B: Backend> Center<B> {
    /// No center until the first update, which sets it to its batch's mean.
    pub fn unset(momentum: f64) -> Self {
        Self {
            value: None,
            momentum,
        }
    }

    /// A center of zeros, which the first update moves by momentum.
    pub fn zeros(prototypes: usize, momentum: f64, device: &B::Device) -> Self {
        Self {
            value: Some(Tensor::zeros([prototypes], device)),
            momentum,
        }
    }

    /// Its value, `[K]`; none before the first update of an unset center.
    pub fn value(&self) -> Option<Tensor<B, 1>> {
        self.value.clone()
    }

    /// Puts a value in place of its own, `[K]`.
    pub fn set(&mut self, value: Tensor<B, 1>) {
        self.value = Some(value);
    }

    /// [`Center::update_unless`] by the mean of the batch's logits, `[K]`.
    pub fn move_to(&mut self, mean: Tensor<B, 1>, gate: Option<Tensor<B, 1>>) {
        let [prototypes] = mean.dims();
        self.value = Some(match self.value.take() {
            Some(center) => {
                let moved = center.clone() * self.momentum + mean * (1.0 - self.momentum);
                match gate {
                    Some(gate) => {
                        moved.mask_where(gate.equal_elem(0.0).expand([prototypes]), center)
                    }
                    None => moved,
                }
            }
            None => mean,
        });
    }

    /// No center again, until the next update.
    pub fn unset_value(&mut self) {
        self.value = None;
    }
}

impl<B: IbotBackend> Center<B> {
    /// `center * momentum + mean * (1 - momentum)`, with the mean over all rows; no rows change nothing.
    ///
    /// # Shapes
    /// `teacher_logits`: parts `[M_p, K]` of the rows.
    pub fn update(&mut self, teacher_logits: &[Tensor<B, 2>]) {
        self.update_unless(teacher_logits, None);
    }

    /// [`Center::update`], but where `gate` is 0 a center that has a value keeps it.
    ///
    /// # Shapes
    /// `gate` `[1]` or none.
    pub fn update_unless(&mut self, teacher_logits: &[Tensor<B, 2>], gate: Option<Tensor<B, 1>>) {
        let rows: usize = teacher_logits.iter().map(|part| part.dims()[0]).sum();
        let filled = teacher_logits.iter().filter(|part| part.dims()[0] > 0);
        let sums = filled.map(|part| B::column_sums(part.clone()));
        let Some(sum) = sums.reduce(|sum, part| sum + part) else {
            return;
        };
        self.move_to(sum / rows as f64, gate);
    }
}
