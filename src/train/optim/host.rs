//! Tensors of any rank between a device and the host.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{TensorData, TensorMetadata as _};

use crate::files::NamedTensor;
use crate::kernels::{IbotBackend, flat};

/// A tensor of any rank, read from its device.
pub(in crate::train) fn to_host<B: IbotBackend>(tensor: FloatTensor<B>) -> NamedTensor {
    let shape: Vec<usize> = tensor.shape().to_vec();
    let values = flat::<B>(tensor).into_data();
    NamedTensor {
        shape,
        values: values.iter::<f32>().collect(),
    }
}

/// The tensor on a device, in a buffer of its own.
pub(in crate::train) fn to_device<B: IbotBackend>(
    tensor: &NamedTensor,
    device: &B::Device,
) -> FloatTensor<B> {
    let data = TensorData::new(tensor.values.clone(), tensor.shape.clone());
    B::float_from_data(data, device)
}
