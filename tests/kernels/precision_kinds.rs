//! What entries a GPU's tensors have in half precision, and what those do not hold.

use burn::tensor::DType;
use burn_autodiff::Autodiff;
use burn_wgpu::WgpuDevice;
use ibot::kernels::{Gpu, IbotBackend, LinearLayerInput, Prologue};
use ibot::precision::Precision;

use crate::precision::{is_there, of};
use crate::rows::draw;
use crate::values;

/// Rows and their gradients are f16 all the way, gradients of weights f32; rows of f32 have gradients of f32.
pub fn entries(device: &WgpuDevice) {
    if !is_there(device) {
        return;
    }
    let numbers = draw(90, 96, 1.0);
    let vector = || of::<Gpu>(&numbers[..12], [1, 12], device).reshape([12]);
    let norm = || Prologue::LayerNorm {
        weight: vector(),
        bias: vector(),
        eps: 1e-6,
    };
    let gelu = || Prologue::Gelu { ready: None };
    let prologues: [&dyn Fn() -> Prologue<Gpu>; 3] = [&|| Prologue::Nothing, &gelu, &norm];
    for (dtype, prologue) in [DType::F16, DType::F32]
        .into_iter()
        .flat_map(|dtype| prologues.map(|prologue| (dtype, prologue)))
    {
        let rows = || of::<Gpu>(&numbers[..60], [5, 12], device).cast(dtype);
        let layer = LinearLayerInput {
            x: rows(),
            prologue: prologue(),
            weight: of(&numbers, [12, 8], device),
            bias: Some(of::<Gpu>(&numbers[..8], [1, 8], device).reshape([8])),
            residual: None,
        };
        Precision::F16.autocast(|| {
            let y = Gpu::linear_layer(layer.clone());
            assert_eq!(y.dtype(), DType::F16);
            for past in [None, Some(rows())] {
                let found = Gpu::linear_layer_backward(layer.clone(), y.clone(), true, past);
                assert_eq!(found.d_x.unwrap().dtype(), dtype);
                assert_eq!(found.d_weight.unwrap().dtype(), DType::F32);
                assert_eq!(found.d_bias.unwrap().dtype(), DType::F32);
                let of_norm = found.d_norm.into_iter().flatten();
                assert!(of_norm.into_iter().all(|d| d.dtype() == DType::F32));
            }
        });
    }
}

/// What f16 does not hold becomes infinite, forward and backward: a step that meets it is found out by that.
pub fn overflow(device: &WgpuDevice) {
    if !is_there(device) {
        return;
    }
    type B = Autodiff<Gpu>;
    for columns in [4, 5] {
        let x = of::<B>(&[300.0; 20][..4 * columns], [4, columns], device).require_grad();
        let weight = vec![300.0; columns * columns];
        let weight = of::<B>(&weight, [columns, columns], device).require_grad();
        Precision::F16.autocast(|| {
            let layer = |x| LinearLayerInput {
                x,
                prologue: Prologue::Nothing,
                weight: weight.clone(),
                bias: None,
                residual: None,
            };
            let first = B::linear_layer(layer(x.clone()));
            let found = values(first.clone());
            assert!(found.iter().all(|y| *y == f32::INFINITY), "{found:?}");
            let small = B::linear_layer(layer(x.clone().cast(DType::F16) * 0.01));
            let loss = (small.cast(DType::F32) * 1_000.0).sum_dim(1).sum_dim(0);
            let grads = loss.backward();
            let d_x = values(x.grad(&grads).unwrap());
            assert!(d_x.iter().all(|d| !d.is_finite()), "{d_x:?}");
            let d_weight = values(weight.grad(&grads).unwrap());
            assert!(d_weight.iter().all(|d| d.is_finite()), "{d_weight:?}");
        });
    }
}
