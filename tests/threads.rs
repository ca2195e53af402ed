//! Trainings on several threads of one process do not disturb each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use ibot::backbone::VitConfig;
use ibot::device::DeviceGuard;
use ibot::kernels::TrainBackend;
use ibot::method::IbotConfig;
use ibot::random::{Random, Stream};
use ibot::train::{Rates, StepInput, TrainerConfig};

const STEPS: usize = 100;
const IMAGES: usize = 4;

fn input<B: TrainBackend>(device: &B::Device) -> StepInput<B> {
    let mut random = Random::new(5, 0, 0, Stream::View(0));
    let mut view = |side: usize| -> Tensor<<B as AutodiffBackend>::InnerBackend, 4> {
        let shape = [IMAGES, 3, side, side];
        let values = random.fill(shape.iter().product(), Random::normal);
        Tensor::from_data(TensorData::new(values, shape), device)
    };
    StepInput {
        global_views: vec![view(16), view(16)],
        // a second use of the backbone's parameters
        local_views: vec![view(8)],
        masks: (0..8 * IMAGES).map(|patch| patch % 3 == 0).collect(),
    }
}

/// Bits of loss and gradient norm of each step on a batch in four parts, whose gradients add up.
fn train<B: TrainBackend>(device: &B::Device) -> Vec<[u32; 2]> {
    let config = IbotConfig {
        image_size: 16,
        projector_hidden_dim: 12,
        projector_bottleneck_dim: 8,
        n_cls_prototypes: 20,
        n_patch_prototypes: 10,
        vit: Some(VitConfig {
            patch_size: 8,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        }),
        ..IbotConfig::default()
    };
    let method = config.init::<B>(3, device).unwrap();
    let config = TrainerConfig {
        micro_batch_size: Some(1),
        ..TrainerConfig::default()
    };
    let mut trainer = config.init(method, device.clone(), DeviceGuard::Cpu);
    let rates = Rates {
        learning_rate: 1e-3,
        temperature_teacher: 0.04,
        ema_decay: 0.99,
        ..Rates::default()
    };
    let input = input::<B>(device);
    let mut bits = Vec::new();
    for _ in 0..STEPS {
        let losses = trainer.step(&input, &rates).unwrap();
        bits.push([losses.loss, losses.gradient_norm].map(f32::to_bits));
    }
    bits
}

/// Backward passes of next to nothing, one after the other.
fn end_backward_passes(until: &AtomicBool) {
    while !until.load(Ordering::Relaxed) {
        let leaf = Tensor::<Autodiff<Flex>, 1>::ones([1], &Default::default()).require_grad();
        drop((leaf * 2.0).backward());
    }
}

/// Two runs at a time, on two backends, and a third thread: each run has the bits that it has alone, though burn-autodiff
/// keeps the graphs of all threads in one place, and tidies up there after each backward pass.
#[test]
fn runs_side_by_side_have_the_bits_of_runs_alone() {
    let ndarray = || train::<Autodiff<NdArray<f32>>>(&Default::default());
    let flex = || train::<Autodiff<Flex>>(&Default::default());
    let alone = [ndarray(), flex()];
    for round in 0..3 {
        let is_over = AtomicBool::new(false);
        let together = std::thread::scope(|scope| {
            scope.spawn(|| end_backward_passes(&is_over));
            let runs = [scope.spawn(ndarray), scope.spawn(flex)];
            let ends = runs.map(ScopedJoinHandle::join);
            is_over.store(true, Ordering::Relaxed);
            ends.map(|end| end.unwrap())
        });
        for (found, expected) in together.iter().zip(&alone) {
            let off = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(off, None, "round {round}: first step that differs");
        }
    }
}
