//! A whole step in half precision against one in f32: gradients, memory, launches.

use burn::tensor::{DType, Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_wgpu::{WgpuDevice, WgpuRuntime};
use cubecl::Runtime;
use ibot::backbone::{Backbone as _, GlobalPool, VitConfig};
use ibot::kernels::Gpu;
use ibot::kernels::wgsl::{Launched, observe, peak_bytes_in_use};
use ibot::method::{IbotConfig, IbotInput};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};
use ibot::train::Gradients;

use crate::precision::is_there;
use crate::rows::wide;
use crate::values;

type B = Autodiff<Gpu>;

/// Gradients by parameter, in numbers of the host.
type ByName = Vec<(String, Vec<f64>)>;

/// A method whose students have so wide tokens, so many blocks and heads.
fn config([embed_dim, depth, num_heads]: [usize; 3], image_size: usize) -> IbotConfig {
    IbotConfig {
        image_size,
        projector_hidden_dim: 64,
        projector_bottleneck_dim: 32,
        n_cls_prototypes: 256,
        n_patch_prototypes: 128,
        drop_path_rate: 0.2,
        vit: Some(VitConfig {
            img_size: image_size,
            patch_size: 8,
            embed_dim,
            depth,
            num_heads,
            ..VitConfig::default()
        }),
        ..IbotConfig::default()
    }
}

fn input(batch: usize, side: usize, device: &WgpuDevice) -> IbotInput<B> {
    let mut random = Random::new(9, 0, 0, Stream::View(0));
    let mut view = || {
        let values = random.fill(batch * 3 * side * side, Random::normal);
        Tensor::<Gpu, 4>::from_data(TensorData::new(values, [batch, 3, side, side]), device)
    };
    let generators = (0..2 * batch as u64).map(|at| Random::new(0, 0, at, Stream::DropPath(0)));
    IbotInput {
        global_views: vec![view(), view()],
        local_views: Vec::new(),
        masks: (0..2 * batch * (side / 8).pow(2))
            .map(|patch| patch % 3 == 0)
            .collect(),
        temperature_cls: 0.04,
        temperature_patch: 0.04,
        freeze_backbone: false,
        drop_path_rngs: generators.collect(),
    }
}

/// The loss of one step, times `scale` in its backward pass, and the gradients, of which that is taken again.
fn step(
    config: &IbotConfig,
    input: IbotInput<B>,
    scale: f64,
    device: &WgpuDevice,
) -> (f32, ByName) {
    let mut method = config.init::<B>(5, device).unwrap();
    let output = method.forward_crops(input).unwrap();
    let gradients = Gradients::backward(&(output.loss.clone() * scale)).by_name(&method.student);
    let gradients = gradients.into_iter().map(|(name, found)| {
        let values = found.values.iter().map(|x| f64::from(*x) / scale).collect();
        (name, values)
    });
    (output.loss.into_scalar(), gradients.collect())
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn launches(all: &[Launched]) -> usize {
    all.iter().map(|launched| launched.launches).sum()
}

/// On a step of ViT-S's width the gradient of each parameter points where that of f32 does; with no launch more. The same with
/// entries one by one, LayerScale, register tokens and blocks that run twice.
pub fn gradients(device: &WgpuDevice) {
    if !is_there(device) {
        return;
    }
    same_direction(&config([384, 2, 6], 32), device);
    let mut odd = IbotConfig {
        grad_checkpointing: true,
        ..config([42, 3, 3], 24)
    };
    if let Some(vit) = &mut odd.vit {
        (vit.init_values, vit.reg_tokens, vit.qkv_bias) = (Some(0.3), 2, false);
    }
    same_direction(&odd, device);
}

fn same_direction(config: &IbotConfig, device: &WgpuDevice) {
    let side = config.image_size;
    let run = |precision: Precision, scale| {
        let work = || step(config, input(2, side, device), scale, device);
        observe(|| precision.autocast(work))
    };
    let ((loss, expected), of_f32) = run(Precision::F32, 1.0);
    let ((half_loss, found), of_f16) = run(Precision::F16, 1024.0);
    let apart = (half_loss - loss).abs() / loss;
    assert!(apart < 0.01, "a loss of {half_loss}, not {loss}");
    assert_eq!(found.len(), expected.len());
    let mut least = 1.0_f64;
    for ((name, found), (of_expected, expected)) in found.iter().zip(&expected) {
        assert_eq!(name, of_expected);
        let cosine = cosine(found, expected);
        assert!(cosine > 0.999, "{name}: {cosine}");
        least = least.min(cosine);
    }
    let [half, whole] = [of_f16, of_f32].map(|all| launches(&all));
    println!("losses {half_loss} and {loss}, least cosine {least}, {half} launches for {whole}");
    assert!(half <= whole, "{half} launches, {whole} in f32");
}

/// What leaves a network is f32, and close to what f32 makes; with each way to pool, and the attention to look at.
pub fn features(device: &WgpuDevice) {
    if !is_there(device) {
        return;
    }
    let images = input(3, 32, device).global_views.swap_remove(0);
    for pool in [GlobalPool::Token, GlobalPool::Avg, GlobalPool::Max] {
        let vit = VitConfig {
            global_pool: pool,
            ..config([64, 3, 2], 32).vit.unwrap()
        };
        let mut random = Random::new(3, 0, 0, Stream::Init);
        let network = vit.init::<Gpu>(&mut random, device).unwrap();
        let run = |precision: Precision| {
            precision.autocast(|| {
                let embedded = network.embed(images.clone());
                assert_eq!(embedded.dtype(), DType::F32);
                let maps = network.last_selfattention(images.clone());
                let mut layers = network.intermediate_layers(images.clone(), 2);
                assert_eq!(layers[0].dtype(), DType::F32);
                [
                    wide(&values(embedded)),
                    wide(&values(maps)),
                    wide(&values(layers.swap_remove(0))),
                ]
            })
        };
        let [found, expected] = [Precision::F16, Precision::F32].map(run);
        assert_ne!(found[0], expected[0], "f16 is not taken");
        for (found, expected) in found.iter().zip(&expected) {
            let cosine = cosine(found, expected);
            assert!(cosine > 0.9999, "{pool:?}: {cosine}");
        }
    }
}

/// Activations are most of what a narrow network with many images keeps.
pub fn memory(device: &WgpuDevice) {
    if !is_there(device) {
        return;
    }
    let config = config([64, 6, 2], 32);
    let in_use = || {
        let usage = WgpuRuntime::client(device).memory_usage().unwrap();
        usage.bytes_in_use
    };
    let peak = |precision: Precision| {
        let before = in_use();
        let work = || drop(step(&config, input(64, 32, device), 1.0, device));
        peak_bytes_in_use(&mut || precision.autocast(work)) - before
    };
    let [half, whole] = [Precision::F16, Precision::F32].map(peak);
    let share = half as f64 / whole as f64;
    println!("{half} bytes at most in f16, {whole} in f32: {share}");
    assert!(share < 0.6, "{half} bytes in f16, {whole} in f32");
}
