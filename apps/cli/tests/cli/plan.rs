//! `ibot train --plan`.

use std::fs;

use serde_json::Value;

use crate::{Scratch, command, ibot, refused, stdout};

#[test]
fn a_plan_says_what_a_run_takes_and_writes_nothing() {
    let scratch = Scratch::new("plan");
    let output = ibot(&scratch.train(&["--plan", "--plan-steps", "1", "--epochs", "3"]));
    let text = stdout(&output);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    for said in [
        "device           backend flex",
        "batch            4 images at once, without gradient checkpointing",
        "MiB in tensors at most, in ",
        "it fits",
        "run              6 steps of 4 images, in epochs of 2: 3 epochs",
        "a step (1 timed",
        "the whole run",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    assert!(errors.contains("timing 1 step on backend flex"), "{errors}");
    assert!(!fs::exists(scratch.path("run")).unwrap());
    let left = fs::read_dir(scratch.path("")).unwrap().count();
    assert_eq!(left, 2, "the images and tiny.toml");
}

#[test]
fn a_plan_of_a_run_that_goes_on_counts_what_is_left() {
    let scratch = Scratch::new("plan-resume");
    assert!(ibot(&scratch.train(&["--steps", "2"])).status.success());
    let run = scratch.path("run");
    let written = || {
        fs::metadata(scratch.path("run/metrics.jsonl"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = written();
    let text = stdout(&ibot(&[
        "train",
        "--plan",
        "--plan-steps",
        "0",
        "--resume",
        &run,
    ]));
    assert!(
        text.contains("run              2 steps of 4 images"),
        "{text}"
    );
    assert!(text.contains("1 epoch; 2 steps made"), "{text}");
    assert_eq!(written(), before);
}

#[test]
fn a_plan_as_json_has_bytes() {
    let scratch = Scratch::new("plan-json");
    let json = |more: &[&str]| -> Value {
        let all = [
            "--plan",
            "--json",
            "--plan-steps",
            "0",
            "--image-size",
            "64",
        ];
        let flags = [&all[..], more].concat();
        serde_json::from_str(&stdout(&ibot(&scratch.train(&flags)))).unwrap()
    };
    let plan = json(&[]);
    assert_eq!(plan["verdict"], "fits");
    assert_eq!(plan["timing"], Value::Null);
    assert_eq!(plan["length"]["steps_per_epoch"], 2);
    let most = |plan: &Value| plan["memory"]["peak_bytes"].as_u64().unwrap();
    assert!(most(&plan) > plan["memory"]["at_rest_bytes"].as_u64().unwrap());
    let thrifty = json(&["--micro-batch-size", "1", "--grad-checkpointing"]);
    assert_eq!(thrifty["choice"]["micro_batch_size"], 1);
    assert_eq!(thrifty["choice"]["grad_checkpointing"], true);
    assert!(most(&thrifty) < most(&plan));
}

/// The demo's images are not made for a plan of it.
#[test]
fn the_demo_is_planned_before_it_is_there() {
    let scratch = Scratch::new("plan-demo");
    let mut plan = command(&["train", "--plan", "--plan-steps", "0", "--backend", "flex"]);
    for variable in ["HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"] {
        plan.env(variable, scratch.path(""));
    }
    let output = plan.current_dir(scratch.path("")).output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{output:?}");
    assert!(
        text.contains("2000 steps of 48 images, in epochs of 50: 40 epochs"),
        "{text}"
    );
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 0);
}

#[test]
fn what_does_not_fit_is_an_error_with_the_plan() {
    let scratch = Scratch::new("plan-large");
    let flags = scratch.train(&["--plan"]);
    let huge = "batch_size = 4\n[method]\nimage_size = 4096\n[method.vit]\npatch_size = 8\n\
                embed_dim = 16384\ndepth = 200\nnum_heads = 64\n";
    fs::write(scratch.path("tiny.toml"), huge).unwrap();
    let output = ibot(&flags);
    assert!(stdout(&output).contains("DOES NOT FIT"), "{output:?}");
    refused(
        &flags,
        &["does not fit this device: lower --batch-size or --image-size"],
    );
}

#[test]
fn wrong_plans_are_refused() {
    let scratch = Scratch::new("plan-wrong");
    let many = scratch.train(&["--plan", "--batch-size", "12"]);
    refused(&many, &["--batch-size = 12", "only 10 images"]);
    let none = scratch.train(&["--plan", "--micro-batch-size", "0"]);
    refused(&none, &["--micro-batch-size = 0: must be at least 1"]);
    for flags in [
        &["train", "--json"][..],
        &["train", "--plan", "--print-config"],
    ] {
        assert_eq!(ibot(flags).status.code(), Some(2), "{flags:?}");
    }
}

/// What a run would refuse at its start is no plan.
#[test]
fn weights_are_checked_before_a_plan() {
    let scratch = Scratch::new("plan-weights");
    let planned = |out: &str, more: &[&str]| {
        let mut plan = scratch.train(&[&["--plan", "--plan-steps", "0"], more].concat());
        let at = plan.iter().position(|flag| flag == "--out").unwrap();
        plan[at + 1] = scratch.path(out);
        plan
    };
    let needs = ["--set", "method.pretrained=true"];
    refused(
        &planned("new", &needs),
        &["need trained weights", "--pretrained"],
    );
    assert!(ibot(&scratch.train(&["--steps", "1"])).status.success());
    let teacher = scratch.path("run/teacher.safetensors");
    let weights = ["--pretrained", &teacher];
    assert!(ibot(&planned("new", &weights)).status.success());
    let wider = [&weights[..], &["--set", "method.vit.embed_dim=32"]].concat();
    refused(
        &planned("new", &wider),
        &["teacher.safetensors: does not fit the model"],
    );
    let heads = [&weights[..], &["--pretrained-parts", "all"]].concat();
    refused(
        &planned("new", &heads),
        &["teacher.safetensors: has no known heads"],
    );
    // a run that is there has its weights
    assert!(ibot(&planned("run", &needs)).status.success());
}
