//! Checkpoints of other programs: the official iBOT, DINO, DINOv2, transformers, stable-pretraining.

mod heads;
mod keys;
mod names;
mod networks;
mod transformers;

pub use heads::{HeadSizes, Heads, PatchHead, PrototypeLength, heads_of};
pub(super) use keys::refused;
pub use keys::{BackboneWeights, Role, backbone_of, network_prefix};
pub use names::{ibot_names, stable_pretraining_names};
pub use networks::{MethodWeights, NetworkWeights, networks_of};
pub use transformers::{BlockNames, transformers_names};
