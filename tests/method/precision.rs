//! Training in half precision: the loss scale, and how far results are from those in f32.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use ibot::backbone::VitConfig;
use ibot::device::DeviceGuard;
use ibot::files::NamedTensor;
use ibot::kernels::TrainBackend;
use ibot::method::{IbotConfig, VitIbot};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};
use ibot::train::{Gradients, Rates, StepLosses, Tensors, Trainer, TrainerConfig};

use crate::training::input;
use crate::{random_views, tiny_method};

type VitTrainer<B> = Trainer<B, ibot::backbone::VisionTransformer<B>>;

/// Whether the device has f16: a software Vulkan driver may not.
fn has_f16<B: TrainBackend>(device: &B::Device) -> bool {
    let checked = B::check_precision(Precision::F16, device);
    if let Err(error) = &checked {
        println!("SKIPPED: {error}");
    }
    checked.is_ok()
}

fn trainer<B: TrainBackend>(precision: Precision, device: &B::Device) -> VitTrainer<B> {
    let config = TrainerConfig {
        precision,
        ..TrainerConfig::default()
    };
    config.init(tiny_method::<B>(device), device.clone(), DeviceGuard::Cpu)
}

fn rates(step: usize) -> Rates {
    Rates {
        learning_rate: 1e-3 * (step as f64 / 10.0).min(1.0),
        temperature_teacher: 0.04,
        ema_decay: 0.99,
        ..Rates::default()
    }
}

/// The trainer's tensors without the loss scale, and that.
fn parted<B: TrainBackend>(trainer: &VitTrainer<B>) -> (Tensors, Vec<f32>) {
    let mut tensors = trainer.tensors();
    let scale = tensors.remove("loss_scale").unwrap();
    (tensors, scale.values)
}

/// The same trainer with another loss scale.
fn rescaled<B: TrainBackend>(trainer: &mut VitTrainer<B>, step: usize, scale: [f32; 2]) {
    let mut tensors = trainer.tensors();
    let state = NamedTensor {
        shape: vec![2],
        values: scale.to_vec(),
    };
    tensors.insert("loss_scale".into(), state);
    trainer.restore(step, tensors, Path::new("test")).unwrap();
}

/// Gradients beyond f16 skip the step and halve the scale until they fit, and change nothing else.
pub fn overflow_halves_the_scale<B: TrainBackend>(device: &B::Device) {
    if !has_f16::<B>(device) {
        return;
    }
    let mut trainer = trainer::<B>(Precision::F16, device);
    let input = input::<B>(device);
    // the first one sets the centers, which a step that is skipped may do too
    let first = trainer.step(&input, &rates(1)).unwrap();
    assert_eq!(first.loss_scale, Some(65_536.0));
    let mut scale = 2.0_f32.powi(40);
    rescaled(&mut trainer, 1, [scale, 7.0]);
    let (before, _) = parted(&trainer);
    let mut skipped = 0;
    // unread steps between: the host does not have to look
    for _ in 0..2 {
        trainer.advance(&input, &rates(1)).unwrap();
    }
    let (losses, sound) = trainer.read_losses();
    sound.unwrap();
    for found in losses {
        assert!(found.is_skipped && found.gradient_norm == 0.0, "{found:?}");
        assert_eq!(found.loss_scale, Some(scale));
        (scale, skipped) = (scale / 2.0, skipped + 1);
    }
    let (after, state) = parted(&trainer);
    assert!(after == before && state == [scale, 0.0], "{state:?}");
    let sound = loop {
        let found = trainer.step(&input, &rates(1)).unwrap();
        assert_eq!(found.loss_scale, Some(scale));
        if !found.is_skipped {
            break found;
        }
        (scale, skipped) = (scale / 2.0, skipped + 1);
        assert!(skipped < 40, "{found:?}");
    };
    let mut exact = self::trainer::<B>(Precision::F32, device);
    exact.restore(1, before.clone(), Path::new("test")).unwrap();
    let exact = exact.step(&input, &rates(1)).unwrap();
    assert_eq!((exact.loss_scale, exact.is_skipped), (None, false));
    let off = (sound.gradient_norm / exact.gradient_norm - 1.0).abs();
    assert!(off < 0.02, "{exact:?} {sound:?}");
    let (after, state) = parted(&trainer);
    assert!(after != before && state == [scale, 1.0], "{state:?}");
}

/// After 2 000 sound steps it doubles.
pub fn sound_steps_double_the_scale<B: TrainBackend>(device: &B::Device) {
    if !has_f16::<B>(device) {
        return;
    }
    let mut trainer = trainer::<B>(Precision::F16, device);
    rescaled(&mut trainer, 0, [1024.0, 1998.0]);
    let input = input::<B>(device);
    let scales = [1, 2, 3].map(|step| trainer.step(&input, &rates(step)).unwrap().loss_scale);
    assert_eq!(scales, [Some(1024.0), Some(1024.0), Some(2048.0)]);
    assert_eq!(parted(&trainer).1, [2048.0, 1.0]);
}

/// A loss that is not finite ends the run as in f32, and the scale is the one before that step; so do gradients that overflow
/// whatever the scale.
pub fn what_is_wrong_stops<B: TrainBackend>(device: &B::Device) {
    if !has_f16::<B>(device) {
        return;
    }
    let mut trainer = trainer::<B>(Precision::F16, device);
    let good = input::<B>(device);
    rescaled(&mut trainer, 0, [256.0, 0.0]);
    trainer.step(&good, &rates(1)).unwrap();
    let before = trainer.tensors();
    let mut broken = good.clone();
    broken.global_views[0] = broken.global_views[0].clone() * f32::NAN;
    for input in [&broken, &good, &good] {
        trainer.advance(input, &rates(1)).unwrap();
    }
    let (losses, sound) = trainer.read_losses();
    assert!(losses.is_empty() && sound.is_err());
    assert!(trainer.tensors() == before);
    assert!(!trainer.step(&good, &rates(1)).unwrap().is_skipped);
}

