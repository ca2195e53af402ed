//! The projection heads in a checkpoint, in this crate's names.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Result, printable};
use crate::files::foreign::keys::{Role, backbone_prefix, refused};
use crate::files::state_dict::NamedTensor;

/// What a checkpoint does with the length of its prototypes: `prototype_norm` of the head that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrototypeLength {
    /// Prototypes are a plain linear layer: `none`.
    Free,
    /// Weight-normalized, and each has length 1: `fixed`, or `learned` at its start.
    Unit,
    /// Weight-normalized with other lengths: `learned`.
    Learned,
}

/// Where patch tokens go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchHead {
    /// To a head of their own, `patch_head`.
    Own,
    /// To the class tokens' head: `shared_head`, or `shared_head_teacher` in a teacher.
    Shared,
    /// The checkpoint's method has no loss on patches (DINO).
    Absent,
}

/// Projection heads from a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Heads {
    /// `cls_head.*` and, where patches have their own, `patch_head.*`: `layers.N.weight` and `layers.N.bias` of the
    /// linear layers, `prototypes.weight`, and `prototype_length` where it is learned. Matrices are `[out, in]`.
    ///
    /// iBOT's two heads share their layers; here each gets a copy.
    pub tensors: BTreeMap<String, NamedTensor>,
    /// The length of the prototypes.
    pub prototype_length: PrototypeLength,
    /// The head of patch tokens.
    pub patch_head: PatchHead,
}

/// Sizes of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadSizes {
    /// Linear layers before the prototypes.
    pub layers: usize,
    /// Width between them; none for a lone layer.
    pub hidden_dim: Option<usize>,
    /// Width of the prototypes.
    pub bottleneck_dim: usize,
    /// Number K of prototypes.
    pub prototypes: usize,
}

/// One head as a checkpoint has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    /// Weight, and bias where there is one.
    pub layers: Vec<(NamedTensor, Option<NamedTensor>)>,
    pub last: LastLayer,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LastLayer {
    /// `[K, bottleneck]`.
    pub directions: NamedTensor,
    /// `[K]` where the layer is weight-normalized.
    pub lengths: Option<Vec<f32>>,
}

/// The projection heads that stand beside the backbone of `role`; none where the checkpoint has no heads.
///
/// Known: `head.mlp.*` with `head.last_layer` and iBOT's `head.last_layer2`, DINOv2's `dino_head` and `ibot_head`, and
/// stable-pretraining's `cls_head` and `patch_head`. Of a weight-normalized layer the direction is kept as it is, since
/// the head divides by its length itself.
///
/// Source: models/head.py of the official iBOT, dinov2/layers/dino_head.py, stable_pretraining/methods/ibot.py.
///
/// # Errors
/// [`crate::error::Error::Weights`] as [`super::backbone_of`], and for heads that this crate cannot build: with norms
/// between their layers, without a bottleneck, or with misshapen weights.
pub fn heads_of(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    role: Role,
) -> Result<Option<Heads>> {
    let backbone = backbone_prefix(path, tensors, role)?;
    let find = |start: &str, last: &str| find_head(path, tensors, start, last);
    let lone = backbone.strip_suffix("backbone.");
    let wrapped = ["student.", "teacher."].into_iter().find_map(|wrapper| {
        let start = backbone.strip_suffix(wrapper)?.strip_suffix("backbone.")?;
        Some((start, wrapper))
    });
    let [cls, patch] = if let Some(start) = lone {
        let cls = find(&format!("{start}head."), "last_layer")?;
        let dinov2 = find(&format!("{start}dino_head."), "last_layer")?;
        let patch = match &cls {
            Some(_) => find(&format!("{start}head."), "last_layer2")?,
            None => find(&format!("{start}ibot_head."), "last_layer")?,
        };
        [cls.or(dinov2), patch]
    } else if let Some((start, wrapper)) = wrapped {
        let cls = sequential_head(path, tensors, &format!("{start}cls_head.{wrapper}"))?;
        let patch = sequential_head(path, tensors, &format!("{start}patch_head.{wrapper}"))?;
        [cls, patch]
    } else {
        return Ok(None);
    };
    let normalized = |head: &Head| head.last.lengths.is_some();
    match (&cls, &patch) {
        (Some(cls), Some(patch)) if normalized(cls) != normalized(patch) => {
            let reason = "has one head with weight norm and one without; load only the backbone";
            Err(refused(path, reason))
        }
        _ => Ok(cls.map(|cls| heads(cls, patch))),
    }
}

