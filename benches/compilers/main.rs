//! Gives the kernels of GPUs to compilers of GPUs; `report.py` beside this file runs it, and others, and writes the table.
//!
//! - `cargo bench --bench compilers -- write FOLDER`: each kernel as WGSL, SPIR-V and MSL, and `kernels.json`
//! - `cargo bench --bench compilers -- amd`: what AMD's compiler says of each, one line of JSON a kernel and generation of
//!   cards; nothing where it is not installed

#![allow(
    clippy::panic,
    reason = "a kernel that cannot be compiled ends the report"
)]

#[cfg(target_os = "linux")]
mod radv;
mod variants;

use std::error::Error;
use std::path::Path;

use serde_json::json;
use variants::variants;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // cargo adds --bench
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["write", folder] | ["write", folder, "--bench"] => write(Path::new(folder)),
        ["amd"] | ["amd", "--bench"] => compile_for_amd(),
        ["radv"] => compile_for_one_card(),
        _ => Err("usage: compilers write FOLDER | amd".into()),
    }
}

fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let mut list = Vec::new();
    for (number, variant) in variants().iter().enumerate() {
        let stem = format!("{number:03}");
        let spirv: Vec<u8> = variant
            .spirv()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        std::fs::write(folder.join(&stem).with_extension("wgsl"), &variant.wgsl)?;
        std::fs::write(folder.join(&stem).with_extension("spv"), spirv)?;
        std::fs::write(folder.join(&stem).with_extension("metal"), variant.msl())?;
        list.push(json!({
            "stem": stem,
            "name": variant.name,
            "lanes": variant.lanes,
            "bindings": variant.bindings,
            "workgroup_bytes": variant.workgroup_bytes,
        }));
    }
    std::fs::write(folder.join("kernels.json"), format!("{:#}\n", json!(list)))?;
    println!("{} kernels in {}", list.len(), folder.display());
    Ok(())
}

/// One process a generation of cards, each with the argument "radv".
#[cfg(target_os = "linux")]
fn compile_for_amd() -> Result<(), Box<dyn Error>> {
    for output in radv::in_processes(&["radv"])? {
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err("AMD's compiler failed".into());
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn compile_for_one_card() -> Result<(), Box<dyn Error>> {
    let radv = radv::Radv::open()?.ok_or("usage: compilers amd")?;
    for variant in variants() {
        let statistics = radv.compile(&variant.spirv(), variant.bindings)?;
        let found = json!({ "card": radv.card, "name": variant.name, "statistics": statistics });
        println!("{found}");
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn compile_for_amd() -> Result<(), Box<dyn Error>> {
    Err("RADV is a driver of Linux".into())
}

#[cfg(not(target_os = "linux"))]
fn compile_for_one_card() -> Result<(), Box<dyn Error>> {
    compile_for_amd()
}
