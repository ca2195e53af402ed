//! What a pickle is made of, as far as a state dict needs it.

/// An entry of the machine's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Something that no state dict needs.
    Other,
    /// A whole number.
    Int(i64),
    /// A string.
    Text(&'a str),
    /// A class or function.
    Global(Global),
    /// Position in [`crate::files::torch::pickle::Pickle::objects`].
    Object(usize),
}

/// What [`Value::Object`] refers to.
#[derive(Debug)]
pub(super) enum Object<'a> {
    /// A tuple or `torch.Size`.
    Tuple(Vec<Value<'a>>),
    /// A dict, in the order of insertion.
    Dict(Vec<[Value<'a>; 2]>),
    /// Name and type of a storage.
    Storage(&'a str, FloatType),
    /// A tensor or parameter.
    Tensor(TensorView<'a>),
}

/// A global that a state dict needs; all others are unknown, and what they make is unknown too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict` and `defaultdict`.
    Dict,
    /// `torch.Size`.
    Size,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`, with state or without.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`, for tensors with Python attributes.
    RebuildFromType,
    /// A legacy storage class, which stands for a type of entries.
    Storage(FloatType),
}

/// Types of entries that are weights; tensors of integers and the like are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FloatType {
    F16,
    Bf16,
    F32,
    F64,
}

/// Where a tensor's entries lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorView<'a> {
    /// Name of the storage, `data/{storage}` in the archive.
    pub storage: &'a str,
    /// Type of its entries.
    pub dtype: FloatType,
    /// Entry of the storage that it begins at.
    pub offset: usize,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Entries of the storage from one index to the next, of each dimension.
    pub strides: Vec<usize>,
}