fn heads(cls: Head, patch: Option<Head>) -> Heads {
    let patch_head = match &patch {
        None => PatchHead::Absent,
        Some(patch) if *patch == cls => PatchHead::Shared,
        Some(_) => PatchHead::Own,
    };
    let patch = patch.filter(|_| patch_head == PatchHead::Own);
    let named = [("cls_head", Some(cls)), ("patch_head", patch)];
    let named: Vec<(&str, Head)> = named
        .into_iter()
        .filter_map(|(name, head)| Some((name, head?)))
        .collect();
    let lengths = || named.iter().map(|(_, head)| head.last.lengths.as_deref());
    let is_unit = |lengths: &[f32]| lengths.iter().all(|length| *length == 1.0);
    let prototype_length = if lengths().any(|lengths| lengths.is_none()) {
        PrototypeLength::Free
    } else if lengths().flatten().all(is_unit) {
        PrototypeLength::Unit
    } else {
        PrototypeLength::Learned
    };
    let learned = prototype_length == PrototypeLength::Learned;
    let tensors = named
        .into_iter()
        .flat_map(|(name, head)| head.named(name, learned));
    Heads {
        tensors: tensors.collect(),
        prototype_length,
        patch_head,
    }
}

impl Heads {
    /// Sizes of the head that class tokens or patches go through; none where patches have none.
    pub fn sizes(&self, of_patches: bool) -> Option<HeadSizes> {
        let head = self.head(of_patches)?;
        let rows = |matrix: &NamedTensor| matrix.shape.first().copied();
        let (first, _) = head.layers.first()?;
        Some(HeadSizes {
            layers: head.layers.len(),
            hidden_dim: rows(first).filter(|_| head.layers.len() > 1),
            bottleneck_dim: *head.last.directions.shape.last()?,
            prototypes: rows(&head.last.directions)?,
        })
    }

    /// The head that class tokens or patches go through; none where patches have none.
    pub(super) fn head(&self, of_patches: bool) -> Option<Head> {
        let name = match (of_patches, self.patch_head) {
            (false, _) | (true, PatchHead::Shared) => "cls_head",
            (true, PatchHead::Own) => "patch_head",
            (true, PatchHead::Absent) => return None,
        };
        let get = |leaf: &str| self.tensors.get(&format!("{name}.{leaf}"));
        let layers = (0..).map_while(|at| {
            let weight = get(&format!("layers.{at}.weight"))?;
            Some((weight.clone(), get(&format!("layers.{at}.bias")).cloned()))
        });
        let directions = get("prototypes.weight")?;
        let lengths = match self.prototype_length {
            PrototypeLength::Free => None,
            PrototypeLength::Unit => Some(vec![1.0; *directions.shape.first()?]),
            PrototypeLength::Learned => Some(get("prototype_length")?.values.clone()),
        };
        Some(Head {
            layers: layers.collect(),
            last: LastLayer {
                directions: directions.clone(),
                lengths,
            },
        })
    }
}

impl Head {
    fn named(self, name: &str, learned: bool) -> Vec<(String, NamedTensor)> {
        let mut named = Vec::new();
        for (at, (weight, bias)) in self.layers.into_iter().enumerate() {
            named.push((format!("{name}.layers.{at}.weight"), weight));
            named.extend(bias.map(|bias| (format!("{name}.layers.{at}.bias"), bias)));
        }
        named.push((format!("{name}.prototypes.weight"), self.last.directions));
        let lengths = self
            .last
            .lengths
            .filter(|_| learned)
            .map(|values| NamedTensor {
                shape: vec![values.len()],
                values,
            });
        named.extend(lengths.map(|lengths| (format!("{name}.prototype_length"), lengths)));
        named
    }
}

