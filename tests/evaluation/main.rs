//! Evaluation, and files of and for other programs: numbers as scikit-learn's, PyTorch's weights, event files, tables of
//! embeddings.
//!
//! Where `IBOT_PYTHON` names an interpreter with TensorBoard, NumPy, pandas, pyarrow and safetensors, those read the files
//! too (tests/fixtures/read_outputs.py).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::too_many_lines, reason = "a test may be a list of cases")]

mod eval;
mod onnx;
mod patch_tables;
mod ranks;
mod segmentation;
mod tables;
#[path = "../tiny_model/mod.rs"]
#[allow(dead_code, reason = "the tests of applications need more of it")]
mod tiny_model;
mod torch_files;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// An empty folder, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ibot-outputs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Names of what is in it.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Nothing in it is the half of a file that would have been renamed when it was whole.
    #[track_caller]
    fn assert_whole_files(&self) {
        let names = self.names();
        assert!(
            names.iter().all(|name| !name.ends_with(".tmp")),
            "{names:?}"
        );
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What Python finds in the files; none where no interpreter is named.
fn read_by_python(kind: &str, files: &[&Path]) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("IBOT_PYTHON") else {
        eprintln!("IBOT_PYTHON is not set: {kind} not read by Python");
        return None;
    };
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/read_outputs.py"
    );
    let mut command = Command::new(python);
    let output = command.arg(script).arg(kind).args(files).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}
