//! The optimizer over a module, with its state under the parameters' names.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;

use crate::files::NamedTensor;
use crate::kernels::{AdamWState, TrainBackend};
use crate::train::optim::config::{OptimizerConfig, OptimizerKind, UpdateRates};
use crate::train::optim::gradients::Gradients;
use crate::train::optim::host::{to_device, to_host};
use crate::train::optim::parameter_update::{Put, State, Take, moved};

const FIRST: &str = "first.";
const SECOND: &str = "second.";
const SUM: &str = "sum.";

/// An optimizer with its state for each parameter.
#[derive(Debug)]
pub struct Optimizer<B: TrainBackend> {
    config: OptimizerConfig,
    step: usize,
    states: BTreeMap<String, State<B::InnerBackend>>,
}

impl<B: TrainBackend> Optimizer<B> {
    /// An optimizer before its first step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self {
            config,
            step: 0,
            states: BTreeMap::new(),
        }
    }

    /// Steps made.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// The state of each parameter, as `first.NAME` and `second.NAME`, or `sum.NAME`; reads it from the device.
    pub fn tensors(&self) -> BTreeMap<String, NamedTensor> {
        let mut tensors = BTreeMap::new();
        for (name, state) in &self.states {
            let mut add = |kind: &str, tensor: &FloatTensor<B::InnerBackend>| {
                let tensor = to_host::<B::InnerBackend>(tensor.clone());
                tensors.insert(format!("{kind}{name}"), tensor);
            };
            match state {
                State::Moments(state) => {
                    add(FIRST, &state.first_moment);
                    add(SECOND, &state.second_moment);
                }
                State::Sum(sum) => add(SUM, sum),
            }
        }
        tensors
    }

    /// The state after `step` steps from the tensors of [`Optimizer::tensors`].
    ///
    /// # Errors
    /// The names of those that belong to another optimizer.
    pub fn restore(
        &mut self,
        step: usize,
        mut tensors: BTreeMap<String, NamedTensor>,
        device: &B::Device,
    ) -> Result<(), String> {
        let mut states = BTreeMap::new();
        let load = |tensor: &NamedTensor| to_device::<B::InnerBackend>(tensor, device);
        let is_adamw = self.config.name == OptimizerKind::AdamW;
        let main = if is_adamw { FIRST } else { SUM };
        let names: Vec<String> = tensors
            .keys()
            .filter_map(|key| Some(key.strip_prefix(main)?.to_owned()))
            .collect();
        for name in names {
            let Some(first) = tensors.remove(&format!("{main}{name}")) else {
                continue;
            };
            let state = match (is_adamw, tensors.remove(&format!("{SECOND}{name}"))) {
                (false, _) => State::Sum(load(&first)),
                (true, Some(second)) if second.shape == first.shape => State::Moments(AdamWState {
                    first_moment: load(&first),
                    second_moment: load(&second),
                }),
                (true, _) => {
                    return Err(format!("{SECOND}{name} is missing or has the wrong shape"));
                }
            };
            states.insert(name, state);
        }
        // what is left over was written by another kind of optimizer
        if let Some(name) = tensors.into_keys().next() {
            return Err(format!("{name} belongs to another optimizer"));
        }
        // last, so that an error leaves the optimizer unchanged
        (self.step, self.states) = (step, states);
        Ok(())
    }

    /// One step; a parameter without a gradient stays as it is, undecayed.
    ///
    /// # Shapes
    /// `grad_scale` `[1]` or none multiplies all gradients: if it is 0, nothing changes but the step count.
    pub fn step<M: Module<B>>(
        &mut self,
        module: M,
        grads: Gradients<B>,
        rates: &UpdateRates,
        grad_scale: Option<Tensor<B::InnerBackend, 1>>,
    ) -> M {
        self.step += 1; // before the update: AdamW's bias correction counts from 1
        let (hollow, is_taken, taken) = Take::from(module, grads, &self.config, rates);
        let (mut names, mut moving) = (Vec::new(), Vec::new());
        for of_param in taken {
            // removed, not cloned, so that the update owns the tensors and works in place
            let state = self.states.remove(&of_param.name);
            names.push(of_param.name.clone());
            moving.push((of_param, state));
        }
        let mut params = Vec::new();
        let moved = moved(moving, grad_scale, &self.config, self.step);
        for (name, (param, state)) in names.into_iter().zip(moved) {
            params.push(param);
            self.states.insert(name, state);
        }
        hollow.map(&mut Put::<B> {
            is_taken: is_taken.into_iter(),
            moved: params.into_iter(),
        })
    }

    /// Takes back the count of the last steps, which changed nothing.
    pub(in crate::train) fn take_back(&mut self, steps: usize) {
        self.step -= steps;
    }

    /// For [`GradScaleInput::max_norm`](crate::kernels::GradScaleInput::max_norm).
    pub fn max_norm(&self) -> Option<f64> {
        self.config.clip_gradient_norm
    }
}