/// iBOT's, DINO's and DINOv2's `{start}mlp` with one of its last layers.
fn find_head(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    start: &str,
    last: &str,
) -> Result<Option<Head>> {
    let mlp = format!("{start}mlp.");
    if !tensors.keys().any(|key| key.starts_with(&mlp)) {
        return Ok(None);
    }
    let Some(last) = last_layer(path, tensors, &format!("{start}{last}."))? else {
        if last == "last_layer" {
            let reason = format!(
                "{}mlp has no last_layer: heads without bottleneck are not supported; load only the backbone",
                printable(start)
            );
            return Err(refused(path, reason));
        }
        return Ok(None);
    };
    let layers = linear_layers(path, tensors, &mlp)?;
    Ok(Some(Head { layers, last }))
}

/// stable-pretraining's head: one sequence, whose last linear layer holds the prototypes.
fn sequential_head(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    start: &str,
) -> Result<Option<Head>> {
    let mut layers = linear_layers(path, tensors, start)?;
    match layers.pop() {
        None => Ok(None),
        Some((directions, None)) if !layers.is_empty() => Ok(Some(Head {
            layers,
            last: LastLayer {
                directions,
                lengths: None,
            },
        })),
        Some(_) => {
            let reason = format!(
                "{} does not end in prototypes without bias; load only the backbone",
                printable(start)
            );
            Err(refused(path, reason))
        }
    }
}

/// The linear layers under `start`, in the order of their numbers: `0.weight`, `0.bias`, or for a lone one `weight`.
fn linear_layers(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    start: &str,
) -> Result<Vec<(NamedTensor, Option<NamedTensor>)>> {
    let mut layers = BTreeMap::new();
    for (key, tensor) in tensors {
        let Some(name) = key.strip_prefix(start) else {
            continue;
        };
        let (at, leaf) = name.split_once('.').unwrap_or(("0", name));
        let layer: &mut [Option<&NamedTensor>; 2] = match at.parse::<usize>() {
            Ok(at) => layers.entry(at).or_default(),
            Err(_) => return Err(unknown_layer(path, key)),
        };
        match (leaf, tensor.shape.len()) {
            ("weight", 2) => layer[0] = Some(tensor),
            ("bias", 1) => layer[1] = Some(tensor),
            _ => return Err(unknown_layer(path, key)),
        }
    }
    layers
        .into_iter()
        .map(|(at, [weight, bias])| match weight {
            Some(weight) => Ok((weight.clone(), bias.cloned())),
            None => Err(unknown_layer(path, &format!("{start}{at}.bias"))),
        })
        .collect()
}

fn unknown_layer(path: &Path, key: &str) -> crate::error::Error {
    let reason = format!(
        "{} is not of a linear layer: heads with norms are not supported; load only the backbone",
        printable(key)
    );
    refused(path, reason)
}

/// A linear layer with weight norm, of torch's old or new kind, or without.
fn last_layer(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    start: &str,
) -> Result<Option<LastLayer>> {
    let get = |leaf: &str| tensors.get(&format!("{start}{leaf}"));
    let pairs = [
        ["weight_g", "weight_v"],
        [
            "parametrizations.weight.original0",
            "parametrizations.weight.original1",
        ],
    ];
    let normalized = pairs
        .into_iter()
        .find_map(|[g, v]| Some((get(g)?, get(v)?)));
    let (lengths, directions) = match (normalized, get("weight")) {
        (Some((lengths, directions)), _) => (Some(lengths), directions),
        (None, Some(weight)) => (None, weight),
        (None, None) => return Ok(None),
    };
    let fits = match directions.shape[..] {
        [rows, _] => lengths.is_none_or(|lengths| lengths.values.len() == rows),
        _ => false,
    };
    if !fits {
        let shape = &directions.shape;
        let reason =
            format!("{start} has weights of the wrong shape {shape:?}; load only the backbone");
        return Err(refused(path, reason));
    }
    Ok(Some(LastLayer {
        directions: directions.clone(),
        lengths: lengths.map(|lengths| lengths.values.clone()),
    }))
}
