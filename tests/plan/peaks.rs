//! What a step takes at most, by the plan and measured: all that is allocated on Flex, what lies in tensors on wgpu.

use std::sync::{Mutex, PoisonError};

use burn::module::Module as _;
use burn::tensor::Tensor;
use burn::tensor::TensorData;
use burn::tensor::backend::AutodiffBackend;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_wgpu::WgpuRuntime;
use cubecl::Runtime;
use ibot::backbone::{GlobalPool, VitConfig};
use ibot::device::{BackendChoice, DeviceGuard, Selected, choose};
use ibot::kernels::wgsl::peak_bytes_in_use;
use ibot::kernels::{Gpu, TrainBackend};
use ibot::masking::MaskRatio;
use ibot::method::{PrototypeNorm, StreamingPrototypes, TargetKind};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};
use ibot::train::plan::{Choosable, Plan};
use ibot::train::{OptimizerKind, Rates, RunConfig, StepInput, Trainer, TrainerConfig};

use crate::counting::{live, peak_of};
use crate::gpu;

/// One measurement at a time: what is counted is the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// The estimate may be off by this much.
const TOLERANCE: f64 = 0.2;

/// 2 080 tokens in four blocks: enough that tensors are nearly all that lives.
fn small() -> RunConfig {
    let mut config = RunConfig {
        batch_size: 16,
        ..RunConfig::default()
    };
    config.method.image_size = 32;
    config.method.projector_hidden_dim = 256;
    config.method.projector_bottleneck_dim = 64;
    config.method.n_cls_prototypes = 1024;
    config.method.n_patch_prototypes = 512;
    config.method.vit = Some(VitConfig {
        patch_size: 4,
        embed_dim: 96,
        depth: 4,
        num_heads: 3,
        ..VitConfig::default()
    });
    config
}

type Change = fn(&mut RunConfig);

/// Settings that change what a step takes.
const CASES: &[(&str, Change)] = &[
    ("plain", |_| {}),
    ("checkpointing", |c| c.method.grad_checkpointing = true),
    ("parts", |c| c.micro_batch_size = Some(4)),
    ("parts and checkpointing", |c| {
        c.micro_batch_size = Some(4);
        c.method.grad_checkpointing = true;
    }),
    ("local views", |c| {
        c.augment.local_views = 6;
        c.augment.local_size = 16;
    }),
    ("local views and checkpointing", |c| {
        c.augment.local_views = 6;
        c.augment.local_size = 16;
        c.method.grad_checkpointing = true;
    }),
    ("many prototypes, few images", |c| {
        c.batch_size = 2;
        c.method.n_cls_prototypes = 32_768;
        c.method.n_patch_prototypes = 8_192;
    }),
    ("many prototypes", |c| {
        c.method.n_cls_prototypes = 8_192;
        c.method.n_patch_prototypes = 16_384;
    }),
    ("prototypes in tiles", |c| {
        c.method.n_cls_prototypes = 8_192;
        c.method.n_patch_prototypes = 16_384;
        c.method.streaming_prototypes = StreamingPrototypes::Always;
    }),
    ("many prototypes in parts", |c| {
        c.method.n_patch_prototypes = 16_384;
        c.micro_batch_size = Some(5);
    }),
    ("KoLeo in parts", |c| {
        c.method.koleo_weight = 0.1;
        c.micro_batch_size = Some(4);
    }),
    ("DINOv2's", |c| {
        c.method.shared_head = true;
        c.method.n_patch_prototypes = 1024;
        c.method.prototype_norm = PrototypeNorm::Learned;
        c.method.koleo_weight = 0.1;
        c.method.drop_path_rate = 0.1;
        c.method.mask_ratio = MaskRatio::Range([0.1, 0.5]);
        c.method.cls_targets = TargetKind::Sinkhorn;
        let vit = c.method.vit.as_mut().unwrap();
        (vit.reg_tokens, vit.init_values) = (4, Some(1e-5));
        c.augment.local_views = 4;
        c.augment.local_size = 16;
    }),
    ("f16", |c| c.precision = Precision::F16),
    ("f16, parts and checkpointing", |c| {
        c.precision = Precision::F16;
        c.micro_batch_size = Some(4);
        c.method.grad_checkpointing = true;
    }),
    ("visible patches", |c| c.method.visible_loss_weight = 0.5),
    ("no mask", |c| c.method.mask_ratio = MaskRatio::Fixed(0.0)),
    ("SGD", |c| c.optimizer.name = OptimizerKind::Sgd),
    ("clipped one by one", |c| {
        c.optimizer.clip_each_gradient = Some(1.0);
    }),
    ("no class token", |c| {
        let vit = c.method.vit.as_mut().unwrap();
        (vit.class_token, vit.global_pool) = (false, GlobalPool::Avg);
    }),
];

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

