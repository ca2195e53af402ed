//! Exponential moving average of the teacher's parameters.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

/// `teacher * decay + student * (1 - decay)`, tensor by tensor.
///
/// Source: `TeacherStudentWrapper.update_teacher` in stable_pretraining/backbone/utils.py.
pub fn reference<B: Backend>(
    teacher: Vec<FloatTensor<B>>,
    student: Vec<FloatTensor<B>>,
    decay: f64,
) -> Vec<FloatTensor<B>> {
    teacher
        .into_iter()
        .zip(student)
        .map(|(teacher, student)| {
            B::float_add(
                B::float_mul_scalar(teacher, decay.into()),
                B::float_mul_scalar(student, (1.0 - decay).into()),
            )
        })
        .collect()
}
