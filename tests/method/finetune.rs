//! A classifier on a backbone: its loss, its gradients, and that it learns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use burn::tensor::{Tensor, TensorData};
use ibot::backbone::VitConfig;
use ibot::collective::{Collective as _, LocalRanks};
use ibot::device::DeviceGuard;
use ibot::files::NamedTensor;
use ibot::finetune::{Classifier, ClassifierTrainer, FinetuneConfig};
use ibot::kernels::TrainBackend;
use ibot::method::losses::label_loss;
use ibot::precision::Precision;
use ibot::random::{Random, Stream};

use crate::{assert_close, random_views, values};

const CLASSES: usize = 3;

fn config() -> FinetuneConfig {
    FinetuneConfig {
        drop_path: 0.0,
        ..FinetuneConfig::default()
    }
}

/// A transformer of two blocks for 16 x 16 images, with a head.
fn trainer<B: TrainBackend>(config: &FinetuneConfig, device: &B::Device) -> ClassifierTrainer<B> {
    let vit = VitConfig {
        img_size: 16,
        patch_size: 8,
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        drop_path_rate: config.drop_path(),
        ..VitConfig::default()
    };
    let mut random = Random::new(4, 0, 0, Stream::Init);
    let backbone = vit.init::<B>(&mut random, device).unwrap();
    let classifier = Classifier::new(backbone, CLASSES, config.freeze, &mut random, device);
    ClassifierTrainer::new(classifier, config, device.clone(), DeviceGuard::Cpu)
}

/// Images of three classes, each with more in one channel, under noise; and their classes.
fn separable<B: TrainBackend>(
    images: usize,
    device: &B::Device,
) -> (Tensor<B::InnerBackend, 4>, Vec<usize>) {
    let mut random = Random::new(6, 0, 0, Stream::View(0));
    let labels: Vec<usize> = (0..images).map(|at| at % CLASSES).collect();
    let mut pixels = Vec::new();
    for label in &labels {
        for channel in 0..3 {
            let more = if channel == *label { 1.0 } else { 0.0 };
            pixels.extend((0..256).map(|_| (more + random.normal()) as f32));
        }
    }
    let data = TensorData::new(pixels, [images, 3, 16, 16]);
    (Tensor::from_data(data, device), labels)
}

/// The loss in f64.
fn by_hand(logits: &[f64], labels: &[usize], classes: usize, smoothing: f64) -> f64 {
    let rows = logits.chunks(classes).zip(labels);
    let of_row = |(row, label): (&[f64], &usize)| {
        let log_sum = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let mean = row.iter().map(|logit| log_sum - logit).sum::<f64>() / classes as f64;
        (1.0 - smoothing) * (log_sum - row[*label]) + smoothing * mean
    };
    rows.map(of_row).sum::<f64>() / labels.len() as f64
}

/// Value and gradient of the loss, against f64 and its finite differences.
pub fn label_loss_is_the_smoothed_cross_entropy<B: TrainBackend>(device: &B::Device) {
    let (classes, labels) = (5, [4, 0, 2, 2]);
    let mut random = Random::new(1, 0, 0, Stream::Init);
    let logits: Vec<f32> = random.fill(4 * classes, |random| 3.0 * random.normal());
    for smoothing in [0.0, 0.1, 0.6] {
        let data = TensorData::new(logits.clone(), [4, classes]);
        let leaf = Tensor::<B, 2>::from_data(data, device).require_grad();
        let loss = label_loss(leaf.clone(), &labels, smoothing);
        let wide: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
        let expected = by_hand(&wide, &labels, classes, smoothing);
        assert_close(&values(loss.clone()), &[expected], 1e-5);
        let differences: Vec<f64> = (0..wide.len())
            .map(|at| {
                let moved = |by: f64| {
                    let mut moved = wide.clone();
                    moved[at] += by;
                    by_hand(&moved, &labels, classes, smoothing)
                };
                (moved(1e-4) - moved(-1e-4)) / 2e-4
            })
            .collect();
        let gradient = leaf.grad(&loss.backward()).unwrap();
        assert_close(&values(gradient), &differences, 1e-5);
    }
    // far beyond what exp holds
    let data = TensorData::new(vec![3e4_f32, -3e4, 0.0], [1, 3]);
    let loss = label_loss(Tensor::<B, 2>::from_data(data, device), &[0], 0.0);
    assert_close(&values(loss), &[0.0], 1e-6);
}

