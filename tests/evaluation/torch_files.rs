//! Files of torch.save become the tensors that torch saved, in timm's names (tests/fixtures/torch_files.py).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ibot::error::Error;
use ibot::files::{
    NamedTensor, PatchHead, PrototypeLength, Role, backbone_of, heads_of, read_pytorch,
    read_safetensors, resample_positions,
};

type Tensors = BTreeMap<String, NamedTensor>;

fn fixture(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/torch");
    Path::new(folder).join(name)
}

fn pytorch(name: &str) -> Tensors {
    read_pytorch(&fixture(&format!("{name}.pth"))).unwrap()
}

/// The expected tensors under `start`, without it.
fn expected(name: &str, start: &str) -> Tensors {
    let all = read_safetensors(&fixture(&format!("{name}.safetensors"))).unwrap();
    let inside = |(key, tensor): (String, _)| Some((key.strip_prefix(start)?.to_string(), tensor));
    all.into_iter().filter_map(inside).collect()
}

/// Equal to the last bit, and so with the sign of zeros.
fn assert_same(what: &str, found: &Tensors, expected: &Tensors) {
    let keys = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(found), keys(expected), "{what}");
    assert!(!found.is_empty(), "{what}: nothing to compare");
    for (key, found) in found {
        let expected = &expected[key];
        assert_eq!(found.shape, expected.shape, "{what}: {key}");
        let bits = |tensor: &NamedTensor| -> Vec<u32> {
            tensor.values.iter().map(|value| value.to_bits()).collect()
        };
        assert_eq!(bits(found), bits(expected), "{what}: {key}");
    }
}

