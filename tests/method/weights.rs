//! Weight files: what is written reads back, and what does not fit is refused by name.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use burn_flex::Flex;
use ibot::backbone::vit_from_name;
use ibot::error::{Error, Result};
use ibot::files::model::{ModelOptions, read_model};
use ibot::files::{
    NamedTensor, Role, backbone_of, load_pretrained, networks_of, passed_over, read_backbone,
    read_pytorch, read_safetensors, save, state_dict, tensor_names, write_safetensors,
};
use ibot::kernels::TrainBackend;
use ibot::random::{Random, Stream};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::pretrained::fixture;
use crate::{tiny, tiny_method};

type Tensors = BTreeMap<String, NamedTensor>;

fn scratch_file(name: &str) -> PathBuf {
    let unique = format!(
        "ibot-{}-{:?}-{name}",
        std::process::id(),
        std::thread::current().id()
    );
    std::env::temp_dir().join(unique.replace(['(', ')'], ""))
}

pub fn round_trip<B: TrainBackend>(device: &B::Device) {
    let path = scratch_file("round-trip.safetensors");
    let written = tiny_method::<B>(device).student.network.backbone;
    save(&written, &path).unwrap();
    let fresh: ibot::method::VitIbot<B> = tiny().init(9, device).unwrap();
    let fresh = fresh.student.network.backbone;
    assert_ne!(state_dict(&fresh), state_dict(&written));
    let read = load_pretrained(fresh, &path).unwrap();
    assert_eq!(state_dict(&read), state_dict(&written));
    let file = read_safetensors(&path).unwrap();
    assert_eq!(file["patch_embed.proj.weight"].shape, [16, 3, 8, 8]);
    assert_eq!(file["blocks.0.mlp.fc1.weight"].shape, [64, 16]);
    assert!(file.contains_key("norm.weight") && file.contains_key("cls_token"));
    std::fs::remove_file(path).unwrap();
}

pub fn misfits_are_refused<B: TrainBackend>(device: &B::Device) {
    let path = scratch_file("misfits.safetensors");
    let backbone = || tiny_method::<B>(device).student.network.backbone;
    let good = state_dict(&backbone());
    let refusal = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        write_safetensors(&path, &tensors).unwrap();
        match load_pretrained(backbone(), &path) {
            Err(Error::Weights { reason, .. }) => Some(reason),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    };
    let zeros = |shape: &[usize]| NamedTensor {
        shape: shape.to_vec(),
        values: vec![0.0; shape.iter().product()],
    };
    let missing = refusal(&|tensors| drop(tensors.remove("norm.bias"))).unwrap();
    assert!(missing.contains("1 missing (norm.bias)"), "{missing}");
    let unused = refusal(&|tensors| drop(tensors.insert("extra".into(), zeros(&[2])))).unwrap();
    assert!(unused.contains("1 unused (extra)"), "{unused}");
    let misshapen = refusal(&|tensors| drop(tensors.insert("cls_token".into(), zeros(&[1, 1, 9]))));
    let misshapen = misshapen.unwrap();
    assert!(
        misshapen.contains("cls_token: file [1, 1, 9], model [1, 1, 16]"),
        "{misshapen}"
    );
    // positions of another square grid are resampled
    let positions = |rows: usize| {
        refusal(&|tensors| drop(tensors.insert("pos_embed".into(), zeros(&[1, rows, 16]))))
    };
    assert_eq!(positions(10), None);
    assert!(
        positions(9)
            .unwrap()
            .contains("pos_embed [1, 9, 16] is not a square grid")
    );
    let classifier = refusal(&|tensors| drop(tensors.insert("head.bias".into(), zeros(&[10]))));
    assert_eq!(classifier, None);
    std::fs::write(&path, b"no weights").unwrap();
    let message = load_pretrained(backbone(), &path).unwrap_err().to_string();
    assert!(
        message.contains("neither safetensors nor torch.save"),
        "{message}"
    );
    std::fs::remove_file(path).unwrap();
}

/// The weights of a small encoder for images of 32 pixels.
fn vit_tiny() -> Tensors {
    let config = vit_from_name("vit_tiny_patch16_224", 32).unwrap();
    let mut random = Random::new(0, 0, 0, Stream::Init);
    let model = config.init::<Flex>(&mut random, &Default::default());
    state_dict(&model.unwrap())
}

