//! What the method asks of a backbone, and a backbone that is not ours.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::backend::{AutodiffBackend, Backend};
use ibot::backbone::{Backbone, PatchMask, Tokens};
use ibot::device::DeviceGuard;
use ibot::files::state_dict;
use ibot::kernels::TrainBackend;
use ibot::random::{Random, Stream};
use ibot::train::{Rates, StepInput, TrainerConfig};

use crate::{assert_close, random_views, tiny, tiny_method, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// With every patch masked, tokens must not depend on the image; with none masked, they must.
pub fn mask_token_hides_the_image<B: TrainBackend>(device: &B::Device) {
    let method = tiny_method::<B>(device);
    let views = random_views::<Inner<B>>(2, device);
    let tokens = |masked: bool| {
        let mask = PatchMask {
            masked: Tensor::full([2, 4, 1], f64::from(u8::from(masked)), device),
            token: method.student.mask_token.val().inner(),
        };
        let seen = |view: usize| {
            let backbone = &method.teacher.backbone;
            values(
                backbone
                    .tokens(views[view].clone(), Some(mask.clone()))
                    .patches,
            )
        };
        (seen(0), seen(1))
    };
    let (hidden, hidden_too) = tokens(true);
    assert_eq!(hidden, hidden_too);
    // positions are added after the mask: masked patches still differ from each other
    assert_ne!(hidden[..16], hidden[16..32]);
    let (seen, seen_too) = tokens(false);
    assert_ne!(seen, seen_too);
}

/// What each of the last blocks gives is what a network without those above it gives.
pub fn intermediate_layers_are_those_of_shorter_networks<B: TrainBackend>(device: &B::Device) {
    let mut config = tiny();
    config.vit.as_mut().unwrap().depth = 3;
    let mut backbone = config.init::<B>(3, device).unwrap().teacher.backbone;
    let view = random_views::<Inner<B>>(2, device).swap_remove(0);
    for (count, layers) in [(0, 1), (2, 2), (9, 3)] {
        assert_eq!(
            backbone.intermediate_layers(view.clone(), count).len(),
            layers
        );
    }
    for layer in backbone
        .intermediate_layers(view.clone(), 3)
        .into_iter()
        .rev()
    {
        let expected: Vec<f64> = values(backbone.forward_features(view.clone(), None))
            .into_iter()
            .map(f64::from)
            .collect();
        assert_close(&values(layer), &expected, 1e-5);
        backbone.blocks.pop();
    }
}

/// One hidden layer on each patch, and the mean of the patches as class token.
#[derive(Module, Debug)]
struct PatchMlp<B: Backend> {
    embed: Linear<B>,
    mix: Linear<B>,
}

impl<B: Backend> Backbone<B> for PatchMlp<B> {
    fn width(&self) -> usize {
        16
    }

    fn patches(&self) -> usize {
        4
    }

    fn tokens(&self, images: Tensor<B, 4>, mask: Option<PatchMask<B>>) -> Tokens<B> {
        let [batch, ..] = images.dims();
        let patches = images
            .reshape([batch, 3, 2, 8, 2, 8])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, 4, 192]);
        let embedded = self.embed.forward(patches);
        let embedded = match mask {
            Some(mask) => mask.apply(embedded),
            None => embedded,
        };
        let context = embedded.clone().mean_dim(1);
        let patches = self.mix.forward(relu(embedded) + context);
        Tokens {
            cls: patches.clone().mean_dim(1).squeeze_dim(1),
            patches,
        }
    }
}

pub fn a_custom_backbone_learns<B: TrainBackend>(device: &B::Device) {
    let backbone = PatchMlp {
        embed: LinearConfig::new(192, 16).init::<B>(device),
        mix: LinearConfig::new(16, 16).init::<B>(device),
    };
    let mut random = Random::new(2, 0, 0, Stream::Init);
    let method = tiny().init_with(backbone, &mut random, device).unwrap();
    // the user's parameters are lazy: the teacher must not draw its own
    assert_eq!(
        state_dict(&method.student.network),
        state_dict(&method.teacher)
    );
    let mut trainer = TrainerConfig::default().init(method, device.clone(), DeviceGuard::Cpu);
    let input = StepInput::<B> {
        global_views: random_views(4, device),
        local_views: Vec::new(),
        masks: (0..32).map(|patch| patch % 3 == 0).collect(),
    };
    let rates = Rates {
        learning_rate: 5e-3,
        temperature_teacher: 0.04,
        ema_decay: 0.999,
        ..Rates::default()
    };
    let mut losses = Vec::new();
    for _ in 0..25 {
        losses.push(trainer.step(&input, &rates).unwrap().loss_patch);
    }
    assert!(losses[24] < 0.8 * losses[1], "{losses:?}");
}
