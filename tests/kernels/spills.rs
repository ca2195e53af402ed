//! AMD's compiler keeps every kernel in registers: what does not fit goes to memory, in the middle of the innermost loop.

use std::io::Write as _;

use super::radv::{Radv, in_processes};
use super::variants::variants;

/// Runs the test below, once for each generation of cards.
#[test]
fn no_kernel_spills_on_amd() {
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
#[ignore = "run by no_kernel_spills_on_amd, in processes of its own"]
fn compile_for_one_card() {
    let Some(radv) = Radv::open().unwrap() else {
        return;
    };
    let mut spilled = Vec::new();
    for variant in variants() {
        let compiled = radv.compile(&variant.spirv(), variant.bindings).unwrap();
        let statistics = &compiled.statistics;
        assert!(statistics["VGPRs"] > 0, "{statistics:?}");
        let counts = ["Spilled VGPRs", "Spilled SGPRs", "Scratch size"];
        let [vector, scalar, scratch] = counts.map(|name| statistics[name]);
        if vector + scalar + scratch > 0 {
            spilled.push(format!(
                "{}: {vector} vector and {scalar} scalar registers spilled, {scratch} bytes of scratch",
                variant.name
            ));
        }
    }
    assert!(
        spilled.is_empty(),
        "{}:\n{}\n",
        radv.card,
        spilled.join("\n")
    );
}