/// What the commands do first with a file that does not describe itself.
fn as_model(path: &Path, encoder: &str) -> Result<()> {
    let options = ModelOptions {
        encoder: Some(encoder.into()),
        image_size: Some(32),
        ..ModelOptions::default()
    };
    let mut model = read_model(path, &options)?;
    model.backbone::<Flex>(path, &Default::default()).map(drop)
}

#[test]
fn a_file_without_metadata_has_the_size_of_its_positions() {
    let path = scratch_file("sizes.safetensors");
    write_safetensors(&path, &vit_tiny()).unwrap();
    let size = |asked| {
        let options = ModelOptions {
            encoder: Some("vit_tiny_patch16_224".into()),
            image_size: asked,
            ..ModelOptions::default()
        };
        let model = read_model(&path, &options).unwrap();
        let positions = model.tensors["pos_embed"].shape[1];
        assert_eq!(model.preprocessing.image_size, model.architecture.img_size);
        (model.architecture.img_size, positions)
    };
    assert_eq!(size(None), (32, 1 + 4));
    assert_eq!(size(Some(48)), (48, 1 + 9));
    std::fs::remove_file(path).unwrap();
}

#[track_caller]
fn refusal<T>(result: Result<T>, parts: &[&str]) {
    let message = match result {
        Err(error) => error.to_string(),
        Ok(_) => panic!("taken, and not refused with {parts:?}"),
    };
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(message.len() < 600 && !message.contains('\n'), "{message}");
}

