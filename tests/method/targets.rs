//! Teacher targets where f32 runs out of room, and losses where there is nothing to predict.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use ibot::kernels::{IbotBackend, TrainBackend};
use ibot::random::{Random, Stream};
use ibot::train::Gradients;

use crate::{assert_close, random_views, tiny_method, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// Sinkhorn-Knopp in f64 on the host.
fn sinkhorn_f64(
    logits: &[f32],
    prototypes: usize,
    temperature: f64,
    iterations: usize,
) -> Vec<f64> {
    let rows = logits.len() / prototypes;
    let mut log_q: Vec<f64> = logits.iter().map(|x| f64::from(*x) / temperature).collect();
    let mut normalize = |indices: Vec<usize>| {
        let max = indices
            .iter()
            .fold(f64::NEG_INFINITY, |max, at| max.max(log_q[*at]));
        let sum: f64 = indices.iter().map(|at| (log_q[*at] - max).exp()).sum();
        indices
            .into_iter()
            .for_each(|at| log_q[at] -= max + sum.ln());
    };
    for _ in 0..iterations {
        (0..prototypes).for_each(|k| normalize((0..rows).map(|i| i * prototypes + k).collect()));
        (0..rows).for_each(|i| normalize((0..prototypes).map(|k| i * prototypes + k).collect()));
    }
    log_q.into_iter().map(f64::exp).collect()
}

#[track_caller]
fn compare<B: IbotBackend>(
    logits: Vec<f32>,
    prototypes: usize,
    temperature: f64,
    tolerance: f64,
    device: &B::Device,
) {
    let rows = logits.len() / prototypes;
    let expected = sinkhorn_f64(&logits, prototypes, temperature, 3);
    let logits: Tensor<B, 2> =
        Tensor::from_data(TensorData::new(logits, [rows, prototypes]), device);
    let potentials = B::sinkhorn_potentials(logits.clone(), temperature, 3);
    assert_close(&values(potentials.targets(logits)), &expected, tolerance);
}

pub fn sinkhorn_of_extreme_logits<B: TrainBackend>(device: &B::Device) {
    let mut random = Random::new(1, 0, 0, Stream::Init);
    let uniform = random.fill(15 * 23, |r| r.uniform(-1e4, 1e4));
    compare::<Inner<B>>(uniform, 23, 0.01, 1e-4, device);
    // far apart from row to row, close within a row: a single potential in f32 would be off by percents
    let close =
        (0..12 * 7).map(|at| ((at / 7) as f32 - 6.0) * 1.5e3 + random.uniform(0.0, 0.05) as f32);
    compare::<Inner<B>>(close.collect(), 7, 0.01, 2e-2, device);
}

/// Equal entries of +-1e4: their targets are simple fractions, and must be exact to rounding.
pub fn sinkhorn_of_ties<B: TrainBackend>(device: &B::Device) {
    let signs = [
        1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0,
    ];
    compare::<Inner<B>>(signs.map(|sign| sign * 1e4).to_vec(), 3, 0.01, 1e-5, device);
}

pub fn sinkhorn_of_one_row_and_one_prototype<B: TrainBackend>(device: &B::Device) {
    compare::<Inner<B>>(vec![3.0, -1e4, 1e4, 0.5], 4, 0.01, 1e-6, device);
    compare::<Inner<B>>(vec![3.0, -1e4, 1e4, 0.5], 1, 0.01, 1e-6, device);
    compare::<Inner<B>>(vec![7.0], 1, 0.04, 1e-6, device);
}

/// Nothing masked: the patch loss is zero, its head gets no gradient, and everything else is as ever.
pub fn no_masked_patch<B: TrainBackend>(device: &B::Device) {
    let mut method = tiny_method::<B>(device);
    let output = method
        .forward(&random_views(2, device), &[false; 16], 0.04)
        .unwrap();
    assert_eq!(values(output.loss_patch), [0.0]);
    let (loss, cls) = (values(output.loss.clone()), values(output.loss_cls));
    assert!(loss[0].is_finite() && loss[0] > 0.0);
    assert_eq!(loss, cls);
    let grads = Gradients::of(&output.loss).by_name(&method.student);
    assert!(grads.contains_key("network.cls_head.hidden1.weight"));
    assert!(!grads.contains_key("network.patch_head.hidden1.weight"));
}

/// The reference runs its patch heads on all tokens and then drops the visible ones; the numbers are the same.
pub fn masked_rows_equal_all_rows<B: TrainBackend>(device: &B::Device) {
    let method = tiny_method::<B>(device);
    let images = random_views::<Inner<B>>(2, device).remove(0);
    let tokens = ibot::backbone::Backbone::tokens(&method.teacher.backbone, images, None).patches;
    let [batch, patches, width] = tokens.dims();
    let flat = tokens.reshape([batch * patches, width]);
    let rows: Tensor<Inner<B>, 1, burn::tensor::Int> = Tensor::from_ints([1, 4, 6], device);
    let head = &method.teacher.patch_head;
    let of_some = values(head.forward(flat.clone().select(0, rows.clone())));
    let of_all = values(head.forward(flat).select(0, rows));
    let of_all: Vec<f64> = of_all.into_iter().map(f64::from).collect();
    assert_close(&of_some, &of_all, 1e-6);
}