/// Each weight of head and backbone gets a gradient, and the first step of Adam moves it by its learning rate.
pub fn each_weight_learns_at_its_rate<B: TrainBackend>(device: &B::Device) {
    let config = FinetuneConfig {
        layer_decay: 0.5,
        weight_decay: 0.0,
        ..config()
    };
    let mut trainer = trainer::<B>(&config, device);
    let (images, labels) = separable::<B>(6, device);
    let (gradients, measured) = trainer.differentiate(images.clone(), &labels).unwrap();
    let named = gradients.by_name(&trainer.classifier);
    let before = trainer.classifier.tensors();
    assert_eq!(named.len(), before.len());
    // the head starts at almost nothing: all classes are alike
    assert!((f64::from(measured.loss) - (CLASSES as f64).ln()).abs() < 1e-3);
    let norm: f64 = named
        .values()
        .flat_map(|gradient| &gradient.values)
        .map(|x| f64::from(*x).powi(2))
        .sum();
    assert!((norm.sqrt() - f64::from(measured.gradient_norm)).abs() < 1e-4 * norm.sqrt());
    for (name, gradient) in &named {
        assert!(gradient.values.iter().any(|x| *x != 0.0), "{name}");
    }
    trainer.step(images, &labels, 0.01).unwrap();
    let after = trainer.classifier.tensors();
    for (name, factor) in [
        ("head.weight", 1.0),
        ("head.bias", 1.0),
        ("norm.weight", 1.0),
        ("blocks.1.mlp.fc1.weight", 0.5),
        ("blocks.0.attn.proj.weight", 0.25),
        ("pos_embed", 0.125),
        ("patch_embed.proj.weight", 0.125),
    ] {
        let pairs = before[name].values.iter().zip(&after[name].values);
        let moved = pairs.map(|(old, new)| (new - old).abs());
        let largest = moved.fold(0.0, f32::max);
        // gradients of the backbone are near Adam's eps, because the head's weights are small
        assert!(
            largest > 0.005 * factor && largest < 0.0101 * factor,
            "{name}: {largest}"
        );
    }
}

fn bits(tensors: &BTreeMap<String, NamedTensor>) -> Vec<(&String, Vec<u32>)> {
    let named = tensors.iter();
    named
        .map(|(name, tensor)| (name, tensor.values.iter().map(|x| x.to_bits()).collect()))
        .collect()
}