/// What was saved in the middle goes on with the bits of a run that was not interrupted, skipped steps included.
pub fn resumed_bits_are_equal<B: TrainBackend>(device: &B::Device) {
    if !has_f16::<B>(device) {
        return;
    }
    let input = input::<B>(device);
    let mut whole = trainer::<B>(Precision::F16, device);
    rescaled(&mut whole, 0, [2.0_f32.powi(20), 0.0]);
    let mut resumed = trainer::<B>(Precision::F16, device);
    let mut skipped = 0;
    for step in 1..=12 {
        let of_whole = whole.step(&input, &rates(step)).unwrap();
        skipped += usize::from(of_whole.is_skipped);
        if step > 4 {
            assert_eq!(resumed.step(&input, &rates(step)).unwrap(), of_whole);
        }
        if step == 4 {
            let saved = whole.tensors();
            resumed.restore(4, saved, Path::new("test")).unwrap();
        }
    }
    assert!((1..12).contains(&skipped), "{skipped}");
    assert!(resumed.tensors() == whole.tensors());
}

/// A hundred steps have losses within 1 % of those in f32.
pub fn losses_follow_those_of_f32<B: TrainBackend>(device: &B::Device) {
    let of = |precision| -> Vec<StepLosses> {
        let mut trainer = trainer::<B>(precision, device);
        if precision == Precision::F16 {
            rescaled(&mut trainer, 0, [256.0, 0.0]); // so that no step is skipped
        }
        let input = input::<B>(device);
        let steps = (1..=100).map(|step| trainer.step(&input, &rates(step)).unwrap());
        steps.collect()
    };
    let expected = of(Precision::F32);
    for precision in [Precision::F16, Precision::Bf16] {
        if B::check_precision(precision, device).is_err() {
            continue;
        }
        let found = of(precision);
        assert!(found != expected, "{precision} changes nothing");
        let off = found.iter().zip(&expected).map(|(found, expected)| {
            assert!(!found.is_skipped);
            (found.loss / expected.loss - 1.0).abs()
        });
        let most = off.fold(0.0, f32::max);
        assert!(most < 0.01, "{precision}: off by {most}");
    }
}

/// A step of ViT-S's width: the gradient of each parameter points where that in f32 does.
pub fn gradients_point_the_same_way<B: TrainBackend>(device: &B::Device) {
    let expected = gradients::<B>(Precision::F32, device);
    for precision in [Precision::F16, Precision::Bf16] {
        if B::check_precision(precision, device).is_err() {
            continue;
        }
        let found = gradients::<B>(precision, device);
        assert_eq!(found.len(), expected.len());
        for (name, expected) in &expected {
            let (a, b) = (&found[name].values, &expected.values);
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                let pairs = a.iter().zip(b);
                pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine > 0.999, "{precision}, {name}: {cosine}");
        }
    }
}

/// Gradients by name of a network of two blocks of ViT-S.
fn gradients<B: TrainBackend>(
    precision: Precision,
    device: &B::Device,
) -> BTreeMap<String, NamedTensor> {
    let config = IbotConfig {
        vit: Some(VitConfig {
            depth: 2,
            img_size: 32,
            patch_size: 8,
            ..IbotConfig::default().backbone().unwrap() // ViT-S/16
        }),
        image_size: 32,
        n_cls_prototypes: 96,
        n_patch_prototypes: 64,
        projector_hidden_dim: 256,
        ..IbotConfig::default()
    };
    let method: VitIbot<B> = config.init(11, device).unwrap();
    let mut random = Random::new(7, 0, 0, Stream::View(0));
    let mut view = || {
        let values = random.fill(2 * 3 * 32 * 32, Random::normal);
        let data = burn::tensor::TensorData::new(values, [2, 3, 32, 32]);
        Tensor::<B::InnerBackend, 4>::from_data(data, device)
    };
    let views = vec![view(), view()];
    let masks: Vec<bool> = (0..64).map(|patch| patch % 3 == 0).collect();
    let mut method = method;
    precision.autocast(|| {
        let output = method.forward(&views, &masks, 0.07).unwrap();
        // as the trainer: what is small would vanish in f16
        let scale = if precision == Precision::F16 {
            65_536.0
        } else {
            1.0
        };
        Gradients::backward(&(output.loss * scale)).by_name(&method.student)
    })
}

/// The reference rounds: what a layer gives has no bit that f16 lacks.
pub fn tokens_are_halves<B: TrainBackend>(device: &B::Device) {
    if !has_f16::<B>(device) {
        return;
    }
    let method = tiny_method::<B>(device);
    let views = random_views::<B::InnerBackend>(2, device);
    let embed = |precision: Precision| -> Vec<f32> {
        let embedding = precision.autocast(|| method.embed(views[0].clone()));
        embedding.into_data().iter::<f32>().collect()
    };
    let (exact, halves) = (embed(Precision::F32), embed(Precision::F16));
    let largest = exact.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let pairs = exact.iter().zip(&halves);
    let off = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest;
    assert!(off > 0.0 && off < 0.01, "{off}");
}
