//! Which rows the heads see, and losses where there is nothing to predict.

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use ibot::error::Result;
use ibot::kernels::{IbotBackend, TrainBackend};
use ibot::method::{IbotConfig, StreamingPrototypes};
use ibot::train::Gradients;

use crate::{assert_close, random_views, tiny, tiny_method, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// Nothing masked: the patch loss is zero, its head gets no gradient, and everything else is as ever.
pub fn no_masked_patch<B: TrainBackend>(device: &B::Device) {
    let mut method = tiny_method::<B>(device);
    let output = method
        .forward(&random_views(2, device), &[false; 16], 0.04)
        .unwrap();
    assert_eq!(values(output.terms.patch), [0.0]);
    let (loss, cls) = (values(output.loss.clone()), values(output.terms.cls));
    assert!(loss[0].is_finite() && loss[0] > 0.0);
    assert_eq!(loss, cls);
    let grads = Gradients::of(&output.loss).by_name(&method.student);
    assert!(grads.contains_key("network.cls_head.layers.0.weight"));
    assert!(!grads.contains_key("network.patch_head.layers.0.weight"));
}

/// 80 masked patches of 500 000 prototypes are more than the 128 MiB that a software GPU binds: `auto` tiles them, and
/// `never` is refused.
pub fn logits_beyond_one_buffer<B: TrainBackend>(device: &B::Device) {
    let max = <B::InnerBackend as IbotBackend>::max_logit_rows(500_000, device);
    println!("{max} rows fit one tensor, there are 80");
    let [auto, never] = [StreamingPrototypes::Auto, StreamingPrototypes::Never];
    let expected = loss_of_many_prototypes::<Autodiff<Flex>>(never, &Default::default());
    let expected: Vec<f64> = expected.unwrap().into_iter().map(f64::from).collect();
    let found = loss_of_many_prototypes::<B>(auto, device).unwrap();
    assert_close(&found, &expected, 1e-4);
    match loss_of_many_prototypes::<B>(never, device) {
        Ok(found) => {
            assert!(max >= 80);
            assert_close(&found, &expected, 1e-4);
        }
        Err(error) => {
            assert!(max < 80);
            let message = error.to_string();
            let wanted = [
                "method.streaming_prototypes",
                "never",
                "80 rows of 500000",
                "auto",
            ];
            for part in wanted {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}

/// The patch loss and a gradient of its head.
fn loss_of_many_prototypes<B: TrainBackend>(
    streaming_prototypes: StreamingPrototypes,
    device: &B::Device,
) -> Result<Vec<f32>> {
    let config = IbotConfig {
        n_patch_prototypes: 500_000,
        streaming_prototypes,
        ..tiny()
    };
    let mut method = config.init::<B>(3, device).unwrap();
    let masks: Vec<bool> = (0..160).map(|patch| patch % 2 == 0).collect();
    let output = method.forward(&random_views(20, device), &masks, 0.04)?;
    let mut numbers = values(output.terms.patch);
    let grads = Gradients::of(&output.loss).by_name(&method.student);
    numbers.extend(&grads["network.patch_head.layers.2.weight"].values);
    Ok(numbers)
}

/// The reference runs its patch heads on all tokens and then drops the visible ones; the numbers are the same.
pub fn masked_rows_equal_all_rows<B: TrainBackend>(device: &B::Device) {
    let method = tiny_method::<B>(device);
    let images = random_views::<Inner<B>>(2, device).remove(0);
    let tokens = ibot::backbone::Backbone::tokens(&method.teacher.backbone, images, None).patches;
    let [batch, patches, width] = tokens.dims();
    let flat = tokens.reshape([batch * patches, width]);
    let rows: Tensor<Inner<B>, 1, burn::tensor::Int> = Tensor::from_ints([1, 4, 6], device);
    let head = method.teacher.head_of_patches();
    let of_some = values(head.forward(flat.clone().select(0, rows.clone())));
    let of_all = values(head.forward(flat).select(0, rows));
    let of_all: Vec<f64> = of_all.into_iter().map(f64::from).collect();
    assert_close(&of_some, &of_all, 1e-6);
}
