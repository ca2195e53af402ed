//! Student, teacher, heads and centers under the names of PyTorch programs.

use std::collections::BTreeMap;

use crate::files::foreign::heads::{Head, PatchHead};
use crate::files::foreign::networks::{MethodWeights, NetworkWeights};
use crate::files::state_dict::NamedTensor;

type Tensors = BTreeMap<String, NamedTensor>;

impl MethodWeights {
    fn networks(&self) -> [(&'static str, &NetworkWeights); 2] {
        [("student", &self.student), ("teacher", &self.teacher)]
    }
}

impl NetworkWeights {
    fn head(&self, of_patches: bool) -> Option<Head> {
        self.heads.as_ref()?.head(of_patches)
    }
}

/// Both networks under the names of the official iBOT: `student.backbone.*` with `masked_embed`, `student.head.mlp.*`,
/// `student.head.last_layer.*` and `last_layer2.*`, the same for `teacher`, `ibot_loss.center` and `ibot_loss.center2`.
///
/// Its heads have their layers in common: where the patches of a network have a head of their own, all heads have
/// DINOv2's names, `dino_head` and `ibot_head`. A last layer with weight norm is `weight_g` and `weight_v`, another one
/// `weight`; a head that is shared is written for both.
///
/// Source: as [`super::heads_of`], which reads all of it.
pub fn ibot_names(method: &MethodWeights) -> Tensors {
    let has_own = |(_, network): (_, &NetworkWeights)| {
        let heads = network.heads.as_ref();
        heads.is_some_and(|heads| heads.patch_head == PatchHead::Own)
    };
    let own = method.networks().into_iter().any(has_own);
    let mut named = Tensors::new();
    for (role, network) in method.networks() {
        add_backbone(&mut named, &format!("{role}.backbone."), network);
        for of_patches in [false, true] {
            let Some(head) = network.head(of_patches) else {
                continue;
            };
            let [start, last] = match (own, of_patches) {
                (true, false) => ["dino_head", "last_layer"],
                (true, true) => ["ibot_head", "last_layer"],
                (false, false) => ["head", "last_layer"],
                (false, true) => ["head", "last_layer2"],
            };
            add_head(&mut named, &format!("{role}.{start}."), last, head);
        }
    }
    if let Some(token) = &method.student.backbone.mask_token {
        let token = reshaped(token, vec![1, token.values.len()]);
        named.insert("student.backbone.masked_embed".into(), token);
    }
    let [cls, patch] = &method.centers;
    if let Some(center) = cls {
        let center = reshaped(center, vec![1, center.values.len()]);
        named.insert("ibot_loss.center".into(), center);
    }
    if let Some(center) = patch {
        let center = reshaped(center, vec![1, 1, center.values.len()]);
        named.insert("ibot_loss.center2".into(), center);
    }
    named
}

/// Both networks as the whole state of `stable_pretraining.methods.iBOT`, for heads without weight norm; `ema_decays`
/// are its coefficients at the start and at the end. The centers have no name there.
///
/// Source: stable_pretraining/methods/ibot.py, stable_pretraining/backbone/utils.py for the coefficients.
pub fn stable_pretraining_names(method: &MethodWeights, ema_decays: [f64; 2]) -> Tensors {
    let mut named = Tensors::new();
    for (role, network) in method.networks() {
        add_backbone(&mut named, &format!("backbone.{role}."), network);
        for (name, of_patches) in [("cls_head", false), ("patch_head", true)] {
            let Some(head) = network.head(of_patches) else {
                continue;
            };
            // the norm between the layers and the prototypes has no weights, but a number
            let prototypes = format!("{name}.{role}.{}.weight", 2 * head.layers.len());
            named.insert(prototypes, head.last.directions);
            add_layers(&mut named, &format!("{name}.{role}."), head.layers);
        }
    }
    named.extend(
        (method.student.backbone.mask_token.clone()).map(|token| ("mask_token".into(), token)),
    );
    for part in ["backbone", "cls_head", "patch_head"] {
        let [start, end] = ema_decays;
        for (name, decay) in [
            ("base_ema_coefficient", start),
            ("final_ema_coefficient", end),
            ("ema_coefficient", start),
        ] {
            let decay = NamedTensor {
                shape: Vec::new(),
                values: vec![decay as f32],
            };
            named.insert(format!("{part}.{name}"), decay);
        }
    }
    named
}

fn add_backbone(named: &mut Tensors, start: &str, network: &NetworkWeights) {
    let tensors = network.backbone.tensors.iter();
    named.extend(tensors.map(|(key, tensor)| (format!("{start}{key}"), tensor.clone())));
}

/// A head as `DINOHead` has it.
fn add_head(named: &mut Tensors, start: &str, last: &str, head: Head) {
    let mlp = format!("{start}mlp.");
    match <[_; 1]>::try_from(head.layers) {
        // a lone layer is no sequence there
        Ok([layer]) => add_layer(named, &mlp, layer),
        Err(layers) => add_layers(named, &mlp, layers),
    }
    let directions = match head.last.lengths {
        Some(values) => {
            let lengths = NamedTensor {
                shape: vec![values.len(), 1],
                values,
            };
            named.insert(format!("{start}{last}.weight_g"), lengths);
            "weight_v"
        }
        None => "weight",
    };
    named.insert(format!("{start}{last}.{directions}"), head.last.directions);
}

/// Linear layers of a sequence with an activation after each.
fn add_layers(named: &mut Tensors, start: &str, layers: Vec<(NamedTensor, Option<NamedTensor>)>) {
    for (at, layer) in layers.into_iter().enumerate() {
        add_layer(named, &format!("{start}{}.", 2 * at), layer);
    }
}

fn add_layer(named: &mut Tensors, start: &str, (weight, bias): (NamedTensor, Option<NamedTensor>)) {
    named.insert(format!("{start}weight"), weight);
    named.extend(bias.map(|bias| (format!("{start}bias"), bias)));
}

fn reshaped(tensor: &NamedTensor, shape: Vec<usize>) -> NamedTensor {
    NamedTensor {
        shape,
        values: tensor.values.clone(),
    }
}
