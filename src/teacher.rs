//! The teacher: a moving average of the student, never on the autodiff graph.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;

use crate::device::settle;
use crate::kernels::{IbotBackend, wrap};

/// A copy of the module with buffers of its own, bit for bit equal.
///
/// burn's `clone` and `valid` share buffers, and a clone of a parameter that was never read draws it anew (burn issue
/// 5040), so each value goes through the host.
pub fn deep_copy<B: Backend, M: Module<B>>(module: M) -> M {
    struct Copy;
    impl<B: Backend> ModuleMapper<B> for Copy {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let (id, tensor, mapper) = param.consume();
            let device = tensor.device();
            settle(&device);
            let copy = Tensor::from_data(tensor.into_data(), &device);
            Param::from_mapped_value(id, copy, mapper)
        }
    }
    module.map(&mut Copy)
}

/// The student's parameters in the order of the module, on the inner backend.
pub fn parameters<B, S>(student: &S) -> Vec<FloatTensor<B::InnerBackend>>
where
    B: AutodiffBackend<InnerBackend: IbotBackend>,
    S: Module<B>,
{
    let mut found = Collect::<B>(Vec::new());
    student.visit(&mut found);
    found.0
}

/// Moves each parameter of `teacher` towards the one at its place in `student`, all of them in one pass:
/// `teacher * decay + student * (1 - decay)`.
///
/// Source: `TeacherStudentWrapper.update_teacher` in stable_pretraining/backbone/utils.py. Differs from it: a decay
/// of exactly 0 copies the student, where the reference skips the update.
///
/// # Shapes
/// `gate` `[1]` or none: where it is 0, nothing moves.
pub fn ema<B, T>(
    teacher: T,
    student: Vec<FloatTensor<B>>,
    decay: f64,
    gate: Option<Tensor<B, 1>>,
) -> T
where
    B: IbotBackend,
    T: Module<B>,
{
    let mut taken = Take::<B>(Vec::new());
    let hollow = teacher.map(&mut taken);
    let averaged = B::ema(taken.0, student, decay, gate);
    hollow.map(&mut Put::<B>(averaged.into_iter()))
}

struct Collect<B: AutodiffBackend>(Vec<FloatTensor<B::InnerBackend>>);

impl<B: AutodiffBackend> ModuleVisitor<B> for Collect<B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.0.push(param.val().inner().into_primitive().tensor());
    }
}

/// Takes the teacher's parameters out, so that the update is their only owner and works in place.
struct Take<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> ModuleMapper<B> for Take<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let placeholder = Tensor::empty([1; D], &tensor.device());
        self.0.push(tensor.into_primitive().tensor());
        Param::from_mapped_value(id, placeholder, mapper)
    }
}

/// Puts the averaged parameters back in the same order.
struct Put<B: Backend>(std::vec::IntoIter<FloatTensor<B>>);

impl<B: Backend> ModuleMapper<B> for Put<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, placeholder, mapper) = param.consume();
        let tensor = self.0.next().map_or(placeholder, wrap);
        Param::from_mapped_value(id, tensor, mapper)
    }
}
