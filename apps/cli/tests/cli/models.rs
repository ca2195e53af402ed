//! Files given as models: what is none is told by what it is.

use std::fs;
use std::path::Path;

use burn_flex::Flex;
use ibot::backbone::vit_from_name;
use ibot::files::{NamedTensor, state_dict, write_safetensors};
use ibot::random::{Random, Stream};
use serde_json::Value;

use crate::{Scratch, ibot, refused, stdout};

pub const ENCODER: &str = "vit_tiny_patch16_224";

/// A small encoder for images of 32 pixels, its keys behind `prefix`.
pub fn write_encoder(path: &str, prefix: &str, change: impl FnOnce(&mut NamedTensor)) {
    let config = vit_from_name(ENCODER, 32).unwrap();
    let mut random = Random::new(0, 0, 0, Stream::Init);
    let model = config.init::<Flex>(&mut random, &Default::default());
    let mut tensors = state_dict(&model.unwrap());
    change(tensors.get_mut("blocks.1.attn.proj.bias").unwrap());
    let named = tensors.into_iter();
    let named = named.map(|(key, tensor)| (format!("{prefix}{key}"), tensor));
    write_safetensors(Path::new(path), &named.collect()).unwrap();
}

/// The start of a safetensors file with a header of its own making.
fn safetensors(json: &str, values: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + values, 0);
    bytes
}

#[test]
fn what_holds_no_weights_is_told_by_what_it_is() {
    let scratch = Scratch::new("no-weights");
    let images = scratch.images();
    let image = fs::read(scratch.0.join("images/odd/1.png")).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346\n";
    let index = r#"{"metadata": {"total_size": 9}, "weight_map": {"norm.weight": "model-00001-of-00002.safetensors"}}"#;
    let header = r#"{"norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}"#;
    let (whole, mut old) = (
        safetensors(header, 32),
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
    );
    old.resize(100, 0);
    let numpy =
        b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94\x8c\x01a\x94\x8c\x16numpy._core.multiarray\x94"
            .to_vec();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a.png", image, "is an image or video"),
        (
            "a.jpg",
            b"\xff\xd8\xff\xe0\0\x10JFIF\0".to_vec(),
            "is an image or video",
        ),
        ("lfs.safetensors", pointer.into(), "run `git lfs pull`"),
        (
            "page.pth",
            b"\n<!DOCTYPE html>\n<title>404</title>".to_vec(),
            "is a web page",
        ),
        (
            "page.safetensors",
            b"<html><body>Sign in".to_vec(),
            "is a web page",
        ),
        (
            "model.safetensors.index.json",
            index.into(),
            "which is not beside it",
        ),
        (
            "config.json",
            b"{\"architecture\": \"vit\"}".to_vec(),
            "is JSON",
        ),
        ("notes.txt", "Größe\n".into(), "is a text"),
        ("empty.safetensors", Vec::new(), "is empty"),
        (
            "short.safetensors",
            vec![1, 0, 0],
            "is truncated: it has 3 of at least 8",
        ),
        (
            "cut.safetensors",
            whole[..whole.len() - 8].to_vec(),
            "is truncated: it has 104 of at least 112",
        ),
        (
            "head.safetensors",
            whole[..40].to_vec(),
            "is truncated: it has 40 of at least 80",
        ),
        (
            "old.pth",
            old,
            "format before 1.6; save it again with torch",
        ),
        (
            "numpy.pkl",
            numpy,
            "is a pickle of NumPy arrays, not of torch",
        ),
        (
            "plain.pkl",
            b"\x80\x04}\x94.".to_vec(),
            "is a pickle of Python objects",
        ),
        (
            "w.tar.gz",
            b"\x1f\x8b\x08\0".to_vec(),
            "is compressed (gzip)",
        ),
        ("w.h5", b"\x89HDF\r\n\x1a\n\0".to_vec(), "Keras"),
        (
            "w.bin",
            vec![0xee; 64],
            "is neither a safetensors file nor one of torch.save",
        ),
    ];
    for (name, bytes, words) in cases {
        let file = scratch.path(name);
        fs::write(&file, bytes).unwrap();
        let out = scratch.path("never");
        let embed = [
            "embed",
            "--backend",
            "flex",
            "--data",
            &images,
            "--out",
            "x.npy",
        ];
        // a name that fits nothing yet, or none at all: the file itself is wrong
        for more in [&["--encoder", ENCODER][..], &[]] {
            refused(
                &[&embed[..], &["--model", &file], more].concat(),
                &[name, words],
            );
        }
        refused(&["inspect", &file], &[name, words]);
        let train = [
            "train",
            "--backend",
            "flex",
            "--data",
            &images,
            "--out",
            &out,
        ];
        refused(
            &[&train[..], &["--pretrained", &file]].concat(),
            &[name, words],
        );
        assert!(!Path::new(&out).exists(), "{name}");
    }
}

