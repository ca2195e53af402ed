//! Times the losses and the moving average on any backend: what `benches/reference/loss_and_ema.py` times in PyTorch.

use std::time::Instant;

use ibot::burn::tensor::ops::FloatTensor;
use ibot::burn::tensor::{Distribution, Tensor};

use super::kernels::{
    ITERATIONS, PATCH_LOGITS, STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, default_shapes,
};
use super::median::median;
use ibot::device::{DeviceGuard, Selected};
use ibot::error::Result;
use ibot::kernels::{CrossEntropyInput, IbotBackend, OnBackend, Pairing};

/// Milliseconds of one operation.
#[derive(Debug, Clone)]
pub struct LossTimes {
    /// What was timed, named as in the script.
    pub operation: &'static str,
    /// Median over the rounds.
    pub ms: f64,
}

/// Runs each operation `rounds` times after once to warm up.
///
/// # Errors
/// A device that failed.
pub fn bench_losses(selected: &Selected, rounds: usize) -> Result<Vec<LossTimes>> {
    let guard = DeviceGuard::install(selected)?;
    let timing = Timing {
        guard: &guard,
        rounds,
    };
    guard.catch(|| selected.dispatch(timing))?
}

struct Timing<'a> {
    guard: &'a DeviceGuard,
    rounds: usize,
}

impl OnBackend for Timing<'_> {
    type Output = Result<Vec<LossTimes>>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        let losses = Losses::<B> {
            guard: self.guard,
            device: &device,
        };
        losses.times(self.rounds)
    }
}

struct Losses<'a, B: IbotBackend> {
    guard: &'a DeviceGuard,
    device: &'a B::Device,
}

impl<B: IbotBackend> Losses<'_, B> {
    fn times(&self, rounds: usize) -> Result<Vec<LossTimes>> {
        let teacher = self.logits();
        let student = self.logits();
        let sinkhorn = || {
            B::sinkhorn_potentials(teacher.clone(), TEACHER_TEMPERATURE, ITERATIONS);
        };
        let mut times = vec![LossTimes {
            operation: "Sinkhorn targets, 3 iterations, 944 x 8192",
            ms: self.time(rounds, &mut || (), &mut |()| sinkhorn())?,
        }];
        times.push(LossTimes {
            operation: "patch loss forward + backward, 944 x 8192",
            // solely owned student logits, as in training; copying them is not timed
            ms: self.time(rounds, &mut || student.clone() + 0.0, &mut |student| {
                self.loss(student, &teacher);
            })?,
        });
        let shapes = default_shapes()?;
        let fill = |value: f64| -> Vec<FloatTensor<B>> {
            let filled = shapes.iter().map(|shape| {
                let flat = Tensor::<B, 1>::full([shape.num_elements()], value, self.device);
                flat.into_primitive().tensor()
            });
            filled.collect()
        };
        // Teachers that nobody else holds are averaged in place; they come back for the next round.
        let (mut teachers, students) = (fill(1.0), fill(0.5));
        times.push(LossTimes {
            operation: "EMA, ViT-S/16 and default heads",
            ms: self.time(rounds, &mut || students.clone(), &mut |students| {
                teachers = B::ema(std::mem::take(&mut teachers), students, 0.996, None);
            })?,
        });
        Ok(times)
    }

    /// Targets by softmax, loss and gradient.
    fn loss(&self, student_logits: Tensor<B, 2>, teacher: &Tensor<B, 2>) {
        let rows = PATCH_LOGITS[0];
        let input = CrossEntropyInput {
            student_logits,
            teacher_logits: teacher.clone(),
            potentials: B::centered_potentials(teacher.clone(), None, TEACHER_TEMPERATURE),
            pairing: Pairing::SameRow,
            row_weights: Tensor::full([rows], 1.0 / rows as f64, self.device),
            student_temperature: STUDENT_TEMPERATURE,
        };
        let output = B::cross_entropy(&input);
        let d_loss = Tensor::ones([1], self.device);
        drop(B::cross_entropy_backward(input, output, d_loss));
    }

    fn time<I>(
        &self,
        rounds: usize,
        prepare: &mut dyn FnMut() -> I,
        body: &mut dyn FnMut(I),
    ) -> Result<f64> {
        let mut times = Vec::new();
        for round in 0..=rounds {
            let input = prepare();
            self.guard.check_sync::<B>(self.device)?;
            let start = Instant::now();
            body(input);
            self.guard.check_sync::<B>(self.device)?;
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        Ok(median(times))
    }

    fn logits(&self) -> Tensor<B, 2> {
        Tensor::random(PATCH_LOGITS, Distribution::Normal(0.0, 1.0), self.device)
    }
}