/// A safetensors file of these tensors, and of others that are no floats.
fn write_with_others(path: &Path, tensors: &Tensors, others: &[(&str, Dtype, Vec<usize>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .values()
        .map(|tensor| tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let floats = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let zeros = vec![0; 1 << 20];
    let others = others.iter().map(|(name, dtype, shape)| {
        let length = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let view = TensorView::new(*dtype, shape.clone(), &zeros[..length]).unwrap();
        ((*name).to_string(), view)
    });
    let all: Vec<_> = floats.chain(others).collect();
    std::fs::write(path, safetensors::serialize(all, None).unwrap()).unwrap();
}

#[test]
fn whole_numbers_beside_weights_are_passed_over() {
    let path = scratch_file("others.safetensors");
    let mut tensors = vit_tiny();
    let others = [
        ("norm.num_batches_tracked", Dtype::I64, vec![]),
        ("position_ids", Dtype::I32, vec![1, 5]),
        ("blocks.0.attn.mask", Dtype::BOOL, vec![5, 5]),
    ];
    write_with_others(&path, &tensors, &others);
    assert_eq!(read_safetensors(&path).unwrap(), tensors);
    let names: Vec<String> = tensors.keys().cloned().collect();
    assert_eq!(tensor_names(&path).unwrap(), names);
    as_model(&path, "vit_tiny_patch16_224").unwrap();
    let found: Vec<String> = passed_over(&path)
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    assert_eq!(found, ["BOOL", "I64", "I32"]);
    // but one that the model needs is said to be no float
    for key in ["blocks.3.mlp.fc1.weight", "patch_embed.proj.weight"] {
        let shape = tensors.remove(key).unwrap().shape;
        write_with_others(&path, &tensors, &[(key, Dtype::I8, shape)]);
        let parts = ["others.safetensors", &format!("{key} is I8"), "quantized"];
        refusal(as_model(&path, "vit_tiny_patch16_224"), &parts);
        refusal(
            read_backbone(&path, 1, [2, 2]).and(as_model(&path, "vit_tiny_patch16_224")),
            &parts,
        );
        tensors = vit_tiny();
    }
    std::fs::remove_file(path).unwrap();
}

/// Every way in names the file, the first key and how many.
#[test]
fn weights_that_are_no_numbers_are_refused() {
    let path = scratch_file("broken.safetensors");
    let mut tensors = vit_tiny();
    let mut spoil = |key: &str, values: &[f32]| {
        tensors.get_mut(key).unwrap().values[1..=values.len()].copy_from_slice(values);
        write_safetensors(&path, &tensors).unwrap();
    };
    spoil("blocks.2.norm1.bias", &[f32::NAN, f32::INFINITY]);
    let one = [
        "broken.safetensors",
        "2 of the 192 values of blocks.2.norm1.bias are NaN or",
    ];
    refusal(as_model(&path, "vit_tiny_patch16_224"), &one);
    refusal(read_backbone(&path, 1, [2, 2]), &one);
    spoil("norm.weight", &[f32::NEG_INFINITY]);
    let two = [&one[..], &["as in 1 other tensor"]].concat();
    let config = vit_from_name("vit_tiny_patch16_224", 32).unwrap();
    let fresh = config.init::<Flex>(&mut Random::new(0, 0, 0, Stream::Init), &Default::default());
    refusal(load_pretrained(fresh.unwrap(), &path), &two);
    // what no backbone has a use for may be anything
    let mut tensors = vit_tiny();
    let nan = NamedTensor {
        shape: vec![1],
        values: vec![f32::NAN],
    };
    tensors.insert("head.bias".into(), nan);
    write_safetensors(&path, &tensors).unwrap();
    as_model(&path, "vit_tiny_patch16_224").unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn checkpoints_of_torch_with_nan_are_refused() {
    let path = scratch_file("broken.pth");
    for (name, part) in [("timm", "NaN or infinite"), ("ibot", "NaN or infinite")] {
        with_nan(&fixture(&format!("{name}.pth")), &path);
        let tensors = read_pytorch(&path).unwrap();
        refusal(
            backbone_of(&path, tensors.clone(), Role::Teacher),
            &["broken.pth", part],
        );
        refusal(networks_of(&path, tensors), &["broken.pth", part]);
    }
    // of all parts, heads, mask token and centers count too
    let good = read_pytorch(&fixture("ibot.pth")).unwrap();
    for (key, named) in [
        (
            "student.module.head.mlp.0.weight",
            "student.cls_head.layers.0.weight",
        ),
        ("student.module.backbone.masked_embed", "mask_token"),
        ("ibot_loss.center2", "center of patches"),
    ] {
        let mut tensors = good.clone();
        tensors.get_mut(key).unwrap().values[0] = f32::NAN;
        backbone_of(&path, tensors.clone(), Role::Teacher).unwrap();
        refusal(networks_of(&path, tensors), &["broken.pth", named]);
    }
    std::fs::remove_file(path).unwrap();
}

/// The archive of torch with all floats of its storages NaN.
fn with_nan(from: &Path, to: &Path) {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(from).unwrap()).unwrap();
    let mut written = zip::ZipWriter::new(std::fs::File::create(to).unwrap());
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if entry.name().contains("/data/") {
            bytes.fill(0xff);
        }
        written.start_file(entry.name(), stored).unwrap();
        written.write_all(&bytes).unwrap();
    }
    written.finish().unwrap();
}

#[test]
fn other_models_name_what_to_take() {
    let path = scratch_file("other-00001-of-00002.safetensors");
    let refused = |change: &dyn Fn(&mut Tensors), encoder: &str, parts: &[&str]| {
        let mut tensors = vit_tiny();
        change(&mut tensors);
        write_safetensors(&path, &tensors).unwrap();
        refusal(as_model(&path, encoder), parts);
    };
    let same = "vit_tiny_patch16_224";
    let pooled = |tensors: &mut Tensors| {
        for leaf in ["weight", "bias"] {
            let norm = tensors.remove(&format!("norm.{leaf}")).unwrap();
            tensors.insert(format!("fc_norm.{leaf}"), norm);
        }
    };
    refused(
        &pooled,
        same,
        &[
            "mean of the patches",
            "timm's vit_tiny_patch16_224.augreg_in21k",
        ],
    );
    let distilled = |tensors: &mut Tensors| {
        let token = tensors["cls_token"].clone();
        tensors.insert("dist_token".into(), token);
    };
    refused(
        &distilled,
        same,
        &["dist_token", "deit_tiny_patch16_224.fb_in1k"],
    );
    let part = |tensors: &mut Tensors| tensors.retain(|key, _| !key.starts_with("blocks.7."));
    refused(
        &part,
        same,
        &[
            "12 missing (blocks.7.",
            " and 9 more)",
            "one part of a model",
        ],
    );
    // of another size: short, with the name that fits
    let fits =
        "does not fit `encoder` vit_base_patch16_224: its shapes suggest vit_tiny_patch16_224";
    refused(&|_| (), "vit_base_patch16_224", &[fits]);
    refused(
        &|_| (),
        "vit_tiy_patch16_224",
        &[
            "encoder = vit_tiy",
            "nearest: vit_tiny_patch16_224",
            "`encoder_names` lists all",
        ],
    );
    // a name is printed safely
    let hostile = |tensors: &mut Tensors| {
        let norm = tensors.remove("norm.weight").unwrap();
        tensors.insert("nor\x1b[31m\nm".into(), norm);
    };
    refused(
        &hostile,
        same,
        &["1 missing (norm.weight)", "1 unused (nor\\u{1b}[31m\\nm)"],
    );
    std::fs::remove_file(path).unwrap();
}
