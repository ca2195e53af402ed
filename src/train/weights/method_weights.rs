//! A trainer's tensors as both networks of a checkpoint, and back.

use crate::files::{
    BackboneWeights, Heads, MethodWeights, NamedTensor, NetworkWeights, PatchHead, PrototypeLength,
};
use crate::method::{IbotConfig, PrototypeNorm};
use crate::train::trainer::{BACKBONE, CENTERS, MASK_TOKEN, NETWORKS, Tensors, subset};

/// The heads' last layer, and the length of its rows.
const PROTOTYPES: &str = "prototypes.weight";
const PROTOTYPE_LENGTH: &str = "prototype_length";

/// Both networks and the centers among [`crate::train::Trainer::tensors`], for a method with these settings.
pub(super) fn from_trainer(tensors: &Tensors, config: &IbotConfig) -> MethodWeights {
    let mask_token = tensors.get(MASK_TOKEN).cloned();
    let shares = [config.shared_head, config.teacher_shares_head()];
    let network = |at: usize| {
        let (backbone, heads) = subset(tensors, NETWORKS[at])
            .into_iter()
            .partition::<Tensors, _>(|(name, _)| name.starts_with(BACKBONE));
        NetworkWeights {
            backbone: BackboneWeights {
                prefix: format!("{}{BACKBONE}", NETWORKS[at]),
                tensors: subset(&backbone, BACKBONE),
                mask_token: mask_token.clone(),
                dropped: Vec::new(),
            },
            heads: Some(Heads {
                tensors: heads,
                prototype_length: match config.prototype_norm {
                    PrototypeNorm::None => PrototypeLength::Free,
                    PrototypeNorm::Fixed => PrototypeLength::Unit,
                    PrototypeNorm::Learned => PrototypeLength::Learned,
                },
                patch_head: if shares[at] {
                    PatchHead::Shared
                } else {
                    PatchHead::Own
                },
            }),
        }
    };
    MethodWeights {
        student: network(0),
        teacher: network(1),
        centers: CENTERS.map(|name| tensors.get(name).cloned()),
    }
}

/// The weights under the names of [`crate::train::Trainer::tensors`]; with a length of 1 for each prototype where lengths are
/// learned and the weights have none yet.
pub(super) fn to_trainer(weights: MethodWeights, norm: PrototypeNorm) -> Tensors {
    let mut tensors = Tensors::new();
    let MethodWeights {
        student,
        teacher,
        centers,
    } = weights;
    let mask_token = student.backbone.mask_token.clone();
    tensors.extend(mask_token.map(|token| (MASK_TOKEN.to_owned(), token)));
    for (start, network) in NETWORKS.into_iter().zip([student, teacher]) {
        let backbone = network.backbone.tensors.into_iter();
        tensors.extend(backbone.map(|(name, tensor)| (format!("{start}{BACKBONE}{name}"), tensor)));
        let mut heads = network.heads.map(|heads| heads.tensors).unwrap_or_default();
        if norm == PrototypeNorm::Learned {
            add_lengths(&mut heads);
        }
        let heads = heads.into_iter();
        tensors.extend(heads.map(|(name, tensor)| (format!("{start}{name}"), tensor)));
    }
    let centers = CENTERS.into_iter().zip(centers);
    tensors.extend(centers.filter_map(|(name, center)| Some((name.to_owned(), center?))));
    tensors
}

fn add_lengths(heads: &mut Tensors) {
    let ones = |(name, prototypes): (&String, &NamedTensor)| {
        let head = name.strip_suffix(PROTOTYPES)?;
        let count = *prototypes.shape.first()?;
        let length = NamedTensor {
            shape: vec![count],
            values: vec![1.0; count],
        };
        Some((format!("{head}{PROTOTYPE_LENGTH}"), length))
    };
    let unit: Vec<(String, NamedTensor)> = heads.iter().filter_map(ones).collect();
    for (name, length) in unit {
        heads.entry(name).or_insert(length);
    }
}