/// Ranks with a share of each batch each, one of them without any image, have the loss and the gradients of one rank, drop path
/// included, and weights of equal bits.
pub fn ranks_train_as_one<B: TrainBackend>(device: &B::Device) {
    let config = FinetuneConfig {
        drop_path: 0.3,
        ..config()
    };
    for (count, ranks) in [(7, 3), (2, 3)] {
        let (images, labels) = separable::<B>(count, device);
        let alone = trainer::<B>(&config, device);
        let (gradients, measured) = alone.differentiate(images.clone(), &labels).unwrap();
        let expected = gradients.by_name(&alone.classifier);
        let share = |rank: LocalRanks| {
            let begin = |rank: usize| rank * count / ranks;
            let own = begin(rank.rank())..begin(rank.rank() + 1);
            let part = if own.is_empty() {
                Tensor::zeros([0, 3, 16, 16], device)
            } else {
                images.clone().slice([own.clone()])
            };
            let mut trainer = trainer::<B>(&config, device).with_collective(Arc::new(rank));
            let (gradients, found) = trainer
                .differentiate(part.clone(), &labels[own.clone()])
                .unwrap();
            let gradients = gradients.by_name(&trainer.classifier);
            trainer.step(part, &labels[own], 0.01).unwrap();
            (found, gradients, trainer.classifier.tensors())
        };
        let found: Vec<_> = thread::scope(|scope| {
            let threads = LocalRanks::group(ranks).into_iter();
            let threads: Vec<_> = threads.map(|rank| scope.spawn(|| share(rank))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (of_rank, gradients, tensors) in &found {
            assert_close(&[of_rank.loss], &[f64::from(measured.loss)], 1e-6);
            assert_eq!((of_rank.images, of_rank.correct), (count, measured.correct));
            assert_eq!(gradients.len(), expected.len());
            for (name, gradient) in gradients {
                let expected: Vec<f64> = (expected[name].values.iter())
                    .map(|x| f64::from(*x))
                    .collect();
                let largest = expected.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
                assert_close(&gradient.values, &expected, 1e-5 * largest.max(1e-4));
            }
            assert!(
                bits(tensors) == bits(&found[0].2),
                "ranks have other weights"
            );
        }
    }
}

/// A frozen backbone gets no gradient, no decay and no drop path.
pub fn a_frozen_backbone_stays<B: TrainBackend>(device: &B::Device) {
    let config = FinetuneConfig {
        freeze: true,
        drop_path: 0.5,
        weight_decay: 0.5,
        ..config()
    };
    let mut trainer = trainer::<B>(&config, device);
    let before = trainer.classifier.tensors();
    let (images, labels) = separable::<B>(6, device);
    let inner = trainer
        .classifier
        .logits(Tensor::from_inner(images.clone()));
    let training = trainer
        .classifier
        .training_logits(Tensor::from_inner(images.clone()), &mut []);
    assert_eq!(values(inner), values(training));
    trainer.step(images, &labels, 0.01).unwrap();
    for (name, after) in trainer.classifier.tensors() {
        let stays = before[&name] == after;
        assert_eq!(stays, !name.starts_with("head."), "{name}");
    }
}

/// The loss falls and each image finds its class, with the backbone and without it.
pub fn separable_images_are_told_apart<B: TrainBackend>(device: &B::Device) {
    let (images, labels) = separable::<B>(24, device);
    for (freeze, learning_rate) in [(false, 5e-3), (true, 5e-2)] {
        let config = FinetuneConfig {
            freeze,
            drop_path: 0.1,
            ..FinetuneConfig::default()
        };
        let mut trainer = trainer::<B>(&config, device);
        let mut losses = Vec::new();
        let mut correct = 0;
        for _ in 0..40 {
            let measured = trainer.step(images.clone(), &labels, learning_rate);
            let measured = measured.unwrap();
            losses.push(measured.loss);
            correct = measured.correct;
        }
        assert_eq!(trainer.steps(), 40);
        assert!(losses[39] < 0.6 * losses[0], "{freeze}: {losses:?}");
        assert!(correct >= 23, "{freeze}: {correct} of 24, {losses:?}");
    }
}

/// A loss that is not finite is named, and moves nothing.
pub fn a_broken_batch_changes_nothing<B: TrainBackend>(device: &B::Device) {
    let mut trainer = trainer::<B>(&config(), device);
    let before = trainer.classifier.tensors();
    let images = random_views::<B::InnerBackend>(2, device).swap_remove(0) * f32::NAN;
    let measured = trainer.step(images, &[0, 1], 0.01);
    let message = measured.unwrap_err().to_string();
    assert!(
        message.contains("loss is NaN") && message.contains("`learning_rate`"),
        "{message}"
    );
    assert_eq!((trainer.steps(), trainer.classifier.tensors()), (0, before));
}

/// timm's names and shapes of `VisionTransformer(num_classes=3)`, whose `load_state_dict` is strict.
pub fn tensors_have_the_names_of_timm<B: TrainBackend>(device: &B::Device) {
    let tensors = trainer::<B>(&config(), device).classifier.tensors();
    let mut expected: Vec<(String, Vec<usize>)> = [
        ("cls_token", vec![1, 1, 16]),
        ("pos_embed", vec![1, 5, 16]),
        ("patch_embed.proj.weight", vec![16, 3, 8, 8]),
        ("patch_embed.proj.bias", vec![16]),
        ("norm.weight", vec![16]),
        ("norm.bias", vec![16]),
        ("head.weight", vec![3, 16]),
        ("head.bias", vec![3]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .to_vec();
    for block in 0..2 {
        for (part, inputs, outputs) in [
            ("attn.qkv", 16, 48),
            ("attn.proj", 16, 16),
            ("mlp.fc1", 16, 64),
            ("mlp.fc2", 64, 16),
        ] {
            expected.push((
                format!("blocks.{block}.{part}.weight"),
                vec![outputs, inputs],
            ));
            expected.push((format!("blocks.{block}.{part}.bias"), vec![outputs]));
        }
        for norm in ["norm1", "norm2"] {
            for leaf in ["weight", "bias"] {
                expected.push((format!("blocks.{block}.{norm}.{leaf}"), vec![16]));
            }
        }
    }
    expected.sort();
    let found = tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.shape));
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

/// In half precision too: sound steps have the losses and norms of f32, and one that is skipped moves nothing.
pub fn learns_in_half_precision<B: TrainBackend>(device: &B::Device) {
    let (images, labels) = separable::<B>(12, device);
    let exact = trainer::<B>(&config(), device);
    let (_, exact) = exact.differentiate(images.clone(), &labels).unwrap();
    for precision in [Precision::F16, Precision::Bf16] {
        if B::check_precision(precision, device).is_err() {
            continue;
        }
        let config = FinetuneConfig {
            precision,
            ..config()
        };
        let mut trainer = trainer::<B>(&config, device);
        let mut sound = Vec::new();
        while sound.len() < 30 {
            let before = trainer.classifier.tensors();
            let step = trainer.step(images.clone(), &labels, 0.01).unwrap();
            let stays = trainer.classifier.tensors() == before;
            assert_eq!(stays, step.is_skipped, "{precision}: {step:?}");
            if step.is_skipped {
                assert_eq!(step.gradient_norm, 0.0);
            } else {
                sound.push(step);
            }
            assert!(trainer.steps() < 60, "{precision}: all steps are skipped");
        }
        let (first, last) = (sound[0], sound[29]);
        let off = |a: f32, b: f32| (a / b - 1.0).abs();
        assert!(off(first.loss, exact.loss) < 0.01, "{first:?} {exact:?}");
        assert!(
            off(first.gradient_norm, exact.gradient_norm) < 0.02,
            "{first:?} {exact:?}"
        );
        assert!(last.loss < 0.5 * first.loss, "{precision}: {last:?}");
    }
}
