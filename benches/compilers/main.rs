//! Gives the kernels of GPUs to compilers of GPUs; `report.py` beside this file runs it, and others, and writes the table.
//!
//! - `cargo bench --bench compilers -- write FOLDER`: each kernel as WGSL, SPIR-V and MSL, and `kernels.json`
//! - `cargo bench --bench compilers -- cooperative FOLDER`: the same of the products on cooperative matrices
//! - `cargo bench --bench compilers -- amd`: what AMD's compiler says of each, one line of JSON a kernel and generation of
//!   cards; nothing where it is not installed

#![allow(
    clippy::panic,
    reason = "a kernel that cannot be compiled ends the report"
)]

#[cfg(target_os = "linux")]
mod mix;
#[cfg(target_os = "linux")]
mod radv;
#[cfg(target_os = "linux")]
mod shares;
mod variants;

use std::error::Error;
use std::path::Path;

use naga::back::msl;
use serde_json::json;
#[cfg(target_os = "linux")]
use variants::cooperative_variants_of_amd;
use variants::{UNCHECKED, Variant, cooperative_variants, variants};

/// Names a folder for the listings of AMD's compiler: for work on kernels.
#[cfg(target_os = "linux")]
const LISTINGS_VARIABLE: &str = "IBOT_LISTINGS";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // cargo adds --bench
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["write", folder] | ["write", folder, "--bench"] => {
            // report.py's dialects of CUDA and OpenCL have no f16
            let whole = variants().into_iter().filter(|variant| !variant.is_half());
            write(&whole.collect::<Vec<_>>(), Path::new(folder))
        }
        ["cooperative", folder] | ["cooperative", folder, "--bench"] => {
            write(&cooperative_variants(), Path::new(folder))
        }
        ["amd"] | ["amd", "--bench"] => compile_for_amd(),
        ["radv"] => compile_for_one_card(),
        _ => Err("usage: compilers write FOLDER | cooperative FOLDER | amd".into()),
    }
}

fn write(variants: &[Variant], folder: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let mut list = Vec::new();
    for (number, variant) in variants.iter().enumerate() {
        let stem = format!("{number:03}");
        let spirv: Vec<u8> = variant
            .spirv()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        std::fs::write(folder.join(&stem).with_extension("wgsl"), &variant.wgsl)?;
        std::fs::write(folder.join(&stem).with_extension("spv"), spirv)?;
        std::fs::write(folder.join(&stem).with_extension("metal"), msl(&variant)?)?;
        list.push(json!({
            "stem": stem,
            "name": variant.name,
            "lanes": variant.module.entry_points[0].workgroup_size[0],
            "workgroup_bytes": workgroup_bytes(&variant.module),
        }));
    }
    std::fs::write(folder.join("kernels.json"), format!("{:#}\n", json!(list)))?;
    println!("{} kernels in {}", list.len(), folder.display());
    Ok(())
}

/// What Metal gets, but for the numbers of its buffers.
fn msl(variant: &Variant) -> Result<String, msl::Error> {
    let options = msl::Options {
        lang_version: (2, 4),
        fake_missing_bindings: true,
        bounds_check_policies: UNCHECKED,
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: false,
        ..msl::Options::default()
    };
    let (module, info) = (&variant.module, &variant.info);
    let (text, _) = msl::write_string(module, info, &options, &Default::default())?;
    Ok(text)
}

fn workgroup_bytes(module: &naga::Module) -> u32 {
    let globals = module.global_variables.iter().map(|(_, global)| global);
    let shared = globals.filter(|global| global.space == naga::AddressSpace::WorkGroup);
    let sizes = shared.map(|global| module.types[global.ty].inner.size(module.to_ctx()));
    sizes.sum()
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
    let mut variants = variants();
    if radv.has_matrices {
        variants.extend(cooperative_variants_of_amd());
    }
    for variant in variants {
        let compiled = radv.compile(&variant.spirv(), variant.bindings)?;
        if let Ok(folder) = std::env::var(LISTINGS_VARIABLE) {
            let file = format!("{} {}.s", radv.card, variant.name).replace('/', "_");
            std::fs::write(Path::new(&folder).join(file), &compiled.listing)?;
        }
        let found = json!({
            "card": radv.card,
            "name": variant.name,
            "statistics": compiled.statistics,
            "fused": shares::share_of_fused(&variant, &compiled.listing),
        });
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
