//! What the reference lacks: local crops, shared and normalized heads, more losses, drop path.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use ibot::backbone::Backbone;
use ibot::files::state_dict;
use ibot::kernels::TrainBackend;
use ibot::method::PrototypeNorm;
use ibot::method::losses::koleo_loss;
use ibot::method::{IbotConfig, PatchWeight, TargetKind};
use ibot::method::{IbotInput, IbotOutput, VitIbot};
use ibot::random::{Random, Stream};
use ibot::train::Gradients;

use crate::{assert_close, random_views, tiny, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// Every other patch of two views of two images.
fn masks() -> Vec<bool> {
    (0..16).map(|patch| patch % 2 == 0).collect()
}

fn local_views<B: TrainBackend>(seed: u64, device: &B::Device) -> Vec<Tensor<Inner<B>, 4>> {
    let mut random = Random::new(seed, 0, 0, Stream::View(9));
    let mut view = || {
        let values = random.fill(2 * 3 * 8 * 8, Random::normal);
        Tensor::from_data(TensorData::new(values, [2, 3, 8, 8]), device)
    };
    vec![view(), view(), view()]
}

fn forward<B: TrainBackend>(
    method: &mut VitIbot<B>,
    local_views: &[Tensor<Inner<B>, 4>],
    masks: &[bool],
    seed: u64,
    device: &B::Device,
) -> IbotOutput<B> {
    let views = 2 + local_views.len() as u64;
    let generators = (0..2 * views).map(|at| Random::new(seed, 0, at, Stream::DropPath(0)));
    let input = IbotInput {
        global_views: random_views(2, device),
        local_views: local_views.to_vec(),
        masks: masks.to_vec(),
        temperature_cls: 0.04,
        temperature_patch: 0.05,
        freeze_backbone: false,
        drop_path_rngs: generators.collect(),
    };
    method.forward_crops(input).unwrap()
}

fn method<B: TrainBackend>(config: &IbotConfig, device: &B::Device) -> VitIbot<B> {
    config.init(3, device).unwrap()
}

/// Local crops of half the side reach the class-token loss, and neither the patch loss nor the teacher.
pub fn local_crops<B: TrainBackend>(device: &B::Device) {
    let with = |local: &[Tensor<Inner<B>, 4>]| {
        let output = forward(
            &mut method::<B>(&tiny(), device),
            local,
            &masks(),
            0,
            device,
        );
        let [cls, patch] = [output.terms.cls, output.terms.patch].map(|loss| values(loss)[0]);
        (cls, patch, values(output.embedding))
    };
    let none = with(&[]);
    let (first, second) = (
        with(&local_views::<B>(1, device)),
        with(&local_views::<B>(2, device)),
    );
    assert_ne!(first.0, second.0);
    assert_ne!(first.0, none.0);
    assert_eq!((first.1, &first.2), (none.1, &none.2));
    assert_eq!((second.1, &second.2), (none.1, &none.2));
    // by the formula, from the logits of both networks
    let method = method::<B>(&tiny(), device);
    let locals = local_views::<B>(1, device);
    let cls = |view: &Tensor<Inner<B>, 4>| method.teacher.backbone.tokens(view.clone(), None).cls;
    // student and teacher are equal at the start; its global views are masked, so only local ones can be compared so
    let logits = |view: &Tensor<Inner<B>, 4>| {
        let logits = method.teacher.cls_head.forward(cls(view));
        values(logits)
            .chunks(20)
            .map(<[f32]>::to_vec)
            .collect::<Vec<_>>()
    };
    let softmax = |row: &[f32], temperature: f64| -> Vec<f64> {
        let exps: Vec<f64> = row
            .iter()
            .map(|x| (f64::from(*x) / temperature).exp())
            .collect();
        let sum: f64 = exps.iter().sum();
        exps.into_iter().map(|x| x / sum).collect()
    };
    let mut of_locals = 0.0;
    for global in &random_views::<Inner<B>>(2, device) {
        for local in &locals {
            for (teacher, student) in logits(global).iter().zip(&logits(local)) {
                let targets = softmax(teacher, 0.04);
                let probs = softmax(student, 0.1);
                let terms = targets.iter().zip(&probs).map(|(q, p)| -q * p.ln());
                of_locals += terms.sum::<f64>() / 2.0;
            }
        }
    }
    // 2 pairs of global views, 6 with local ones
    let expected = (2.0 * f64::from(none.0) + of_locals) / 8.0;
    assert_close(&[first.0], &[expected], 1e-4);
}

/// Shared: one head learns from both losses, and patches have the class tokens' prototypes.
pub fn shared_head<B: TrainBackend>(device: &B::Device) {
    let config = IbotConfig {
        shared_head: true,
        ..tiny()
    };
    let mut method = method::<B>(&config, device);
    assert!(method.student.network.patch_head.is_none() && method.teacher.patch_head.is_none());
    let output = forward(&mut method, &[], &masks(), 0, device);
    let both = Gradients::backward(&output.loss).by_name(&method.student);
    assert!(both.keys().all(|name| !name.contains("patch_head")));
    let only_cls = IbotConfig {
        patch_loss_weight: 0.0,
        ..config
    };
    let mut method = self::method::<B>(&only_cls, device);
    let output = forward(&mut method, &[], &masks(), 0, device);
    let cls = Gradients::backward(&output.loss).by_name(&method.student);
    let name = "network.cls_head.prototypes.weight";
    assert_ne!(both[name].values, cls[name].values);
}

/// Shared by the teacher alone: the student's patch head learns what the teacher's one head says, and is no part of the
/// average.
pub fn teachers_shared_head<B: TrainBackend>(device: &B::Device) {
    let config = IbotConfig {
        shared_head_teacher: Some(true),
        n_patch_prototypes: tiny().n_cls_prototypes,
        ..tiny()
    };
    let mut method = method::<B>(&config, device);
    assert!(method.student.network.patch_head.is_some() && method.teacher.patch_head.is_none());
    let output = forward(&mut method, &[], &masks(), 0, device);
    let grads = Gradients::backward(&output.loss).by_name(&method.student);
    let gradient = &grads["network.patch_head.prototypes.weight"].values;
    assert!(gradient.iter().any(|value| *value != 0.0));
    let own = IbotConfig {
        shared_head_teacher: None,
        ..config.clone()
    };
    let of_own_head = forward(
        &mut self::method::<B>(&own, device),
        &[],
        &masks(),
        0,
        device,
    );
    assert_ne!(values(output.terms.patch), values(of_own_head.terms.patch));
    assert_eq!(values(output.terms.cls), values(of_own_head.terms.cls));
    method.update_teacher(0.0, None);
    let copied = state_dict(&method.teacher);
    assert!(copied.keys().all(|name| !name.contains("patch_head")));
    for (wrong, key) in [
        (
            IbotConfig {
                n_patch_prototypes: 7,
                ..config
            },
            "n_patch_prototypes",
        ),
        (
            IbotConfig {
                shared_head: true,
                shared_head_teacher: Some(false),
                ..tiny()
            },
            "shared_head",
        ),
    ] {
        let error = wrong.validate().unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

/// Prototypes of length one give cosines; learned lengths start there, and learn.
pub fn prototype_norms<B: TrainBackend>(device: &B::Device) {
    let logits = |norm| {
        let config = IbotConfig {
            prototype_norm: norm,
            ..tiny()
        };
        let method = method::<B>(&config, device);
        let tokens = Tensor::<B, 2>::from_data(
            TensorData::new(
                Random::new(1, 0, 0, Stream::Init).fill(48, Random::normal),
                [3, 16],
            ),
            device,
        );
        values(method.student.network.cls_head.forward(tokens))
    };
    let [free, fixed, learned] = [
        PrototypeNorm::None,
        PrototypeNorm::Fixed,
        PrototypeNorm::Learned,
    ]
    .map(logits);
    assert!(fixed.iter().all(|cosine| cosine.abs() <= 1.0 + 1e-5));
    assert_ne!(free, fixed);
    let expected: Vec<f64> = fixed.iter().map(|x| f64::from(*x)).collect();
    assert_close(&learned, &expected, 1e-6);
    let config = IbotConfig {
        prototype_norm: PrototypeNorm::Learned,
        ..tiny()
    };
    let mut method = method::<B>(&config, device);
    let output = forward(&mut method, &[], &masks(), 0, device);
    let grads = Gradients::backward(&output.loss).by_name(&method.student);
    let lengths = &grads["network.cls_head.prototype_length"].values;
    assert!(lengths.iter().any(|x| *x != 0.0));
    assert_eq!(
        state_dict(&method.teacher)["cls_head.prototype_length"].values,
        [1.0; 20]
    );
}

/// Each loss counts by its weight, and KoLeo is that of the student's class tokens, view by view.
pub fn losses_by_weight<B: TrainBackend>(device: &B::Device) {
    let config = IbotConfig {
        cls_loss_weight: 0.5,
        patch_loss_weight: 2.0,
        visible_loss_weight: 0.25,
        koleo_weight: 0.1,
        patch_weight: PatchWeight::Image,
        ..tiny()
    };
    let mut method = method::<B>(&config, device);
    let output = forward(&mut method, &[], &masks(), 0, device);
    let one = |tensor| f64::from(values::<Inner<B>, 1>(tensor)[0]);
    let visible = one(output.terms.visible.unwrap());
    let koleo = one(output.terms.koleo.unwrap());
    let (cls, patch) = (one(output.terms.cls), one(output.terms.patch));
    assert!(visible > 0.0 && visible != patch);
    let expected = 0.5 * cls + 2.0 * patch + 0.25 * visible + 0.1 * koleo;
    assert_close(&values(output.loss), &[expected], 1e-5);
    // nothing masked: the student sees what the teacher sees, and both are equal at the start
    let mut method = self::method::<B>(&config, device);
    let output = forward(&mut method, &[], &[false; 16], 0, device);
    assert_eq!(values(output.terms.patch), [0.0]);
    let of_view = |view: usize| {
        let cls = output.embedding.clone().narrow(0, 2 * view, 2);
        f64::from(values(koleo_loss(cls, 1e-8))[0])
    };
    assert_close(
        &values(output.terms.koleo.unwrap()),
        &[of_view(0) + of_view(1)],
        1e-4,
    );
}

/// Centered patch targets have a center of their own, which each batch moves.
pub fn centered_patches<B: TrainBackend>(device: &B::Device) {
    let config = IbotConfig {
        patch_targets: TargetKind::Centering,
        ..tiny()
    };
    let mut method = method::<B>(&config, device);
    assert!(method.patch_center.value().is_none());
    forward(&mut method, &[], &masks(), 0, device);
    let first = values(method.patch_center.value().unwrap());
    assert_eq!(first.len(), 10);
    // every other patch of the teacher's
    let images = Tensor::cat(random_views::<Inner<B>>(2, device), 0);
    let patches = method
        .teacher
        .backbone
        .tokens(images, None)
        .patches
        .reshape([16, 16]);
    let logits = values(method.teacher.head_of_patches().forward(patches));
    let mean = |k: usize| {
        (0..8)
            .map(|row| f64::from(logits[20 * row + k]))
            .sum::<f64>()
            / 8.0
    };
    assert_close(&first, &(0..10).map(mean).collect::<Vec<_>>(), 1e-5);
}

/// Equal draws give equal bits, others do not, and without a rate nothing is dropped.
pub fn drop_path<B: TrainBackend>(device: &B::Device) {
    let mut config = IbotConfig {
        drop_path_rate: 0.9,
        ..tiny()
    };
    config.vit.as_mut().unwrap().depth = 3;
    let loss = |config: &IbotConfig, seed: u64| {
        let output = forward(
            &mut method::<B>(config, device),
            &[],
            &masks(),
            seed,
            device,
        );
        (values(output.loss), values(output.embedding))
    };
    let (first, second) = (loss(&config, 1), loss(&config, 2));
    assert_eq!(first, loss(&config, 1));
    assert_ne!(first.0, second.0);
    assert_eq!(first.1, second.1, "the teacher drops nothing");
    config.drop_path_rate = 0.0;
    assert_eq!(loss(&config, 1), loss(&config, 2));
}
