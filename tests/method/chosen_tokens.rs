//! The tokens that losses look at are those among all tokens, with the same gradients.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use ibot::backbone::{Backbone, ChosenTokens, GlobalPool, PatchMask, VitConfig};
use ibot::kernels::{RowIndices, TrainBackend};
use ibot::random::{Random, Stream};
use ibot::train::Gradients;

use crate::{assert_close, values};

const IMAGES: usize = 3;
const WIDTH: usize = 8;

/// Masked images of 16 x 16 pixels, in patches of 4.
fn batch<B: TrainBackend>(device: &B::Device) -> (Tensor<B, 4>, PatchMask<B>) {
    let mut random = Random::new(4, 0, 0, Stream::View(0));
    let mut tensor = |shape: [usize; 4]| {
        let count = shape.iter().product();
        let data = TensorData::new(random.fill(count, Random::normal), shape);
        Tensor::<B, 4>::from_data(data, device)
    };
    let images = tensor([IMAGES, 3, 16, 16]);
    let token = tensor([1, 1, 1, WIDTH]).reshape([1, 1, WIDTH]);
    let masked = (0..IMAGES * 16).map(|patch| f32::from(u8::from(patch % 3 == 0)));
    let masked: Vec<f32> = masked.collect();
    let masked = Tensor::from_data(TensorData::new(masked, [IMAGES, 16, 1]), device);
    (images, PatchMask { masked, token })
}

/// With registers, LayerScale, drop path and checkpointing, with many patches, one, and none; and without a class token,
/// where the feature is the mean of all tokens.
pub fn are_those_of_all_tokens<B: TrainBackend>(device: &B::Device) {
    let vit = VitConfig {
        img_size: 16,
        patch_size: 4,
        embed_dim: WIDTH,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.0,
        ..VitConfig::default()
    };
    let recipe = VitConfig {
        reg_tokens: 2,
        init_values: Some(0.3),
        drop_path_rate: 0.5,
        ..vit.clone()
    };
    let checkpointed = VitConfig {
        grad_checkpointing: true,
        ..recipe.clone()
    };
    let without_class = VitConfig {
        class_token: false,
        global_pool: GlobalPool::Avg,
        ..vit.clone()
    };
    let many: Vec<i32> = (0..48).filter(|place| place % 3 == 0).collect();
    for config in [vit, recipe, checkpointed, without_class] {
        for indices in [many.clone(), vec![47], vec![]] {
            let indices = RowIndices::new(indices, IMAGES * 16);
            same::<B>(&config, &indices, device);
        }
    }
}

fn same<B: TrainBackend>(config: &VitConfig, indices: &RowIndices, device: &B::Device) {
    let mut random = Random::new(7, 0, 0, Stream::Init);
    let vit = config.init::<B>(&mut random, device).unwrap();
    // a forward pass from parameters of its own: burn frees those of another's graph
    let run = |chosen: bool| {
        let vit = vit.clone();
        let (images, mask) = batch::<B>(device);
        let mut rngs: Vec<Random> = (0..IMAGES as u64)
            .map(|at| Random::new(1, 0, at, Stream::DropPath(0)))
            .collect();
        let tokens = if chosen {
            vit.chosen_tokens(images, Some(mask), &mut rngs, indices)
        } else {
            let tokens = vit.training_tokens(images, Some(mask), &mut rngs);
            tokens.chosen(indices)
        };
        let ChosenTokens { cls, patches } = tokens;
        assert_eq!(patches.is_some(), !indices.is_empty());
        // each entry counts by its own weight
        let weighed = |tokens: Tensor<B, 2>| {
            let [rows, width] = tokens.dims();
            let weights = (0..rows * width).map(|at| (at % 7) as f32 - 3.0);
            let weights = TensorData::new(weights.collect::<Vec<_>>(), [rows, width]);
            (tokens * Tensor::from_data(weights, device)).sum()
        };
        let found =
            [Some(cls.clone()), patches.clone()].map(|tokens| tokens.map_or(vec![], values));
        let loss = weighed(cls) + patches.map_or_else(|| Tensor::zeros([1], device), weighed);
        (found, gradients(&loss, &vit))
    };
    let ([cls, patches], gradients) = run(true);
    let ([all_cls, all_patches], of_all) = run(false);
    let exact = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    assert_close(&cls, &exact(all_cls), 1e-5);
    assert_close(&patches, &exact(all_patches), 1e-5);
    assert_eq!(gradients.len(), of_all.len());
    for ((name, found), (_, expected)) in gradients.into_iter().zip(of_all) {
        let largest = expected.iter().fold(1.0_f32, |max, x| max.max(x.abs()));
        let scaled = |values: Vec<f32>| values.into_iter().map(|x| x / largest).collect::<Vec<_>>();
        println!("{name}");
        assert_close(&scaled(found), &exact(scaled(expected)), 1e-5);
    }
}

fn gradients<B: TrainBackend, M: Module<B>>(
    loss: &Tensor<B, 1>,
    module: &M,
) -> Vec<(String, Vec<f32>)> {
    let by_name = Gradients::backward(loss).by_name(module);
    let by_name = by_name.into_iter();
    by_name.map(|(name, found)| (name, found.values)).collect()
}
