//! Weight files: what is written reads back, and what does not fit is refused by name.

use ibot::error::Error;
use ibot::kernels::TrainBackend;
use ibot::weights::{
    NamedTensor, load_pretrained, read_safetensors, save, state_dict, write_safetensors,
};

use crate::{tiny, tiny_method};

fn scratch_file(name: &str) -> std::path::PathBuf {
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
    let fresh: ibot::ibot::VitIbot<B> = tiny().init(9, device).unwrap();
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
    let refusal = |change: &dyn Fn(&mut std::collections::BTreeMap<String, NamedTensor>)| {
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
            .contains("pos_embed [1, 9, 16] is no square grid")
    );
    let classifier = refusal(&|tensors| drop(tensors.insert("head.bias".into(), zeros(&[10]))));
    assert_eq!(classifier, None);
    std::fs::write(&path, b"no weights").unwrap();
    let message = load_pretrained(backbone(), &path).unwrap_err().to_string();
    assert!(message.contains("is no safetensors file"), "{message}");
    std::fs::remove_file(path).unwrap();
}
