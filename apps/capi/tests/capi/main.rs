//! The C interface, by a C program that is compiled against it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../../../tests/tiny_model/mod.rs"]
mod tiny_model;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ibot::app::EmbedderConfig;
use ibot::device::BackendChoice;
use tiny_model::{Scratch, image};

/// Folder of the library that was built for this test.
fn library_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(1).unwrap().to_path_buf();
    let name = format!(
        "{}ibot_c{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    assert!(
        folder.join(&name).exists(),
        "{name} is missing in {}: cargo build --release -p ibot-capi",
        folder.display()
    );
    folder
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The program, linked against the library; none without a C compiler.
fn compiled(scratch: &Scratch, folder: &Path) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = scratch.path("embed");
    let output = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(root)
        .arg("-o")
        .arg(&program)
        .arg(root.join("tests/capi/embed.c"))
        .arg("-L")
        .arg(folder)
        .arg("-libot_c")
        .arg(format!("-Wl,-rpath,{}", folder.display()))
        .output();
    match output {
        Ok(output) => {
            assert!(output.status.success(), "{}", said(&output));
            Some(program)
        }
        Err(error) => {
            // past the test harness, which hides what a passing test prints
            let line = format!("SKIPPED: NO C COMPILER: cc: {error}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
    }
}

#[test]
fn a_c_program_gets_the_features_that_rust_gets() {
    let scratch = Scratch::new("capi");
    let folder = library_folder();
    let Some(program) = compiled(&scratch, &folder) else {
        return;
    };
    let (model, images) = (scratch.model(2), scratch.images(2));
    let (pixels, raw) = (image(1), scratch.path("raw"));
    std::fs::write(&raw, pixels.as_raw()).unwrap();
    let size = [pixels.width(), pixels.height()].map(|side| side.to_string());
    // cargo's own names a library of an earlier build before this one
    let mut command = Command::new(program);
    for variable in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        command.env(variable, &folder);
    }
    let output = command
        .args([&model, &images[1], &raw])
        .args(size)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));

    let config = EmbedderConfig {
        device: BackendChoice::Flex.into(),
        ..EmbedderConfig::new(model)
    };
    let handle = config.start().unwrap();
    let expected = handle.embed(pixels).wait().unwrap().remove(0).unwrap().cls;
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<f32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(found, expected);
}
