//! The shape of the code: imports point one way, files stay short, no shader without its Rust twin.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/documents.rs"]
mod documents;

/// Files aim at 250 lines; this is the bound.
const MAX_LINES: usize = 400;

/// What each part of the crate may import, beside the foundations; a missing part fails.
const ALLOWED: &[(&str, &[&str])] = &[
    ("kernels", &["device"]),
    ("masking", &[]),
    ("picture", &[]),
    ("tensorboard", &[]),
    ("memory", &[]),
    ("init", &[]),
    ("ownership", &[]),
    ("backbone", &["init", "kernels"]),
    ("head", &["init", "kernels"]),
    ("weights", &["backbone"]),
    ("checkpoint", &["weights"]),
    ("losses", &["kernels", "head"]),
    ("teacher", &["device", "kernels"]),
    ("config", &["backbone", "head", "masking"]),
    ("data", &["masking"]),
    ("device", &["memory"]),
    (
        "ibot",
        &[
            "backbone",
            "config",
            "device",
            "head",
            "init",
            "kernels",
            "losses",
            "ownership",
            "teacher",
        ],
    ),
    ("eval", &["backbone", "data", "device"]),
    ("model", &["backbone", "data", "device", "weights"]),
    (
        "embedding",
        &[
            "backbone", "data", "device", "eval", "kernels", "model", "weights",
        ],
    ),
    (
        "train",
        &[
            "backbone",
            "checkpoint",
            "config",
            "data",
            "device",
            "eval",
            "head",
            "ibot",
            "kernels",
            "masking",
            "memory",
            "model",
            "ownership",
            "picture",
            "tensorboard",
            "weights",
        ],
    ),
    (
        "finetune",
        &[
            "backbone",
            "data",
            "device",
            "eval",
            "init",
            "kernels",
            "losses",
            "masking",
            "ownership",
            "model",
            "train",
            "weights",
        ],
    ),
    (
        "app",
        &["data", "device", "embedding", "memory", "model", "train"],
    ),
    (
        "bench",
        &[
            "backbone", "config", "data", "device", "kernels", "memory", "train",
        ],
    ),
    (
        "verify",
        &[
            "backbone", "config", "device", "head", "ibot", "kernels", "memory", "train",
        ],
    ),
];

/// What every part may import.
const FOUNDATIONS: &[&str] = &["error", "path_text", "random", "unfinished"];

/// Names that say nothing.
const VAGUE: &[&str] = &["utils", "helpers", "common", "base", "misc"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if path
                .extension()
                .is_some_and(|e| endings.iter().any(|known| e == *known))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The part of the crate that a source file belongs to: `losses` for src/losses/cls.rs.
fn part(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap();
    Path::new(first.as_os_str())
        .file_stem()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

#[test]
fn imports_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut imports = 0;
    for file in files("src", &["rs"]) {
        let part = part(&file);
        if part == "lib" || FOUNDATIONS.contains(&part.as_str()) {
            continue;
        }
        let Some(may) = allowed.get(part.as_str()) else {
            wrong.push(format!("{part} is not in the map of tests/architecture.rs"));
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for target in line.split("crate::").skip(1) {
                imports += 1;
                let target: String = target
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let known = target == part
                    || FOUNDATIONS.contains(&target.as_str())
                    || may.contains(&target.as_str());
                // macros and items at the root start with a capital or are the crate's own Result
                if !known && !target.is_empty() && target.starts_with(char::is_lowercase) {
                    wrong.push(format!("{}: crate::{target}", file.display()));
                }
            }
        }
    }
    assert!(
        imports > 50,
        "only {imports} imports found: the search is broken"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_short_and_have_names() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for folder in ["src", "apps", "tests", "examples", "benches", "shaders"] {
        for file in files(folder, &["rs", "wgsl"]) {
            seen += 1;
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > MAX_LINES {
                wrong.push(format!("{}: {lines} lines", file.display()));
            }
            if VAGUE.iter().any(|name| file.file_stem().unwrap() == *name) {
                wrong.push(format!("{}: a name that says nothing", file.display()));
            }
        }
    }
    assert!(seen > 40, "only {seen} files found: the search is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The library is for programs: what only a command needs is in apps/cli.
#[test]
fn the_library_has_no_terminal() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, library) = manifest.split_once("\n[dependencies]").unwrap();
    for name in ["clap", "indicatif", "mimalloc", "chrono"] {
        let is_there = library.lines().any(|line| line.starts_with(name));
        assert!(!is_there, "{name} is a dependency of the library");
    }
    let command = fs::read_to_string(root().join("apps/cli/Cargo.toml")).unwrap();
    assert!(command.contains("\nclap"), "the search is broken");
}

#[test]
fn each_shader_has_its_rust_twin() {
    let shaders = files("shaders", &["wgsl"]);
    assert!(shaders.len() > 5, "the search is broken");
    for shader in shaders {
        // shaders/ema.wgsl and shaders/ema/first.wgsl belong to src/kernels/wgsl/ema.rs
        let inside = shader.strip_prefix(root().join("shaders")).unwrap();
        let operation = Path::new(inside.components().next().unwrap().as_os_str());
        let twin = operation.with_extension("rs");
        let twin = root().join("src/kernels/wgsl").join(twin);
        assert!(
            twin.exists(),
            "{} has no {}",
            shader.display(),
            twin.display()
        );
    }
}

/// Files that may call burn's own products and sums over rows: bodies in tensor operations that wgpu has kernels for, and sums
/// over fewer than 1 024 rows, with what these are.
const BURNS_OWN: &[(&str, &str)] = &[
    ("kernels/ops/adamw.rs", "reference"),
    ("kernels/ops/cross_entropy.rs", "reference"),
    ("kernels/ops/layer_norm.rs", "reference"),
    ("kernels/ops/linear.rs", "reference"),
    ("kernels/ops/product.rs", "reference"),
    ("kernels/ops/grad_scale.rs", "reference"),
    ("kernels/ops/target_potentials.rs", "reference"),
    ("head.rs", "the width of the unit sphere"),
    ("losses/koleo.rs", "the pictures of a batch"),
    ("losses/label.rs", "the pictures of a batch"),
];

/// burn's products ask for more workgroup memory than Metal and DX12 have, and its sums over rows walk all of them on one
/// thread a column: what trains calls this crate's.
#[test]
fn products_and_sums_over_rows_are_this_crates() {
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for file in files("src", &["rs"]) {
        let inside = file.strip_prefix(root().join("src")).unwrap();
        let inside = inside.to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&file).unwrap();
        let calls = [".matmul(", ".sum_dim(0)", ".mean_dim(0)"];
        if !calls.iter().any(|call| text.contains(call)) {
            continue;
        }
        if !inside.starts_with("verify/") && !BURNS_OWN.iter().any(|(file, _)| inside == *file) {
            wrong.push(inside.clone());
        }
        seen.push(inside);
    }
    for (file, _) in BURNS_OWN {
        assert!(
            seen.iter().any(|seen| seen == file),
            "{file} needs no exception"
        );
    }
    assert!(wrong.is_empty(), "burn's own products or sums in {wrong:?}");
}
