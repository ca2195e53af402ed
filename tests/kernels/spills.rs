//! AMD's compiler keeps every kernel in registers: what does not fit goes to memory, in the middle of the innermost loop. And
//! what it makes of the kernels that multiply matrices does little else.

use std::io::Write as _;

use super::radv::{Radv, in_processes};
use super::shares::share_of_fused;
use super::variants::{cooperative_variants_of_amd, variants};

/// What of a kernel's vector instructions must be fused multiply-adds, at least, of f32 and of f16, which is widened before:
/// products of whole vectors, and attention.
const LEAST_SHARES: [(&str, [f64; 2]); 2] = [
    ("matrix_product/tiled vec4 entries=4", [0.9, 0.79]),
    ("attention/tiles", [0.7, 0.65]),
];

/// Runs the test below, once for each generation of cards.
#[test]
fn kernels_suit_amd() {
    let test = "spills::compile_for_one_card";
    let outputs = in_processes(&[test, "--exact", "--ignored", "--nocapture"]).unwrap();
    if outputs.is_empty() {
        // not `eprintln!`: the test harness would keep it for itself
        let line = "SKIPPED: AMD'S COMPILER IS NOT INSTALLED: MESA'S VULKAN DRIVER RADV\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    let failed = outputs.iter().filter(|output| !output.status.success());
    let said = failed.map(|output| [&*output.stdout, &*output.stderr].concat());
    let said = said.collect::<Vec<_>>().concat();
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
#[ignore = "run by kernels_suit_amd, in processes of its own"]
fn compile_for_one_card() {
    let Some(radv) = Radv::open().unwrap() else {
        return;
    };
    let mut findings = Vec::new();
    let mut multiplying = 0;
    let mut variants = variants();
    if radv.has_matrices {
        variants.extend(cooperative_variants_of_amd());
    }
    for variant in variants {
        let compiled = radv.compile(&variant.spirv(), variant.bindings).unwrap();
        let statistics = &compiled.statistics;
        assert!(statistics["VGPRs"] > 0, "{statistics:?}");
        let counts = ["Spilled VGPRs", "Spilled SGPRs", "Scratch size"];
        let [vector, scalar, scratch] = counts.map(|name| statistics[name]);
        if vector + scalar + scratch > 0 {
            findings.push(format!(
                "{}: {vector} vector and {scalar} scalar registers spilled, {scratch} bytes of scratch",
                variant.name
            ));
        }
        let least = LEAST_SHARES
            .iter()
            .find(|(start, _)| variant.name.starts_with(start));
        // a driver may keep its listings to itself, or write them in another way
        let share = share_of_fused(&variant, &compiled.listing);
        if let Some(((_, least), share)) = least.zip(share) {
            multiplying += 1;
            if share < least[usize::from(variant.is_half())] {
                findings.push(format!("{}: {share} multiply and add", variant.name));
            }
        }
    }
    println!("{multiplying} kernels looked at for their multiply-adds");
    assert!(
        findings.is_empty(),
        "{}:\n{}\n",
        radv.card,
        findings.join("\n")
    );
}