#[test]
fn a_folder_names_the_file_in_it() {
    let scratch = Scratch::new("folder-as-model");
    let train = scratch.train(&["--steps", "2"]);
    assert!(ibot(&train).status.success());
    let (run, images) = (scratch.path("run"), scratch.path("images"));
    let embed = |model: &str, parts: &[&str]| {
        let embed = [
            "embed",
            "--backend",
            "flex",
            "--data",
            &images,
            "--out",
            "x.npy",
        ];
        refused(&[&embed[..], &["--model", model]].concat(), parts);
    };
    let teacher = Path::new(&run).join("teacher.safetensors");
    let named = teacher.to_string_lossy();
    // a run as earlier versions left it; one of now has a `config.json`, and is a model as it is
    let opened = ["inspect", &run].map(str::to_owned);
    assert!(ibot(&opened).status.success());
    for file in ["config.json", "model.safetensors"] {
        fs::remove_file(Path::new(&run).join(file)).unwrap();
    }
    embed(&run, &["is a folder; give the file in it, ", &named]);
    refused(&["inspect", &run], &[&named]);
    let checkpoint = Path::new(&run).join("checkpoints/step-000000002");
    embed(
        &checkpoint.to_string_lossy(),
        &["ibot export --checkpoint", "step-000000002"],
    );
    embed(&images, &["is a folder without weights"]);
    fs::rename(&teacher, scratch.0.join("images/kept.pth")).unwrap();
    embed(&run, &["ibot export --run"]);
    embed(&images, &["such as ", "kept.pth"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused_first() {
    let scratch = Scratch::new("nan-weights");
    let (images, model) = (scratch.images(), scratch.path("nan.safetensors"));
    write_encoder(&model, "", |bias| bias.values[..3].fill(f32::NAN));
    let parts = ["nan.safetensors: 3 of the 192 values of blocks.1.attn.proj.bias are NaN"];
    let (out, table) = (scratch.path("never"), scratch.path("never.npy"));
    let commands: [&[&str]; 4] = [
        &["embed", "--out", &table, "--model", &model],
        &["knn", "--model", &model],
        &["finetune", "--out", &out, "--model", &model],
        &[
            "train",
            "--out",
            &out,
            "--batch-size",
            "2",
            "--pretrained",
            &model,
        ],
    ];
    for command in commands {
        let read = ["--backend", "flex", "--data", &images, "--encoder", ENCODER];
        refused(&[command, &read, &["--image-size", "32"]].concat(), &parts);
        for left in [&out, &table] {
            assert!(!Path::new(left).exists(), "{command:?}");
        }
    }
    let json: Value = serde_json::from_str(&stdout(&ibot(&["inspect", "--json", &model]))).unwrap();
    assert_eq!(json["not_finite"]["blocks.1.attn.proj.bias"], 3);
    let text = stdout(&ibot(&["inspect", &model]));
    assert!(
        text.contains("damaged: blocks.1.attn.proj.bias has 3 values"),
        "{text}"
    );
}

#[test]
fn inspect_lists_encoders_and_what_is_passed_over() {
    let text = stdout(&ibot(&["inspect", "--encoders"]));
    for line in [
        "vit_small_patch16_224: width 384, 12 blocks, 6 heads, patches of 16",
        "  .dino: imagenet (mean 0.485 0.456 0.406, std 0.229 0.224 0.225)",
        "  .bamboo: clip (mean 0.48145467",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let scratch = Scratch::new("passed-over");
    let file = scratch.path("counter.safetensors");
    let header = r#"{"norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]},
        "bn.num_batches_tracked": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]}}"#;
    fs::write(&file, safetensors(header, 40)).unwrap();
    let text = stdout(&ibot(&["inspect", &file]));
    for part in [
        "1 tensors, 8 parameters",
        "skipped: bn.num_batches_tracked (I64)",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
