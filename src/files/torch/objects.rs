//! What torch's pickles refer to: float storages and views of them. Everything else is of no interest here.

use half::{bf16, f16};

use crate::files::torch::value::{FloatType, Global, Object, TensorView, Value};

/// torch's bound on the number of dimensions.
const MAX_RANK: usize = 64;

impl Global {
    /// The global of this name, if a state dict needs it.
    pub fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") => Self::Dict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "HalfStorage") => Self::Storage(FloatType::F16),
            ("torch", "BFloat16Storage") => Self::Storage(FloatType::Bf16),
            ("torch", "FloatStorage") => Self::Storage(FloatType::F32),
            ("torch", "DoubleStorage") => Self::Storage(FloatType::F64),
            _ => return None,
        })
    }
}

/// What a persistent id stands for: `("storage", class, name, device, entries)`; none where it holds no floats.
pub(super) fn storage<'a>(id: &[Value<'a>]) -> Option<Object<'a>> {
    match id {
        [
            Value::Text("storage"),
            Value::Global(Global::Storage(dtype)),
            Value::Text(name),
            ..,
        ] => Some(Object::Storage(name, *dtype)),
        _ => None,
    }
}

/// The tensor of `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)`.
///
/// None where it is not one of floats, or has metadata: a lazily negated tensor.
pub(super) fn tensor<'a>(args: &[Value<'a>], objects: &[Object<'a>]) -> Option<Object<'a>> {
    let [
        storage,
        Value::Int(offset),
        size,
        stride,
        _,
        _,
        metadata @ ..,
    ] = args
    else {
        return None;
    };
    if !metadata.iter().all(|value| *value == Value::Other) {
        return None;
    }
    let Object::Storage(storage, dtype) = object(*storage, objects)? else {
        return None;
    };
    let [shape, strides] = [sizes(*size, objects)?, sizes(*stride, objects)?];
    (shape.len() == strides.len() && shape.len() <= MAX_RANK).then_some(Object::Tensor(
        TensorView {
            storage,
            dtype: *dtype,
            offset: usize::try_from(*offset).ok()?,
            shape,
            strides,
        },
    ))
}

/// The object that a value refers to.
pub(super) fn object<'o, 'a>(
    value: Value<'a>,
    objects: &'o [Object<'a>],
) -> Option<&'o Object<'a>> {
    match value {
        Value::Object(at) => objects.get(at),
        _ => None,
    }
}

fn sizes(value: Value<'_>, objects: &[Object<'_>]) -> Option<Vec<usize>> {
    let Object::Tuple(entries) = object(value, objects)? else {
        return None;
    };
    if entries.len() > MAX_RANK {
        return None;
    }
    entries
        .iter()
        .map(|entry| match entry {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        })
        .collect()
}

impl FloatType {
    fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

impl TensorView<'_> {
    /// Number of entries; none where it does not fit in memory.
    pub fn count(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |count, size| count.checked_mul(*size))
    }

    /// Its entries in row-major order, from the bytes of its storage; none where it reaches beyond them.
    pub fn values(&self, storage: &[u8]) -> Option<Vec<f32>> {
        let count = self.count()?;
        if count == 0 {
            return Some(Vec::new());
        }
        // strides of axes of size 1 are arbitrary
        let axes: Vec<[usize; 2]> = (self.shape.iter().zip(&self.strides))
            .filter(|(size, _)| **size > 1)
            .map(|(size, stride)| [*size, *stride])
            .collect();
        let last = axes.iter().try_fold(self.offset, |last, [size, stride]| {
            last.checked_add((size - 1).checked_mul(*stride)?)
        })?;
        if last >= storage.len() / self.dtype.bytes() {
            return None;
        }
        Some(match self.dtype {
            FloatType::F16 => self.gather(&axes, count, storage, |entry| {
                f16::from_le_bytes(entry).to_f32()
            }),
            FloatType::Bf16 => self.gather(&axes, count, storage, |entry| {
                bf16::from_le_bytes(entry).to_f32()
            }),
            FloatType::F32 => self.gather(&axes, count, storage, f32::from_le_bytes),
            FloatType::F64 => self.gather(&axes, count, storage, |entry| {
                f64::from_le_bytes(entry) as f32
            }),
        })
    }

    fn gather<const SIZE: usize>(
        &self,
        axes: &[[usize; 2]],
        count: usize,
        storage: &[u8],
        read: impl Fn([u8; SIZE]) -> f32,
    ) -> Vec<f32> {
        let entries = storage.as_chunks::<SIZE>().0;
        let mut contiguous = 1;
        let in_order = axes.iter().rev().all(|[size, stride]| {
            let matches = *stride == contiguous;
            contiguous *= size;
            matches
        });
        if in_order {
            let entries = &entries[self.offset..][..count];
            return entries.iter().map(|entry| read(*entry)).collect();
        }
        let mut values = Vec::with_capacity(count);
        let mut at = vec![0; axes.len()];
        let mut index = self.offset;
        for _ in 0..count {
            values.push(read(entries[index]));
            for (position, [size, stride]) in at.iter_mut().zip(axes).rev() {
                if *position + 1 < *size {
                    *position += 1;
                    index += stride;
                    break;
                }
                index -= *position * stride;
                *position = 0;
            }
        }
        values
    }
}

/// At the borders of a storage; views that torch makes are in tests/torch_files.rs.
#[cfg(test)]
mod tests {
    use super::*;

    fn view(offset: usize, shape: &[usize], strides: &[usize]) -> Option<Vec<f32>> {
        let view = TensorView {
            storage: "0",
            dtype: FloatType::F32,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        let storage: Vec<u8> = (0..6u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
        view.values(&storage)
    }

    #[test]
    fn views_end_where_their_storage_ends() {
        assert_eq!(view(4, &[2], &[1]), Some(vec![4.0, 5.0]));
        assert_eq!(view(5, &[2], &[1]), None);
        assert_eq!(view(1, &[2, 2], &[1, 3]), Some(vec![1.0, 4.0, 2.0, 5.0]));
        assert_eq!(view(2, &[2, 2], &[1, 3]), None);
        assert_eq!(view(5, &[], &[]), Some(vec![5.0]));
        assert_eq!(view(6, &[], &[]), None);
        assert_eq!(view(9, &[0, 3], &[3, 1]), Some(Vec::new()));
    }

    #[test]
    fn no_number_is_too_large_to_refuse() {
        let huge = usize::MAX;
        // the stride of an axis of size 1 means nothing
        assert_eq!(view(4, &[1, 2, 1], &[huge, 1, huge]), Some(vec![4.0, 5.0]));
        for (offset, shape, strides) in [
            (huge, [2, 2], [2, 1]),
            (0, [2, 2], [huge, huge]),
            (0, [huge, huge], [0, 0]),
            (huge, [1, 1], [1, 1]),
        ] {
            assert_eq!(view(offset, &shape, &strides), None);
        }
    }
}
