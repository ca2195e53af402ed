//! What `ibot --version` prints: version and commit, system, backends and features.

use std::env::{self, VarError};
use std::path::Path;
use std::process::Command;

/// What a command of git prints; none outside a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    // moves with each commit and each branch
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    let version = env::var("CARGO_PKG_VERSION")?;
    let commit = git(&["log", "-1", "--format= (%h of %cs)"]).unwrap_or_default();
    let commit = commit.trim();
    let target = env::var("TARGET")?;
    let apis = match env::var("CARGO_CFG_TARGET_OS")?.as_str() {
        "macos" | "ios" => "Metal",
        "windows" => "Vulkan, DX12",
        _ => "Vulkan",
    };
    let is_on = |name: &&str| {
        let variable = format!("CARGO_FEATURE_{}", name.to_uppercase());
        env::var(variable) != Err(VarError::NotPresent)
    };
    let features: Vec<&str> = ["autotune", "cloud", "hub", "mpi", "vulkan"]
        .into_iter()
        .filter(is_on)
        .collect();
    println!("cargo::rustc-env=IBOT_FEATURES={}", features.join(" "));
    let features = if features.is_empty() {
        "none".to_owned()
    } else {
        features.join(", ")
    };
    let text = format!(
        "{version} {commit}\ntarget    {target}\nbackends  wgpu ({apis}), flex (CPU), ndarray (CPU)\n\
         features  {features}"
    );
    std::fs::write(Path::new(&env::var("OUT_DIR")?).join("version.txt"), text)?;
    Ok(())
}
