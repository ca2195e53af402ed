//! Blocks that run twice.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use ibot::kernels::TrainBackend;
use ibot::method::IbotConfig;
use ibot::method::IbotInput;
use ibot::random::{Random, Stream};
use ibot::train::Gradients;

use crate::{assert_close, tiny, values};

/// With and without checkpointing the losses are the same, and so are the gradients of all parameters.
pub fn the_same_gradients<B: TrainBackend>(device: &B::Device) {
    for (init_values, drop_path_rate) in [(None, 0.0), (Some(0.3), 0.5)] {
        let run = |grad_checkpointing: bool| {
            let mut config = IbotConfig {
                grad_checkpointing,
                drop_path_rate,
                ..tiny()
            };
            if let Some(vit) = &mut config.vit {
                (vit.depth, vit.init_values) = (2, init_values);
            }
            let mut method = config.init::<B>(5, device).unwrap();
            let mut random = Random::new(9, 0, 0, Stream::View(0));
            let mut view = || {
                let values = random.fill(4 * 3 * 16 * 16, Random::normal);
                Tensor::from_data(TensorData::new(values, [4, 3, 16, 16]), device)
            };
            let views: Vec<Tensor<<B as AutodiffBackend>::InnerBackend, 4>> = vec![view(), view()];
            let masks: Vec<bool> = (0..32).map(|patch| patch % 3 == 0).collect();
            let generators = (0..8).map(|at| Random::new(0, 0, at, Stream::DropPath(0)));
            let input = IbotInput {
                global_views: views,
                local_views: Vec::new(),
                masks,
                temperature_cls: 0.04,
                temperature_patch: 0.04,
                freeze_backbone: false,
                drop_path_rngs: generators.collect(),
            };
            let output = method.forward_crops(input).unwrap();
            let gradients = Gradients::backward(&output.loss).by_name(&method.student);
            (values(output.loss), gradients)
        };
        let (kept, twice) = (run(false), run(true));
        assert_close(&twice.0, &[f64::from(kept.0[0])], 1e-6);
        assert_eq!(
            kept.1.keys().collect::<Vec<_>>(),
            twice.1.keys().collect::<Vec<_>>()
        );
        assert!(
            kept.1
                .contains_key("network.backbone.blocks.0.attn.qkv.bias")
        );
        for (name, kept) in &kept.1 {
            let expected: Vec<f64> = kept.values.iter().map(|x| f64::from(*x)).collect();
            let largest = expected.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
            assert!(largest > 0.0, "{name} has no gradient");
            assert_close(&twice.1[name].values, &expected, 1e-5);
        }
    }
}
