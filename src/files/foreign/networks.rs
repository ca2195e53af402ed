//! Both networks of a training checkpoint, with everything needed to continue their training except the optimizer.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Result;
use crate::files::finite::check_finite;
use crate::files::foreign::heads::{Heads, heads_of};
use crate::files::foreign::keys::{BackboneWeights, Role, backbone_of, role_in};
use crate::files::state_dict::NamedTensor;

/// Centers of class tokens and of patches: in iBOT's and DINO's checkpoints, and in DINOv2's.
const CENTER_KEYS: [[&str; 2]; 2] = [
    ["ibot_loss.center", "dino_loss.center"],
    ["ibot_loss.center2", "ibot_patch_loss.center"],
];

/// One network of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkWeights {
    /// Its backbone, with the mask token.
    pub backbone: BackboneWeights,
    /// Its projection heads, where the checkpoint has some.
    pub heads: Option<Heads>,
}

/// Student and teacher of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodWeights {
    /// The network that is trained by gradient.
    pub student: NetworkWeights,
    /// Its moving average.
    pub teacher: NetworkWeights,
    /// Centers of the teacher's logits of class tokens and of patches, `[K]`, where the checkpoint has them.
    pub centers: [Option<NamedTensor>; 2],
}

/// Student and teacher of the checkpoint at `path`; where it has one network alone, both are that one.
///
/// # Errors
/// As [`backbone_of`] and [`heads_of`].
pub fn networks_of(path: &Path, tensors: BTreeMap<String, NamedTensor>) -> Result<MethodWeights> {
    let [student, teacher] =
        match [Role::Student, Role::Teacher].map(|role| role_in(&tensors, role)) {
            [true, false] => [Role::Student; 2],
            [false, true] => [Role::Teacher; 2],
            _ => [Role::Student, Role::Teacher],
        };
    let centers = CENTER_KEYS.map(|keys| center(&tensors, keys));
    let heads = heads_of(path, &tensors, student)?;
    let student = NetworkWeights {
        backbone: backbone_of(path, tensors.clone(), student)?,
        heads,
    };
    let heads = heads_of(path, &tensors, teacher)?;
    let teacher = NetworkWeights {
        backbone: backbone_of(path, tensors, teacher)?,
        heads,
    };
    let weights = MethodWeights {
        student,
        teacher,
        centers,
    };
    weights.check_finite(path)?;
    Ok(weights)
}

impl MethodWeights {
    /// Whether all values are finite; `path` is the file's or folder's.
    ///
    /// # Errors
    /// [`crate::Error::Weights`] that names the first key where they are not.
    pub(crate) fn check_finite(&self, path: &Path) -> Result<()> {
        for (role, network) in [("student", &self.student), ("teacher", &self.teacher)] {
            let NetworkWeights { backbone, heads } = network;
            let named = |(key, tensor)| (format!("{role}.{key}"), tensor);
            check_finite(path, backbone.tensors.iter().map(named))?;
            let token = backbone.mask_token.iter();
            check_finite(
                path,
                token.map(|token| (format!("{role}.mask_token"), token)),
            )?;
            let heads = heads.iter().flat_map(|heads| &heads.tensors);
            check_finite(path, heads.map(named))?;
        }
        let centers = ["center of class tokens", "center of patches"];
        let centers = centers.into_iter().zip(&self.centers);
        check_finite(
            path,
            centers.filter_map(|(name, center)| Some((name, center.as_ref()?))),
        )
    }
}

/// The center under one of these names, perhaps behind a prefix; checkpoints have it as `[1, K]` or `[1, 1, K]`.
fn center(tensors: &BTreeMap<String, NamedTensor>, names: [&str; 2]) -> Option<NamedTensor> {
    let is_center = |key: &str| {
        names.iter().any(|name| {
            let before = key.strip_suffix(name);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    };
    let (_, found) = tensors.iter().find(|(key, _)| is_center(key))?;
    Some(NamedTensor {
        shape: vec![found.values.len()],
        values: found.values.clone(),
    })
}
