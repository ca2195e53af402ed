//! Exponential moving average of the teacher's parameters.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata};

use crate::kernels::ops::adamw::unless;
use crate::kernels::wrap::{flat, shaped};

/// `teacher * decay + student * (1 - decay)`, tensor by tensor; `teacher` where `grad_scale` is 0.
///
/// Source: `TeacherStudentWrapper.update_teacher` in stable_pretraining/backbone/utils.py.
pub fn reference<B: Backend>(
    teacher: Vec<FloatTensor<B>>,
    student: Vec<FloatTensor<B>>,
    decay: f64,
    grad_scale: Option<Tensor<B, 1>>,
) -> Vec<FloatTensor<B>> {
    let stays = grad_scale.map(|grad_scale| grad_scale.equal_elem(0.0));
    teacher
        .into_iter()
        .zip(student)
        .map(|(teacher, student)| {
            let shape = teacher.shape();
            if shape.num_elements() == 0 {
                return teacher;
            }
            let (teacher, student) = (flat::<B>(teacher), flat::<B>(student));
            let moved = teacher.clone() * decay + student * (1.0 - decay);
            shaped::<B>(unless(stays.as_ref(), teacher, moved), shape)
        })
        .collect()
}
