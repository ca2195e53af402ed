//! The backbone, or a classifier, as an ONNX file, for programs that run such files.
//!
//! - `message`: what of the format is needed
//! - `graph`: a graph, node by node
//! - `vit`: the transformer as a graph

mod graph;
mod message;
mod vit;

use std::path::Path;

use burn::tensor::backend::Backend;
use prost::Message as _;

use self::message::{Entry, Model, OperatorSet};
use crate::backbone::VisionTransformer;
use crate::error::{Error, Result};
use crate::files::state_dict::{NamedTensor, state_dict};
use crate::unfinished::write_whole;

/// The operators' version, which has layer norm; and the format's of the same time.
const OPERATORS: i64 = 17;
const FORMAT: i64 = 8;

/// Most bytes of a protobuf message, which readers refuse above.
const MAX_BYTES: usize = (1 << 31) - 1;

/// Writes the transformer as an ONNX model, with `metadata` as its properties. Its size of images is fixed, the number
/// of images in a batch is free. `head` is a linear layer on the feature, `head.weight` `[K, D]` and `head.bias` `[K]`.
///
/// # Shapes
/// `images` `[batch, 3, S, S]`, normalized -> `features` `[batch, D]` as [`crate::backbone::Backbone::embed`], and
/// `patches` `[batch, N, D]`; with a head, `logits` `[batch, K]` before them.
///
/// # Errors
/// [`Error::Weights`] above 2 GB, [`Error::Io`].
pub fn write_onnx<B: Backend>(
    path: &Path,
    model: &VisionTransformer<B>,
    head: Option<[(&str, NamedTensor); 2]>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let refused = |reason: &str| Error::Weights {
        path: path.to_path_buf(),
        reason: reason.into(),
    };
    let mut tensors = state_dict(model);
    let head = head.into_iter().flatten();
    tensors.extend(head.map(|(name, tensor)| (name.to_owned(), tensor)));
    let graph = vit::transformer(model.config(), tensors);
    let graph = graph.ok_or_else(|| refused("the model lacks weights of a vision transformer"))?;
    let entries = metadata.iter().map(|(key, value)| Entry {
        key: (*key).to_owned(),
        value: value.clone(),
    });
    let model = Model {
        ir_version: FORMAT,
        producer_name: "ibot".into(),
        graph: Some(graph),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: OPERATORS,
        }],
        metadata_props: entries.collect(),
    };
    if model.encoded_len() > MAX_BYTES {
        return Err(refused("the model is larger than the 2 GB of an ONNX file"));
    }
    write_whole(path, &model.encode_to_vec())
}
