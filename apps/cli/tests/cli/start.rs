//! The first minutes: what is read, which settings are taken, what is said, and what to do next.

use std::fs;
use std::path::Path;
use std::process::Output;

use image::RgbImage;

use crate::{Scratch, command, ibot, metrics, refused, stdout, succeeds};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a run of one step says.
fn one_step(scratch: &Scratch, sources: &[&str], more: &[&str]) -> String {
    let (config, run) = (scratch.path("tiny.toml"), scratch.path("run"));
    let flags = ["--config", &config, "--out", &run, "--steps", "1"];
    let train = ["train", "--backend", "flex"];
    succeeds(&[&train[..], sources, &flags, more].concat())
}

#[test]
fn trains_on_folders_files_and_lists() {
    let scratch = Scratch::new("sources");
    let images = scratch.images();
    let [odd, list, file] = [
        format!("{images}/odd"),
        scratch.path("list.txt"),
        format!("{images}/even/deep/er/0.png"),
    ];
    fs::write(
        &list,
        "images/even/deep/er/2.png\r\n\nimages/odd/1.png\nnone.png\n",
    )
    .unwrap();
    let said = one_step(&scratch, &[&odd, &file, "--data", &list, &file], &[]);
    // five of the folder, one file that is named twice, and one of the list that the folder has not
    assert!(said.contains("7 images (7 png), no labels"), "{said}");
    assert!(
        said.contains("none.png") && said.contains("cut.png"),
        "{said}"
    );
    let record = fs::read_to_string(scratch.path("run/run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["more_data"].as_array().unwrap().len(), 3, "{record}");
    let again = succeeds(&["train", "--resume", &scratch.path("run")]);
    assert!(again.contains("the run is complete"), "{again}");
    // a run on one folder looks as it always did
    let other = Scratch::new("one-source");
    let images = other.images();
    let said = one_step(&other, &[&images], &[]);
    assert!(said.contains("2 classes (even, odd)"), "{said}");
    let record = fs::read_to_string(other.path("run/run.json")).unwrap();
    assert!(!record.contains("more_data"), "{record}");
    refused(
        &["train", &scratch.path("nowhere"), &images],
        &["nowhere: "],
    );
}

#[test]
fn other_commands_take_images_first() {
    let scratch = Scratch::new("positional");
    let images = scratch.images();
    one_step(&scratch, &[&images], &[]);
    let (model, out) = (
        scratch.path("run/teacher.safetensors"),
        scratch.path("x.npy"),
    );
    let flags = ["--model", &model, "--backend", "flex"];
    let embed = [&["embed", &images, "--out", &out][..], &flags].concat();
    assert!(succeeds(&embed).contains("10 x 16 features"));
    let list = scratch.path("list.txt");
    fs::write(&list, "images/odd/1.png\nimages/odd/3.png\n").unwrap();
    let embed = [&["embed", &list, "--out", &out][..], &flags].concat();
    assert!(succeeds(&embed).contains("2 x 16 features"));
    let knn = [&["knn", &images, "--k", "1"][..], &flags].concat();
    assert!(succeeds(&knn).contains(" % "));
    // a mistake gets a hint, and exits as all wrong flags do
    for (arguments, hint) in [
        (&["search", "photos", "--query", "q"][..], "'--data photos'"),
        (&["visualize", "a.png", "--out", "m"], "'--image a.png'"),
        (&["embed", "a", "b", "--out", "m"], ".txt file"),
    ] {
        let output = ibot(&[arguments, &flags].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
    let both = ["embed", &images, "--data", &images, "--out", &out];
    assert_eq!(ibot(&[&both[..], &flags].concat()).status.code(), Some(2));
    let none = ["embed", "--out", &out];
    assert_eq!(ibot(&[&none[..], &flags].concat()).status.code(), Some(2));
}

fn printed(more: &[&str]) -> toml::Table {
    let print = ["train", "x", "--print-config"];
    let text = succeeds(&[&print[..], more].concat());
    text.parse().unwrap()
}

#[test]
fn set_has_every_key_and_its_place_in_the_order() {
    let scratch = Scratch::new("set");
    let config = scratch.path("settings.toml");
    fs::write(&config, "seed = 1\nbatch_size = 8\nepochs = 3\n").unwrap();
    let table = printed(&[
        "--config",
        &config,
        "--set",
        "batch_size=16",
        "--set",
        "epochs = 4",
        "--epochs",
        "5",
        "--set",
        "method.koleo_weight=0.25",
        "--set",
        "method.mask_shape=block",
        "--set",
        "augment.scale=[0.3, 1.0]",
    ]);
    let number = |key: &str| table[key].as_integer();
    assert_eq!(
        [number("seed"), number("batch_size"), number("epochs")],
        [Some(1), Some(16), Some(5)]
    );
    assert_eq!(table["method"]["koleo_weight"].as_float(), Some(0.25));
    assert_eq!(table["method"]["mask_shape"].as_str(), Some("block"));
    assert_eq!(table["augment"]["scale"][0].as_float(), Some(0.3));
    for (setting, parts) in [
        (
            "method.koleo_wait=0.1",
            &[
                "--set method.koleo_wait = 0.1",
                "did you mean method.koleo_weight?",
            ][..],
        ),
        (
            "batch_size=many",
            &["--set batch_size = many", "invalid type"],
        ),
        ("batch_size=0", &["--batch-size = 0"]),
        ("a b=1", &["--set a b = 1"]),
    ] {
        refused(
            &["train", "x", "--config", &config, "--set", setting],
            parts,
        );
    }
    let output = ibot(&["train", "x", "--set", "batch_size"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("give KEY=VALUE"));
}

#[test]
fn a_printed_configuration_has_a_comment_for_each_key() {
    let text = succeeds(&["train", "--print-config"]);
    assert!(
        text.contains("# Optimizer steps.\nsteps = 2000\n"),
        "{text}"
    );
}

/// Without --preset one is chosen, said with its reason, and kept.
#[test]
fn settings_are_chosen_by_images_and_device() {
    let scratch = Scratch::new("chosen");
    let (images, run) = (scratch.images(), scratch.path("run"));
    let train = ["train", &images, "--backend", "flex", "--out", &run];
    let more = ["--set", "method.projector_hidden_dim=16", "--steps"];
    let said = succeeds(&[&train[..], &more, &["1"]].concat());
    for part in [
        "preset small-data, chosen for 10 images on a CPU",
        "vit_tiny_patch16_224 at 96 pixels",
        "1 epoch = 1 step of 10 images",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let settings = || fs::read_to_string(scratch.path("run/config.toml")).unwrap();
    let before = settings();
    // more images would get another batch; the run keeps its own
    for at in 0..9 {
        let path = scratch.0.join(format!("images/odd/more-{at}.png"));
        RgbImage::new(20, 20).save(path).unwrap();
    }
    let again = [&train[..], &more].concat();
    refused(&[&again[..], &["2"]].concat(), &["steps: 1 -> 2"]);
    refused(&[&again[..], &["1"]].concat(), &["10 images -> 19 images"]);
    let said = succeeds(&[&again[..], &["2", "--override"]].concat());
    assert!(said.contains("settings of the run"), "{said}");
    assert_eq!(settings(), before.replace("steps = 1", "steps = 2"));
    assert_eq!(metrics(Path::new(&run)).len(), 2);
    // what is named is not chosen, and the rest is
    let named = ["--encoder", "vit_small_patch16_224", "--print-config"];
    let print = ["train", &images, "--backend", "flex"];
    let table: toml::Table = succeeds(&[&print[..], &named].concat()).parse().unwrap();
    let encoder = table["method"]["encoder_name"].as_str();
    assert_eq!(encoder, Some("vit_small_patch16_224"));
    assert_eq!(table["method"]["image_size"].as_integer(), Some(96));
    assert_eq!(table["batch_size"].as_integer(), Some(19));
    let preset = ["--preset", "stable-pretraining", "--print-config"];
    let table: toml::Table = succeeds(&[&print[..], &preset].concat()).parse().unwrap();
    assert_eq!(
        table["method"]["n_cls_prototypes"].as_integer(),
        Some(65_536)
    );
}

#[test]
fn four_lines_before_the_first_step_and_three_commands_after_the_last() {
    let scratch = Scratch::new("lines");
    let images = scratch.images();
    let said = one_step(&scratch, &[&images], &["--held-out", "0.4"]);
    let lines: Vec<&str> = said.lines().collect();
    let titles = lines.iter().filter(|line| !line.starts_with(' '));
    let titles: Vec<&str> = titles.map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        titles,
        [
            "device", "data", "model", "run", "teacher", "step", "done", "teacher", "In", "next"
        ],
        "{said}"
    );
    for part in [
        "; 2 left out of each epoch: --batch-size 3 uses all",
        "ViT of width 16, 1 block, patch 8 at 16 pixels",
        " disk",
        " % -> ",
        "feature rank (RankMe) ",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains('\u{1b}'), "{said}");
    let next = lines.iter().skip_while(|line| **line != "next").skip(1);
    assert_eq!(next.clone().count(), 3);
    for line in next {
        let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
        if words.contains(&"--model") {
            words.extend(["--backend", "flex"]);
        }
        succeeds(&words);
    }
}

#[test]
fn quiet_color_and_verbose() {
    let scratch = Scratch::new("screen");
    let images = scratch.images();
    let said = one_step(&scratch, &[&images], &["--quiet"]);
    assert_eq!(said, "");
    let colored = [
        "train",
        "--resume",
        &scratch.path("run"),
        "--color",
        "always",
    ];
    assert!(succeeds(&colored).contains("\u{1b}["));
    let never = ["train", "--resume", &scratch.path("run"), "--color=never"];
    assert!(!succeeds(&never).contains('\u{1b}'));
    let verbose = ibot(&["train", "--resume", &scratch.path("run"), "-v"]);
    assert!(stderr(&verbose).contains("info "), "{}", stderr(&verbose));
    let error = command(&["train", "nowhere", "--color", "always"]).output();
    assert!(stderr(&error.unwrap()).contains("\u{1b}["));
    for wrong in [&["train", "-q", "-v"][..], &["devices", "--color", "blue"]] {
        assert_eq!(ibot(wrong).status.code(), Some(2));
    }
}

#[test]
fn the_command_describes_itself() {
    let version = succeeds(&["--version"]);
    for part in ["backends  wgpu (", "features  ", "target    "] {
        assert!(version.contains(part), "{version}");
    }
    assert_eq!(succeeds(&["-V"]).lines().count(), 1);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = succeeds(&["completions", shell]);
        assert!(script.contains("print-config"), "{shell}");
    }
    let scratch = Scratch::new("man");
    let pages = scratch.path("man1");
    succeeds(&["man", &pages]);
    let page = fs::read_to_string(format!("{pages}/ibot-train.1")).unwrap();
    assert!(page.contains("KEY=VALUE"), "{page}");
    let help = succeeds(&["train", "--help"]);
    for heading in [
        "Images:",
        "Run folder:",
        "Settings:",
        "Training:",
        "Examples:",
    ] {
        assert!(help.contains(&format!("{heading}\n")), "{heading}: {help}");
    }
    assert!(stdout(&ibot(&["--help"])).contains("Examples:"));
}