fn reason<T: std::fmt::Debug>(path: &Path, result: ibot::error::Result<T>) -> String {
    match result {
        Err(Error::Weights {
            path: named,
            reason,
        }) => {
            assert_eq!(named, path);
            reason
        }
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn tensors_of_every_kind_are_read() {
    for protocol in ["tensors", "tensors_protocol_4"] {
        assert_same(protocol, &pytorch(protocol), &expected("tensors", ""));
    }
}

#[test]
fn other_files_are_refused() {
    let cases = [
        (
            "refused_old_format.pth",
            "save it again with torch: torch.save(torch.load(",
        ),
        (
            "refused_whole_model.pth",
            "save a state dict: torch.save(model.state_dict()",
        ),
        ("refused_endless.pth", "save contiguous ones"),
        ("refused_compressed.pth", "is compressed"),
        ("timm.safetensors", "needs the extension .safetensors"),
    ];
    for (name, words) in cases {
        let path = fixture(name);
        let reason = reason(&path, read_pytorch(&path));
        assert!(reason.contains(words), "{name}: {reason}");
    }
    let missing = fixture("no such file.pth");
    assert!(matches!(read_pytorch(&missing), Err(Error::Io { path, .. }) if path == missing));
}

/// File, role, prefix of the backbone, and what its heads are.
type Checkpoint = (
    &'static str,
    Role,
    &'static str,
    Option<(PrototypeLength, PatchHead)>,
);

#[test]
fn checkpoints_give_backbone_heads_and_mask_token() {
    use PatchHead::{Absent, Own, Shared};
    use PrototypeLength::{Free, Learned, Unit};
    use Role::{Student, Teacher};
    #[rustfmt::skip]
    let cases: [Checkpoint; 10] = [
        ("timm", Teacher, "", None),
        ("timm_half", Teacher, "state_dict.", None),
        ("ibot", Student, "student.module.backbone.", Some((Learned, Own))),
        ("ibot", Teacher, "teacher.backbone.", Some((Unit, Shared))),
        ("dino", Student, "student.module.backbone.", Some((Unit, Absent))),
        ("dino", Teacher, "teacher.backbone.", Some((Unit, Absent))),
        ("dinov2_registers", Teacher, "", None),
        ("dinov2_teacher", Teacher, "teacher.backbone.", Some((Unit, Own))),
        ("lightning", Student, "state_dict.backbone.student.", Some((Free, Own))),
        ("lightning", Teacher, "state_dict.backbone.teacher.", Some((Free, Own))),
    ];
    for (name, role, prefix, kind) in cases {
        let what = format!("{name} {role:?}");
        let path = fixture(name);
        let of_role = |part: &str| {
            let role = format!("{role:?}").to_lowercase();
            expected(name, &format!("{role}/{part}"))
        };
        let tensors = pytorch(name);
        let heads = heads_of(&path, &tensors, role).unwrap();
        let found = heads
            .as_ref()
            .map(|heads| (heads.prototype_length, heads.patch_head));
        assert_eq!(found, kind, "{what}");
        if let Some(heads) = heads {
            assert_same(&what, &heads.tensors, &of_role("heads/"));
        }
        let backbone = backbone_of(&path, tensors, role).unwrap();
        assert_eq!(backbone.prefix, prefix, "{what}");
        assert_same(&what, &backbone.tensors, &of_role("backbone/"));
        let mask_token = of_role("mask_token").remove("");
        assert_eq!(backbone.mask_token, mask_token, "{what}");
        let classifier = ["head.bias", "head.weight"].map(|key| format!("{prefix}{key}"));
        match name {
            "timm" | "timm_half" => assert_eq!(backbone.dropped, classifier, "{what}"),
            _ => assert!(backbone.dropped.is_empty(), "{what}"),
        }
    }
}

fn renamed(tensors: &Tensors, name: impl Fn(&str) -> String) -> Tensors {
    let named = tensors
        .iter()
        .map(|(key, tensor)| (name(key), tensor.clone()));
    named.collect()
}

#[test]
fn any_prefix_and_other_names_of_blocks_are_understood() {
    let plain = expected("timm", "teacher/backbone/");
    let path = Path::new("renamed.pth");
    for prefix in [
        "model.",
        "module.",
        "backbone.",
        "encoder.",
        "module.encoder.vit.",
    ] {
        let tensors = renamed(&plain, |key| format!("{prefix}{key}"));
        for role in [Role::Student, Role::Teacher] {
            let found = backbone_of(path, tensors.clone(), role).unwrap();
            assert_eq!(found.prefix, prefix);
            assert_same(prefix, &found.tensors, &plain);
        }
    }
    // MAE: the decoder has a mask token of another width; timm: an average beside the model
    let mut tensors = renamed(&plain, |key| format!("model.{key}"));
    let other = NamedTensor {
        shape: vec![1, 1, 4],
        values: vec![1.0; 4],
    };
    tensors.insert("model.mask_token".into(), other.clone());
    tensors.insert("model.decoder_embed.weight".into(), other);
    tensors.extend(renamed(&plain, |key| format!("state_dict_ema.{key}")));
    let found = backbone_of(path, tensors.clone(), Role::Student).unwrap();
    assert_eq!((found.prefix.as_str(), found.mask_token), ("model.", None));
    assert_eq!(found.dropped, ["model.decoder_embed.weight"]);
    assert_same("beside a decoder", &found.tensors, &plain);
    let average = backbone_of(path, tensors, Role::Teacher).unwrap();
    assert_eq!(average.prefix, "state_dict_ema.");
    // chunks of one block, and BEiT's names of its scales
    let scaled = expected("dinov2_teacher", "teacher/backbone/");
    let tensors = renamed(&scaled, |key| {
        let key = key
            .replace("blocks.0.", "blocks.0.0.")
            .replace("blocks.1.", "blocks.1.1.");
        key.replace("ls1.gamma", "gamma_1")
            .replace("ls2.gamma", "gamma_2")
    });
    assert!(tensors.contains_key("blocks.1.1.gamma_2"));
    let found = backbone_of(path, tensors, Role::Teacher).unwrap();
    assert_same("renamed blocks", &found.tensors, &scaled);
}

#[test]
fn new_weight_norm_is_understood_and_heads_with_norms_are_refused() {
    let path = fixture("ibot.pth");
    let new = renamed(&pytorch("ibot"), |key| {
        key.replace("weight_g", "parametrizations.weight.original0")
            .replace("weight_v", "parametrizations.weight.original1")
    });
    let heads = heads_of(&path, &new, Role::Student).unwrap().unwrap();
    assert_same("new", &heads.tensors, &expected("ibot", "student/heads/"));
    let norms = |key: &str| key.replace("head.mlp.2.weight", "head.mlp.1.running_mean");
    let with_norms = renamed(&new, norms);
    let reason = reason(&path, heads_of(&path, &with_norms, Role::Student));
    assert!(reason.contains("load only the backbone"), "{reason}");
}

#[test]
fn what_is_no_single_vision_transformer_is_refused() {
    let plain = expected("timm", "teacher/backbone/");
    let path = Path::new("some.pth");
    let both = |first: &str, second: &str| {
        let mut tensors = renamed(&plain, |key| format!("{first}{key}"));
        tensors.extend(renamed(&plain, |key| format!("{second}{key}")));
        tensors
    };
    let lone_student = renamed(&plain, |key| format!("student.backbone.{key}"));
    let without = |word: &str| {
        let mut tensors = plain.clone();
        tensors.retain(|key, _| !key.contains(word));
        tensors
    };
    let transformers = renamed(&plain, |key| {
        key.replace(
            "patch_embed.proj",
            "vit.embeddings.patch_embeddings.projection",
        )
    });
    let mut gated = plain.clone();
    gated.insert("blocks.0.mlp.w12.weight".into(), plain["cls_token"].clone());
    let mut registers = without("pos_embed");
    registers.insert("register_tokens".into(), plain["cls_token"].clone());
    let mut twice = plain.clone();
    twice.insert(
        "blocks.0.0.norm1.weight".into(),
        plain["norm.weight"].clone(),
    );
    let cases = [
        (
            both("a.", "b."),
            "has several backbones, a. and b.; keep only one",
        ),
        (
            lone_student,
            "has no teacher, only student.backbone.; use the student",
        ),
        (without("patch_embed"), "has no vision transformer"),
        (without("blocks."), "not Swin"),
        (transformers, "has patches but no blocks.0.norm1.weight"),
        (gated, "has SwiGLU layers (blocks.0.mlp.w12.weight)"),
        (
            registers,
            "has register_tokens but no matching cls_token and pos_embed",
        ),
        (twice, "has two tensors for blocks.0.norm1.weight"),
        (
            Tensors::new(),
            "has no float tensors and no vision transformer",
        ),
    ];
    for (tensors, words) in cases {
        let reason = reason(path, backbone_of(path, tensors, Role::Teacher));
        assert!(reason.contains(words), "{reason} instead of {words}");
    }
}

#[test]
fn positions_are_resampled_as_timm_does() {
    let path = Path::new("positions.pth");
    let cases = expected("positions", "");
    let mut checked = 0;
    for (key, before) in &cases {
        let Some(start) = key.strip_suffix("before") else {
            continue;
        };
        let numbers: Vec<usize> = start
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        let [prefix, rows, columns] = numbers[..] else {
            panic!("{key}");
        };
        let found = resample_positions(path, before.clone(), prefix, [rows, columns]).unwrap();
        let after = &cases[&format!("{start}after")];
        assert_eq!(found.shape, after.shape, "{key}");
        for (found, expected) in found.values.iter().zip(&after.values) {
            let error = (found - expected).abs();
            assert!(error < 2e-6, "{key}: {found} instead of {expected}");
        }
        // class and register tokens, and an unchanged grid, to the last bit
        let same = if found.shape == before.shape {
            before.values.len()
        } else {
            prefix * 8
        };
        assert_eq!(found.values[..same], after.values[..same], "{key}");
        checked += 1;
    }
    assert_eq!(checked, 5);
    let of = |shape: &[usize]| NamedTensor {
        shape: shape.to_vec(),
        values: vec![1.0; shape.iter().product()],
    };
    let cases = [
        (of(&[1, 17, 8]), 0, [2, 2], "is not a square grid"),
        (of(&[1, 1, 8]), 1, [2, 2], "is not a square grid"),
        (of(&[1, 1, 8]), 5, [2, 2], "is not a square grid"),
        (of(&[17, 8]), 1, [2, 2], "is not [1, positions, width]"),
        (of(&[1, 17, 8]), 1, [0, 2], "empty grid"),
    ];
    for (positions, prefix, grid, words) in cases {
        let found = resample_positions(path, positions, prefix, grid);
        let reason = reason(path, found);
        assert!(reason.contains(words), "{reason} instead of {words}");
    }
}
