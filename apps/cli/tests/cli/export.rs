//! A run's weights as files for other programs, and as the start of another run.

use std::fs;
use std::path::Path;

use ibot::files::{read_safetensors, write_safetensors};

use crate::{Scratch, refused, succeeds};

/// A run's weights are hours of work, and one typing error away.
#[test]
fn weights_of_a_run_are_not_written_over() {
    let scratch = Scratch::new("export-over");
    let train = scratch.train(&["--steps", "1"]);
    succeeds(&train.iter().map(String::as_str).collect::<Vec<_>>());
    let [run, teacher, images, query] = [
        "run",
        "run/teacher.safetensors",
        "images",
        "images/odd/1.png",
    ]
    .map(|name| scratch.path(name));
    let before = fs::read(&teacher).unwrap();
    let export = ["export", "--model", &teacher, "--out"];
    let as_folder = [&run, "--format", "transformers"];
    refused(
        &[&export[..], &as_folder].concat(),
        &["would replace weights of a run"],
    );
    refused(
        &[&export[..], &[&teacher]].concat(),
        &["would replace weights of a run"],
    );
    for (out, more, part) in others(&scratch) {
        let export = ["export", "--run", &run, "--out", &out];
        let bytes = || fs::read(&out).or_else(|_| fs::read(Path::new(&out).join("config.json")));
        let before = bytes().unwrap();
        refused(&[&export[..], more].concat(), &[part]);
        assert!(bytes().unwrap() == before, "{out}");
    }
    let embed = ["embed", &images, "--model", &teacher, "--out", &teacher];
    refused(&embed, &["exists and holds no features"]);
    let search = [
        "search", "--data", &images, "--model", &teacher, "--query", &query,
    ];
    refused(
        &[&search[..], &["--index", &teacher]].concat(),
        &["holds no features"],
    );
    refused(
        &[&search[..], &["--out", &query]].concat(),
        &["is a file that this command reads"],
    );
    assert!(fs::read(&teacher).unwrap() == before);
}

/// What an export would replace, with its flags and why it is refused.
fn others(scratch: &Scratch) -> Vec<(String, &'static [&'static str], &'static str)> {
    let write = |name: &str| {
        let path = scratch.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
        scratch.path(name)
    };
    for name in ["tuned/config.toml", "tuned/metrics.jsonl"] {
        write(name);
    }
    write("foreign/config.json");
    let of_run = "would replace weights of a run";
    let not_exported = "exists and is not of `ibot export`";
    let mut all: Vec<(String, &'static [&'static str], _)> = vec![
        (
            scratch.path("run/checkpoints/step-000000001/state.safetensors"),
            &[],
            of_run,
        ),
        (write("tuned/best.safetensors"), &[], of_run),
        (write("mine.safetensors"), &[], not_exported),
        (
            scratch.path("foreign"),
            &["--format", "transformers"],
            not_exported,
        ),
    ];
    #[cfg(unix)]
    {
        let link = scratch.path("link.safetensors");
        std::os::unix::fs::symlink("run/teacher.safetensors", &link).unwrap();
        all.push((link, &["--network", "student"], of_run));
    }
    all
}

