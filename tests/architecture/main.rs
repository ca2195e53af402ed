//! The shape of the code: imports point one way, files stay short, no shader without its Rust twin.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod documents;
mod modules;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use modules::{Modules, circles};

/// Files aim at 250 lines; this is the bound.
const MAX_LINES: usize = 400;

/// What each room of the crate may import, beside the foundations; a missing room fails.
const ALLOWED: &[(&str, &[&str])] = &[
    ("kernels", &["device"]),
    ("masking", &[]),
    ("memory", &[]),
    ("collective", &[]),
    ("init", &[]),
    ("ownership", &[]),
    ("backbone", &["init", "kernels"]),
    (
        "method",
        &[
            "backbone",
            "collective",
            "device",
            "init",
            "kernels",
            "masking",
            "ownership",
        ],
    ),
    ("data", &["collective", "kernels", "masking"]),
    ("device", &["memory"]),
    ("eval", &["backbone", "data", "device", "kernels"]),
    ("files", &["backbone", "data", "device"]),
    (
        "embedding",
        &[
            "backbone",
            "collective",
            "data",
            "device",
            "eval",
            "files",
            "kernels",
        ],
    ),
    (
        "train",
        &[
            "backbone",
            "collective",
            "data",
            "device",
            "eval",
            "files",
            "kernels",
            "masking",
            "memory",
            "method",
            "ownership",
        ],
    ),
    (
        "finetune",
        &[
            "backbone",
            "collective",
            "data",
            "device",
            "eval",
            "files",
            "init",
            "kernels",
            "masking",
            "method",
            "ownership",
            "train",
        ],
    ),
    (
        "app",
        &["data", "device", "embedding", "files", "memory", "train"],
    ),
];

/// What every part may import.
const FOUNDATIONS: &[&str] = &[
    "csv_text",
    "duration",
    "error",
    "lock",
    "path_text",
    "precision",
    "random",
    "scope",
    "unfinished",
];

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

/// The part of the crate that a source file belongs to: `method` for src/method/losses/cls.rs.
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
            wrong.push(format!("{part} is not in ALLOWED"));
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

/// Files that may import each other: a trait's methods have default bodies, and these are written with the trait's other
/// methods.
const ONE_THING: &[&str] = &["kernels::backend", "kernels::ops"];

#[test]
fn no_circle_among_files() {
    let of = |src: &str| Modules::of(&root().join(src), &files(src, &["rs"])).imports();
    let imports = of("src");
    assert!(imports.len() > 800, "only {} imports found", imports.len());
    let of_apps = ["apps/cli/src", "apps/desktop/src"].map(of);
    let of_apps: Vec<_> = of_apps
        .iter()
        .flat_map(|imports| circles(imports))
        .collect();
    assert!(of_apps.is_empty(), "{of_apps:#?}");
    let is_one_thing = |file: &String| ONE_THING.iter().any(|part| file.starts_with(part));
    let names = circles(&imports).into_iter().map(|circle| {
        let names = circle.into_iter().map(|module| module.join("::"));
        names.collect::<Vec<_>>()
    });
    let (known, circles): (Vec<_>, Vec<_>) =
        names.partition(|circle| circle.iter().all(is_one_thing));
    assert_eq!(
        known.len(),
        1,
        "the search is broken, or the exception is not needed"
    );
    assert!(circles.is_empty(), "{circles:#?}");
}

/// Inside a room a file imports the file that has what it needs, not what the room's mod.rs passes on: so mod.rs is a
/// table of contents, and a circle among files can be seen.
#[test]
fn siblings_import_siblings() {
    let imports = Modules::of(&root().join("src"), &files("src", &["rs"])).imports();
    let mut wrong = Vec::new();
    for import in imports {
        // the folders that both are in; the path must name the file, or the folder below
        let shared = import
            .from
            .iter()
            .zip(&import.to)
            .take_while(|(a, b)| a == b)
            .count();
        let spelled = import
            .path
            .iter()
            .zip(&import.to)
            .take_while(|(a, b)| a == b)
            .count();
        let enough = (shared + 1).min(import.to.len());
        if shared > 0 && spelled < enough {
            let (from, path) = (import.from.join("::"), import.path.join("::"));
            wrong.push(format!(
                "{from} imports {path}, which is in {}",
                import.to.join("::")
            ));
        }
    }
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

/// Flags that documentation cites of other programs, and of the command where it says what makes a folder.
const FLAGS_OF_OTHERS: &[&str] = &[
    "`b3sum --check",
    "`cargo test --release --lib -- --ignored --nocapture time_of_groups`",
    "`ibot train --tensorboard`",
    // of the paper's code
    "`--pred_shape block --pred_ratio 0 0.3 --pred_ratio_var 0 0.2`",
    "`--relative`",         // of rsync
    "`--hard-dereference`", // of tar
    "`tar --dereference`",
];

/// Flags are the command's: the library names settings in backquotes, which apps/cli/src/flags.rs turns into flags.
#[test]
fn the_library_names_no_flags() {
    let is_flag = |at: usize, line: &str| {
        let next = line[at + 2..].chars().next();
        next.is_some_and(|c| c.is_ascii_lowercase()) && !line[..at].ends_with('-')
    };
    let mut wrong = Vec::new();
    for file in files("src", &["rs"]) {
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines() {
            let known = FLAGS_OF_OTHERS.iter();
            let left = known.fold(line.to_owned(), |line, known| line.replace(known, ""));
            if left.match_indices("--").any(|(at, _)| is_flag(at, &left)) {
                wrong.push(format!("{}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    ("kernels/ops/product.rs", "reference"),
    ("kernels/ops/grad_scale.rs", "reference"),
    ("kernels/ops/target_potentials.rs", "reference"),
    ("kernels/ops/tokens.rs", "reference"),
    ("method/head.rs", "the width of the unit sphere"),
    ("method/losses/koleo.rs", "the images of a batch"),
    ("method/losses/label.rs", "the images of a batch"),
];

/// Fields of modules that are burn's `Linear`.
const LINEAR_LAYERS: &[&str] = &["fc1", "fc2", "head", "layer", "proj", "prototypes", "qkv"];

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
        let layer = LINEAR_LAYERS
            .iter()
            .find(|layer| text.contains(&format!(".{layer}.forward(")));
        assert!(
            layer.is_none(),
            "{inside}: forward of {layer:?} is burn's product: `B::linear_layer`"
        );
        let calls = [".matmul(", ".sum_dim(0)", ".mean_dim(0)"];
        if !calls.iter().any(|call| text.contains(call)) {
            continue;
        }
        if !BURNS_OWN.iter().any(|(file, _)| inside == *file) {
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
