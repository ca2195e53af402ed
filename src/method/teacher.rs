//! The teacher: a moving average of the student, never on the autodiff graph.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;

use crate::device::synchronize;
use crate::kernels::{IbotBackend, wrap};

/// A copy of the module with buffers of its own, bit for bit equal.
///
/// burn's `clone` and `valid` share buffers, and a clone of a parameter that was never read draws it again (burn issue
/// 5040), so each value is copied through the host.
pub(super) fn deep_copy<B: Backend, M: Module<B>>(module: M) -> M {
    struct Copy;
    impl<B: Backend> ModuleMapper<B> for Copy {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let (id, tensor, mapper) = param.consume();
            let device = tensor.device();
            synchronize(&device); // burn waits for a read without a deadline; this one has it
            let copy = Tensor::from_data(tensor.into_data(), &device);
            Param::from_mapped_value(id, copy, mapper)
        }
    }
    module.map(&mut Copy)
}

/// Moves each parameter of `teacher` towards the student's of the same name, all of them in one pass:
/// `teacher * decay + student * (1 - decay)`. Parameters that only one of them has, such as a patch head, are left out.
///
/// Source: `TeacherStudentWrapper.update_teacher` in stable_pretraining/backbone/utils.py. Differs from it: a decay
/// of exactly 0 copies the student, where the reference skips the update.
///
/// # Shapes
/// `grad_scale` `[1]` or none: if it is 0, the teacher is unchanged.
pub(super) fn ema<B, S, T>(
    teacher: T,
    student: &S,
    decay: f64,
    grad_scale: Option<Tensor<B::InnerBackend, 1>>,
) -> T
where
    B: AutodiffBackend<InnerBackend: IbotBackend>,
    S: Module<B>,
    T: Module<B::InnerBackend>,
{
    // by name, not by position: the student has parameters that the teacher lacks, such as a patch head of its own
    let mut collect = Collect::<B> {
        path: Vec::new(),
        found: BTreeMap::new(),
    };
    student.visit(&mut collect);
    let mut take = Take::<B::InnerBackend> {
        path: Vec::new(),
        student: collect.found,
        names: Vec::new(),
        pairs: Vec::new(),
    };
    let hollow = teacher.map(&mut take);
    // all parameters in one call, which a GPU runs in a few launches instead of one per parameter
    let (teacher, student) = take.pairs.into_iter().unzip();
    let averaged = B::InnerBackend::ema(teacher, student, decay, grad_scale);
    hollow.map(&mut Put::<B::InnerBackend> {
        path: Vec::new(),
        averaged: take.names.into_iter().zip(averaged).collect(),
    })
}

/// The student's parameters by name.
struct Collect<B: AutodiffBackend> {
    path: Vec<String>,
    found: BTreeMap<String, FloatTensor<B::InnerBackend>>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Collect<B> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let tensor = param.val().inner().into_primitive().tensor();
        self.found.insert(self.path.join("."), tensor);
    }
}

/// Takes the teacher's parameters out, each with the student's, so that the update is their only owner and works in place.
struct Take<B: Backend> {
    path: Vec<String>,
    student: BTreeMap<String, FloatTensor<B>>,
    names: Vec<String>,
    pairs: Vec<(FloatTensor<B>, FloatTensor<B>)>,
}

impl<B: Backend> ModuleMapper<B> for Take<B> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let name = self.path.join(".");
        let Some(student) = self.student.remove(&name) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let placeholder = Tensor::empty([1; D], &tensor.device()); // burn modules cannot lack a parameter
        self.names.push(name);
        self.pairs.push((tensor.into_primitive().tensor(), student));
        Param::from_mapped_value(id, placeholder, mapper)
    }
}

/// Puts the averaged parameters back.
struct Put<B: Backend> {
    path: Vec<String>,
    averaged: BTreeMap<String, FloatTensor<B>>,
}

impl<B: Backend> ModuleMapper<B> for Put<B> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(averaged) = self.averaged.remove(&self.path.join(".")) else {
            return param;
        };
        let (id, _, mapper) = param.consume();
        Param::from_mapped_value(id, wrap(averaged), mapper)
    }
}