fn input<B: TrainBackend>(config: &RunConfig, device: &B::Device) -> StepInput<B> {
    let mut random = Random::new(0, 0, 0, Stream::View(0));
    let (batch, augment) = (config.batch_size, &config.augment);
    let mut views = |count: usize, side: usize| -> Vec<Tensor<Inner<B>, 4>> {
        let shape = [batch, 3, side, side];
        let mut view = || random.fill(shape.iter().product(), Random::normal);
        (0..count)
            .map(|_| Tensor::from_data(TensorData::new(view(), shape), device))
            .collect()
    };
    let grid = [config.method.backbone().unwrap().side(); 2];
    StepInput {
        global_views: views(augment.global_views, augment.image_size),
        local_views: views(augment.local_views, augment.local_size),
        masks: config
            .method
            .mask_policy()
            .of_batch(0, 0, [augment.global_views, batch], grid),
    }
}

/// Makes a step, so that the optimizer has its state; then measures one. Also the plan's numbers of parameters and of bytes
/// of the state are those of the trainer.
fn measured<B: TrainBackend>(
    config: &RunConfig,
    plan: &Plan,
    guard: DeviceGuard,
    device: &B::Device,
    measure: &mut dyn FnMut(&mut dyn FnMut()),
) {
    let method = config.method.init::<B>(0, device).unwrap();
    let settings = TrainerConfig {
        optimizer: config.optimizer.clone(),
        micro_batch_size: config.micro_batch_size,
        precision: config.precision,
        ..TrainerConfig::default()
    };
    let mut trainer = settings.init(method, device.clone(), guard);
    let input = input::<B>(config, device);
    let rates = Rates {
        learning_rate: 1e-4,
        temperature_teacher: 0.04,
        ema_decay: 0.99,
        ..Rates::default()
    };
    trainer.step(&input, &rates).unwrap();
    measure(&mut || {
        trainer.step(&input, &rates).unwrap();
    });
    is_exact(config, plan, &trainer);
}

fn is_exact<B: TrainBackend>(
    config: &RunConfig,
    plan: &Plan,
    trainer: &Trainer<B, ibot::backbone::VisionTransformer<B>>,
) {
    let parameters = [
        trainer.method.student.num_params(),
        trainer.method.teacher.num_params(),
    ];
    let planned = [plan.parameters.student(), plan.parameters.teacher()];
    assert_eq!(planned, parameters.map(|count| count as u64));
    let state = trainer.tensors();
    let bytes: usize = state.values().map(|tensor| 4 * tensor.values.len()).sum();
    // what never gets a gradient has no moments: the patches' head without a mask, the norm after the pooling
    let has_mask = config.method.mask_ratio != MaskRatio::Fixed(0.0);
    if has_mask && config.method.backbone().unwrap().class_token {
        assert_eq!(plan.checkpoint_bytes, bytes as u64);
    }
}

/// Prints all cases, and fails if one is too far off.
fn compare(selected: &Selected, mut measure: impl FnMut(&RunConfig, &Plan) -> u64) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = std::env::var("IBOT_CHECK").unwrap_or_default();
    let mut wrong = Vec::new();
    for (name, change) in CASES.iter().filter(|(name, _)| name.contains(&wanted)) {
        let mut config = small();
        change(&mut config);
        let config = config.resolved().unwrap();
        let plan = Plan::new(&config, selected, 1000, Choosable::default()).unwrap();
        let (found, planned) = (measure(&config, &plan), plan.memory.peak_bytes);
        let ratio = planned as f64 / found as f64;
        let moment = plan.memory.moment;
        println!(
            "{name:<30} planned {planned:>11}, measured {found:>11}, ratio {ratio:.3}, {moment}"
        );
        if (ratio - 1.0).abs() > TOLERANCE {
            wrong.push(format!("{name}: {ratio:.3}\n{:#?}", plan.memory));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn peaks_on_flex() {
    compare(&Selected::Flex, |config, plan| {
        let before = live();
        let mut peak = 0;
        let mut measure = |step: &mut dyn FnMut()| peak = peak_of(step);
        measured::<Autodiff<Flex>>(
            config,
            plan,
            DeviceGuard::Cpu,
            &Default::default(),
            &mut measure,
        );
        (peak - before) as u64
    });
}

#[test]
fn peaks_on_wgpu() {
    let Some((device, guard)) = gpu::device() else {
        return;
    };
    let selected = choose(BackendChoice::Wgpu, None).unwrap().selected;
    compare(&selected, |config, plan| {
        guard.check_sync::<Gpu>(&device).unwrap();
        let before = WgpuRuntime::client(&device)
            .memory_usage()
            .unwrap()
            .bytes_in_use;
        let mut peak = 0;
        let mut measure = |step: &mut dyn FnMut()| peak = peak_bytes_in_use(step);
        measured::<Autodiff<Gpu>>(config, plan, guard.clone(), &device, &mut measure);
        peak - before
    });
}
