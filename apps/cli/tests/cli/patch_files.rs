//! `ibot embed --features patches`.

use std::fs;

use crate::evaluation::trained_as;
use crate::{ibot, stdout};

#[test]
fn patches_are_written_in_each_format() {
    let trained = trained_as("patches", &["--steps", "2"]);
    let data = &trained.images;
    let embed = |out: &str, more: &[&str]| {
        let flags = [
            "--data",
            data,
            "--out",
            out,
            "--batch-size",
            "3",
            "--image-size",
            "32",
        ];
        trained.run("embed", &[&flags[..], more].concat())
    };
    let out = trained.out("patches.safetensors");
    let report = embed(&out, &["--features", "patches"]);
    assert_eq!(
        (&report["images"], &report["grid"], &report["width"]),
        (&10.into(), &vec![4, 4].into(), &16.into())
    );
    let tensors = ibot::files::read_safetensors(out.as_ref()).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["patches"]);
    let patches = &tensors["patches"];
    assert_eq!(patches.shape, [10, 4, 4, 16]);
    // their mean is the feature that `patch` gives
    let means = trained.out("means.safetensors");
    embed(&means, &["--features", "patch"]);
    let means = ibot::embedding::EmbeddingTable::read(means.as_ref()).unwrap();
    for (image, mean) in patches
        .values
        .chunks(16 * 16)
        .zip(means.features.chunks(16))
    {
        for (at, mean) in mean.iter().enumerate() {
            let found = image.iter().skip(at).step_by(16).sum::<f32>() / 16.0;
            assert!((found - mean).abs() < 1e-4, "{found} {mean}");
        }
    }
    let csv = trained.out("patches.csv");
    embed(&csv, &["--features", "patches"]);
    let text = fs::read_to_string(csv).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 10 * 16);
    assert!(
        lines[0].starts_with("path,label,row,column,f0,f1,"),
        "{}",
        lines[0]
    );
    let of_patch = 9 * 16 + 6;
    let cells: Vec<&str> = lines[1 + of_patch].split(',').collect();
    assert_eq!(cells[1..4], ["odd", "1", "2"]);
    assert_eq!(
        cells[4].parse::<f32>().unwrap(),
        patches.values[of_patch * 16]
    );
    for ending in ["npy", "parquet"] {
        let out = trained.out(&format!("patches.{ending}"));
        embed(&out, &["--features", "patches"]);
        assert!(fs::metadata(out).unwrap().len() > 10 * 16 * 16 * 4);
    }
    let left: Vec<_> = fs::read_dir(&trained.scratch.0)
        .unwrap()
        .flatten()
        .collect();
    assert!(
        left.iter()
            .all(|file| !file.file_name().to_string_lossy().ends_with(".tmp"))
    );
    // and says before how large the file becomes
    let out = trained.out("said.npy");
    let flags = [
        "embed",
        "--model",
        &trained.model,
        "--backend",
        "flex",
        "--data",
        data,
        "--out",
        &out,
    ];
    let said = stdout(&ibot(&[&flags[..], &["--features", "patches"]].concat()));
    assert!(
        said.contains("10 images x 2 x 2 patches x 16 values"),
        "{said}"
    );
    assert!(
        said.contains("said.npy: 10 x 2 x 2 x 16 features"),
        "{said}"
    );
}

/// The file that a link leads to gets the patches, and the link stays.
#[cfg(unix)]
#[test]
fn a_link_to_another_disk_stays() {
    let trained = trained_as("patch-links", &["--steps", "1"]);
    let disk = trained.scratch.0.join("disk");
    fs::create_dir(&disk).unwrap();
    for ending in ["npy", "safetensors", "parquet", "csv"] {
        let name = format!("patches.{ending}");
        let out = trained.out(&name);
        std::os::unix::fs::symlink(disk.join(&name), &out).unwrap();
        for _ in 0..2 {
            let flags = [
                "--data",
                &trained.images,
                "--out",
                &out,
                "--features",
                "patches",
            ];
            trained.run("embed", &flags);
            assert!(fs::symlink_metadata(&out).unwrap().is_symlink(), "{name}");
            assert!(fs::metadata(disk.join(&name)).unwrap().is_file(), "{name}");
        }
    }
}
