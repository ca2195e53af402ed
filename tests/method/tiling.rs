//! Logits that come in tiles.

use burn::tensor::backend::AutodiffBackend;
use burn_autodiff::Autodiff;
use ibot::kernels::wgsl::peak_bytes_in_use;
use ibot::kernels::{Gpu, IbotBackend, TrainBackend};
use ibot::method::IbotInput;
use ibot::method::PrototypeNorm;
use ibot::method::{IbotConfig, PatchWeight, StreamingPrototypes, TargetKind};
use ibot::random::{Random, Stream};
use ibot::train::Gradients;

use crate::parts::{all_losses, assert_same_step, one_step};
use crate::{assert_close, random_views, tiny, values};

/// Losses, gradients and centers are those of stored logits: tiles of one prototype and of some, both kinds of targets,
/// all kinds of heads, a whole batch and one in parts.
pub fn steps_equal_stored<B: TrainBackend>(device: &B::Device) {
    let sinkhorn = all_losses(TargetKind::Sinkhorn, PatchWeight::Image);
    let shared_by_teacher = IbotConfig {
        shared_head_teacher: Some(true),
        n_patch_prototypes: 20,
        prototype_norm: PrototypeNorm::Fixed,
        ..sinkhorn.clone()
    };
    let shared = IbotConfig {
        shared_head: true,
        prototype_norm: PrototypeNorm::Learned,
        ..all_losses(TargetKind::Centering, PatchWeight::Patch)
    };
    for (config, tile_entries, micro_batch_size) in [
        (&sinkhorn, 1, None),
        (&shared_by_teacher, 128 * 3, Some(8)),
        (&shared, 128 * 7, None),
    ] {
        let run = |streaming_prototypes| {
            let config = IbotConfig {
                streaming_prototypes,
                ..config.clone()
            };
            let mut method = config.init::<B>(3, device).unwrap();
            method.tile_entries = tile_entries;
            one_step(method, micro_batch_size, device)
        };
        let stored = run(StreamingPrototypes::Never);
        assert_same_step(&run(StreamingPrototypes::Always), &stored);
    }
}

/// What a probe sees does not depend on the tiles.
pub fn health_statistics_do_not_see_tiles<B: TrainBackend>(device: &B::Device) {
    let views = random_views(4, device);
    let masks: Vec<bool> = (0..32).map(|patch| patch % 3 == 0).collect();
    let config = IbotConfig {
        patch_targets: TargetKind::Centering,
        ..tiny()
    };
    let probe = |tile_entries: usize| {
        let mut method = config.init::<B>(3, device).unwrap();
        method.tile_entries = tile_entries;
        let random = Random::new(0, 0, 0, Stream::DropPath(0));
        let input = IbotInput::<B> {
            global_views: views.clone(),
            local_views: Vec::new(),
            masks: masks.clone(),
            temperature_cls: 0.04,
            temperature_patch: 0.05,
            freeze_backbone: false,
            drop_path_rngs: vec![random; 8],
        };
        let found = method.health_stats(&input).unwrap();
        let patch = found.patch.unwrap();
        let of_targets = [found.cls, patch].map(|targets| {
            [
                targets.entropy,
                targets.entropy_of_mean,
                targets.largest_logit,
            ]
        });
        let numbers = of_targets.into_iter().flatten();
        let numbers = numbers.chain([found.agreement, found.feature_std]);
        numbers.flat_map(values).collect::<Vec<f32>>()
    };
    let whole: Vec<f64> = probe(1 << 22).into_iter().map(f64::from).collect();
    assert!(whole[0] > 0.1 && whole[1] > whole[0], "{whole:?}");
    assert_close(&probe(24), &whole, 1e-5);
}

/// 65 536 prototypes for 520 masked patches: 130 MiB of logits a network, of which 32 MiB are ever there. lavapipe binds less than that,
/// so that "auto" has to choose tiles.
pub fn many_prototypes_in_little_memory(
    device: &<Autodiff<Gpu> as burn::tensor::backend::BackendTypes>::Device,
) {
    type B = Autodiff<Gpu>;
    let logits_bytes = 520 * 65_536 * size_of::<f32>();
    let most = <B as AutodiffBackend>::InnerBackend::max_logit_rows(65_536, device);
    println!("{most} rows of 65536 fit one tensor, there are 520");
    let config = IbotConfig {
        n_patch_prototypes: 65_536,
        streaming_prototypes: if most < 520 {
            StreamingPrototypes::Auto
        } else {
            StreamingPrototypes::Always
        },
        ..tiny()
    };
    let views = random_views(130, device);
    let masks: Vec<bool> = (0..1040).map(|patch| patch % 2 == 0).collect();
    let mut method = config.init::<B>(3, device).unwrap();
    // a GPU with more memory takes larger tiles
    method.tile_entries = 1 << 22;
    let peak = peak_bytes_in_use(&mut || {
        let output = method.forward(&views, &masks, 0.04).unwrap();
        let grads = Gradients::backward(&output.loss).by_name(&method.student);
        let gradient = &grads["network.patch_head.prototypes.weight"].values;
        assert!(gradient.iter().any(|x| *x != 0.0) && gradient.iter().all(|x| x.is_finite()));
        assert!(values(output.terms.patch)[0] > 1.0);
    });
    println!("{} MiB at most in use", peak >> 20);
    assert!(peak < logits_bytes as u64 / 2, "{peak} bytes in use");
}