#[test]
fn a_run_goes_on_in_another_one() {
    let scratch = Scratch::new("export");
    let (run, more) = (scratch.path("run"), scratch.path("more"));
    let train = scratch.train(&["--steps", "4"]);
    let images = scratch.path("images");
    let train: Vec<&str> = train.iter().map(String::as_str).collect();
    let knn = ["--val", &images, "--knn-every", "1"];
    succeeds(&[&train[..], &knn].concat());

    // an accuracy was taken after each of two epochs of 2 steps, and is in the checkpoint that was written then
    let evaluations = fs::read_to_string(Path::new(&run).join("evaluations.jsonl")).unwrap();
    let line = |line: &str| -> serde_json::Value { serde_json::from_str(line).unwrap() };
    let taken = evaluations.lines().skip(1).map(line); // the first is of the untrained teacher
    let taken = taken.map(|line| {
        (
            line["knn"].as_f64().unwrap(),
            line["step"].as_u64().unwrap(),
        )
    });
    let taken: Vec<(f64, u64)> = taken.collect();
    for (knn, step) in &taken {
        let manifest = format!("{run}/checkpoints/step-{step:09}/checkpoint.json");
        let manifest = line(&fs::read_to_string(manifest).unwrap());
        assert_eq!(manifest["knn"].as_f64(), Some(*knn), "step {step}");
    }
    let steps: Vec<u64> = taken.iter().map(|(_, step)| *step).collect();
    assert_eq!(steps, [2, 4]);
    // of equal ones the newest, here the last
    let best = taken
        .iter()
        .max_by(|a, b| a.partial_cmp(b).unwrap())
        .unwrap();
    let timm = scratch.path("timm.safetensors");
    let said = succeeds(&["export", "--run", &run, "--best", "--out", &timm]);
    let expected = format!("the teacher's backbone, after {} steps", best.1);
    assert!(said.contains(&expected), "{said}, not {expected}");
    // the newest checkpoint is what the run folder has, with the same cards
    for (network, flags) in [("teacher", &[][..]), ("student", &["--network", "student"])] {
        let export = ["export", "--run", &run, "--out", &timm];
        succeeds(&[&export[..], flags].concat());
        let of_run = Path::new(&run).join(format!("{network}.safetensors"));
        let inspect = |file: &str| {
            let text = succeeds(&["inspect", "--json", file]);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            json["card"].clone()
        };
        assert_eq!(inspect(&timm), inspect(&of_run.to_string_lossy()));
        let tensors = read_safetensors(Path::new(&timm)).unwrap();
        assert!(tensors == read_safetensors(&of_run).unwrap(), "{network}");
    }

    // as ONNX, and from the model file for another size
    let onnx = scratch.path("model.onnx");
    let format = ["--format", "onnx", "--out", &onnx];
    succeeds(&[&["export", "--run", &run][..], &format].concat());
    let of_run = fs::read(&onnx).unwrap();
    let teacher = scratch.path("run/teacher.safetensors");
    let model = [&["export", "--model", &teacher][..], &format].concat();
    let said = succeeds(&model);
    assert!(said.contains("for images of 16 x 16"), "{said}");
    assert!(fs::read(&onnx).unwrap() == of_run);
    let said = succeeds(&[&model[..], &["--image-size", "24"]].concat());
    assert!(said.contains("for images of 24 x 24"), "{said}");

    // what does not fit is said of the file that was read
    let plain = scratch.path("plain.safetensors");
    let tensors = read_safetensors(Path::new(&teacher)).unwrap();
    write_safetensors(Path::new(&plain), &tensors).unwrap();
    let encoder = ["--encoder", "vit_tiny_patch16_224"];
    for (format, out) in [("onnx", "new.onnx"), ("transformers", "new")] {
        let out = scratch.path(out);
        let export = ["export", "--model", &plain, "--format", format];
        let export = [&export[..], &["--out", &out], &encoder].concat();
        refused(&export, &["plain.safetensors: does not fit the model"]);
        assert!(!Path::new(&out).exists());
    }

    // both networks with their heads, from the checkpoint's own folder too
    let full = scratch.path("full.safetensors");
    let format = ["--format", "ibot", "--out", &full];
    succeeds(&[&["export", "--run", &run][..], &format].concat());
    // not its bytes: the order of a file's metadata is any
    let written = read_safetensors(Path::new(&full)).unwrap();
    let checkpoint = scratch.path("run/checkpoints/step-000000004");
    let said = succeeds(&[&["export", "--checkpoint", &checkpoint][..], &format].concat());
    assert!(said.contains("student and teacher with heads"), "{said}");
    assert!(read_safetensors(Path::new(&full)).unwrap() == written);

    // a student whose learning rate is 0 stays what it began with, to the last bit
    let mut again = train.clone();
    let out = again.iter().position(|flag| *flag == run).unwrap();
    again[out] = &more;
    let pretrained = ["--pretrained", &full, "--pretrained-parts", "all"];
    let again = [&again[..], &pretrained, &["--learning-rate", "0"]].concat();
    let said = succeeds(&again);
    let note =
        "full.safetensors: student student.backbone.*, teacher teacher.backbone.*, with heads\n";
    assert!(said.contains(note), "{said}");
    let other = scratch.path("other.safetensors");
    succeeds(&[
        "export", "--run", &more, "--format", "ibot", "--out", &other,
    ]);
    let [before, after] = [&full, &other].map(|file| read_safetensors(Path::new(file)).unwrap());
    assert!(before.keys().eq(after.keys()));
    for (key, tensor) in &before {
        let student = key.starts_with("student");
        assert!(
            !student || after[key] == *tensor,
            "{key}: the learning rate was 0"
        );
    }

    let mut narrow = again.clone();
    let config = scratch.path("narrow.toml");
    let toml = fs::read_to_string(scratch.path("tiny.toml")).unwrap();
    fs::write(
        &config,
        toml.replace("n_cls_prototypes = 24", "n_cls_prototypes = 30"),
    )
    .unwrap();
    let tiny = scratch.path("tiny.toml");
    for flag in &mut narrow {
        *flag = match *flag {
            flag if flag == more => "never",
            flag if flag == tiny => &config,
            flag => flag,
        };
    }
    refused(
        &narrow,
        &["full.safetensors", "n_cls_prototypes = 24    # is 30"],
    );
    assert!(!Path::new("never").exists());
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let scratch = Scratch::new("no-export");
    let out = scratch.path("out.safetensors");
    let run = scratch.path("none");
    fs::create_dir_all(&run).unwrap();
    let export = |more: &[&'static str]| {
        let all = [&["export", "--run", &run, "--out", &out][..], more].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    refused(&export(&[]), &["none", "has no checkpoint to export"]);
    refused(
        &export(&["--best"]),
        &["no checkpoint with a k-NN accuracy", "--knn-every"],
    );
    let both = ["--format", "ibot", "--network", "student"];
    refused(
        &export(&both),
        &[
            "--network",
            "works with --format timm, onnx or transformers only",
        ],
    );
    let weights = ["export", "--run", &run, "--out", "weights.pth"];
    refused(
        &weights,
        &["--out = weights.pth", "must end in .safetensors"],
    );
    refused(
        &export(&["--format", "transformers"]),
        &["--out", "must be a folder for --format transformers"],
    );
    refused(
        &["export", "--checkpoint", &run, "--out", &out],
        &["B3SUMS"],
    );
    assert!(!Path::new(&out).exists());
}

/// What `--model RUN` takes, `--run RUN` writes: the best teacher, where the run kept one. Here it is another network, to tell them apart.
#[test]
fn the_best_teacher_is_exported() {
    let scratch = Scratch::new("export-best");
    let train = scratch.train(&["--steps", "2", "--set", "keep_best=true"]);
    succeeds(&train.iter().map(String::as_str).collect::<Vec<_>>());
    let run = scratch.path("run");
    let in_run = |name: &str| Path::new(&run).join(name);
    let student = read_safetensors(&in_run("student.safetensors")).unwrap();
    fs::copy(in_run("student.safetensors"), in_run("best.safetensors")).unwrap();
    let out = scratch.path("out.safetensors");
    for flags in [&[][..], &["--best"]] {
        let said = succeeds(&[&["export", "--run", &run, "--out", &out][..], flags].concat());
        assert!(said.contains("the best teacher's backbone"), "{said}");
        assert!(read_safetensors(Path::new(&out)).unwrap() == student);
    }
    let checkpoint = scratch.path("run/checkpoints/step-000000002");
    let said = succeeds(&["export", "--checkpoint", &checkpoint, "--out", &out]);
    assert!(said.contains("the teacher's backbone"), "{said}");
    let teacher = read_safetensors(&in_run("teacher.safetensors")).unwrap();
    assert!(read_safetensors(Path::new(&out)).unwrap() == teacher);
    let report = succeeds(&["report", &run]);
    assert!(report.contains("best.safetensors"), "{report}");
}
