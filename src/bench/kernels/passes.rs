//! The passes over all parameters: moving average, AdamW and the norm of the gradients.

use std::cell::Cell;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorMetadata};
use burn_autodiff::Autodiff;
use burn_flex::Flex;

use super::{Bench, KernelTimes};
use crate::error::Result;
use crate::kernels::{AdamWInput, AdamWState, AdamWTensor, Gpu, IbotBackend, reference};
use crate::method::IbotConfig;

/// A parameter and what AdamW remembers of it.
type Moved = (FloatTensor<Gpu>, AdamWState<Gpu>);

impl Bench<'_> {
    pub(super) fn passes(&self) -> Result<[KernelTimes; 3]> {
        let shapes = default_shapes()?;
        let entries: usize = shapes.iter().map(Shape::num_elements).sum();
        let bytes = (entries * size_of::<f32>()) as f64;
        let fill = |value: f64| -> Vec<_> {
            let filled = |shape: &Shape| {
                let flat = Tensor::<Gpu, 1>::full([shape.num_elements()], value, self.device);
                flat.into_primitive().tensor()
            };
            shapes.iter().map(filled).collect()
        };
        // Tensors that nobody else holds are moved in place; they come back for the next round.
        let grads = fill(0.5);
        let teachers = Cell::new(fill(1.0));
        let average = self.compare(
            "EMA, ViT-S/16 and default heads",
            3.0 * bytes,
            &|| grads.clone(),
            &|students| teachers.set(Gpu::ema(teachers.take(), students, 0.996, None)),
            &|students| {
                teachers.set(reference::ema::<Gpu>(
                    teachers.take(),
                    students,
                    0.996,
                    None,
                ));
            },
        )?;
        let fresh = |param: FloatTensor<Gpu>| {
            let state = AdamWState::zeros(param.shape(), self.device);
            (param, state)
        };
        let moved: Cell<Vec<Moved>> = Cell::new(teachers.take().into_iter().map(fresh).collect());
        let adamw = self.compare(
            "AdamW, ViT-S/16 and default heads",
            7.0 * bytes,
            &|| input(moved.take(), &grads),
            &|input| moved.set(Gpu::adamw(input)),
            &|input| moved.set(reference::adamw(input)),
        )?;
        let norm = self.compare(
            "gradient norm, ViT-S/16 and default heads",
            bytes,
            &|| grads.clone(),
            &|grads| drop(Gpu::sum_of_squares(grads, self.device)),
            &|grads| drop(reference::sum_of_squares::<Gpu>(grads, self.device)),
        )?;
        Ok([average, adamw, norm])
    }
}

fn input(moved: Vec<Moved>, grads: &[FloatTensor<Gpu>]) -> AdamWInput<Gpu> {
    let pairs = moved.into_iter().zip(grads.iter().cloned());
    let with_gradient = |((param, state), grad)| AdamWTensor {
        param,
        grad,
        state,
        learning_rate: 1e-4,
        weight_decay: 0.04,
    };
    AdamWInput {
        tensors: pairs.map(with_gradient).collect(),
        grad_scale: None,
        betas: [0.9, 0.999],
        eps: 1e-8,
        step: 1,
    }
}

/// Shapes of everything that the teacher averages in the default recipe.
pub(in crate::bench) fn default_shapes() -> Result<Vec<Shape>> {
    struct Shapes(Vec<Shape>);
    impl<B: Backend> ModuleVisitor<B> for Shapes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push(param.val().shape());
        }
    }
    let method = IbotConfig::default().init::<Autodiff<Flex>>(0, &Default::default())?;
    let mut shapes = Shapes(Vec::new());
    method.teacher.visit(&mut shapes);
    Ok(shapes.0)
}
