//! The shaders themselves: naga accepts every variant, and what only the device can show.

use std::collections::HashMap;

use burn::tensor::{Distribution, Tensor};
use burn_autodiff::Autodiff;
use burn_wgpu::{KernelSource, WgpuDevice, WgpuRuntime};
use cubecl::Runtime;
use ibot::kernels::wgsl::{Kernel, all_kernels, attention_kernels};
use ibot::kernels::{CrossEntropyInput, Gpu, IbotBackend, Pairing, TargetPotentials};
use wgpu::naga;

/// Every kernel with each width of workgroups that a device may ask for, and others.
pub fn every_variant() -> Vec<Kernel> {
    let workgroups = [8, 32, 64, 128, 256, 1024];
    let mut all = all_kernels(&workgroups, &[1, 2, 7, 15, 31], &[0, 1, 2, 3]);
    all.extend(attention_kernels(
        &workgroups,
        &[
            1, 3, 4, 7, 12, 16, 20, 32, 44, 63, 64, 80, 96, 100, 128, 256,
        ],
    ));
    assert!(all.len() > 100);
    all
}

/// The shader as naga sees it, without any optional capability but f16 where it asks for that: no subgroups, no float atomics.
#[track_caller]
pub fn validated(wgsl: &str) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(wgsl)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(wgsl)));
    let flags = naga::valid::ValidationFlags::all();
    let capabilities = match wgsl.starts_with("enable f16;") {
        true => naga::valid::Capabilities::SHADER_FLOAT16,
        false => naga::valid::Capabilities::empty(),
    };
    let mut validator = naga::valid::Validator::new(flags, capabilities);
    let info = validator.validate(&module);
    let info = info.unwrap_or_else(|error| panic!("{}", error.emit_to_string(wgsl)));
    (module, info)
}

#[test]
fn naga_accepts_every_variant() {
    for kernel in every_variant() {
        let (module, _) = validated(&kernel.wgsl().unwrap());
        let bindings = module
            .global_variables
            .iter()
            .filter_map(|(_, v)| v.binding);
        let mut bindings: Vec<u32> = bindings.map(|binding| binding.binding).collect();
        bindings.sort_unstable();
        let expected: Vec<u32> = (0..bindings.len() as u32).collect();
        assert_eq!(
            bindings,
            expected,
            "{}: gaps in the bindings",
            kernel.name()
        );
        for (_, variable) in module.global_variables.iter() {
            let naga::AddressSpace::Storage { access } = variable.space else {
                continue;
            };
            let name = variable.name.as_deref().unwrap();
            let writable = access.contains(naga::StorageAccess::STORE);
            assert_eq!(writable, name != "info", "{}: {name}", kernel.name());
        }
    }
}

/// Pipelines are cached by id: one id for one text, and none for two.
#[test]
fn each_text_has_its_id() {
    let mut texts = HashMap::new();
    let all = every_variant();
    for kernel in &all {
        let text = kernel.wgsl().unwrap();
        let id = format!("{:?}", kernel.id());
        if let Some(other) = texts.insert(id.clone(), text.clone()) {
            assert_eq!(other, text, "two texts for {id}");
        }
    }
    assert!(texts.len() > 100, "{}", texts.len());
}

/// Nobody holds the student's logits but the graph: their gradient needs no memory of its own.
pub fn gradient_takes_the_place_of_the_logits(device: &WgpuDevice) {
    type B = Autodiff<Gpu>;
    let (rows, prototypes) = (256, 4096);
    let logits_bytes = (rows * prototypes * 4) as u64;
    let random = || Tensor::<Gpu, 2>::random([rows, prototypes], Distribution::Default, device);
    let in_use = || {
        let usage = WgpuRuntime::client(device).memory_usage().unwrap();
        usage.bytes_in_use
    };
    let weights = Tensor::<B, 1>::full([rows], 1.0 / rows as f64, device);
    let teacher = random();
    let potentials = Gpu::sinkhorn_potentials(teacher.clone(), 0.07, 3);
    // the leaf holds other logits than those that the loss takes, as in a network
    let leaf = Tensor::<B, 2>::zeros([1, prototypes], device).require_grad();
    let student = Tensor::<B, 2>::from_inner(random()) + leaf.clone();
    let before = in_use();
    let loss = B::cross_entropy(&CrossEntropyInput {
        student_logits: student,
        teacher_logits: Tensor::from_inner(teacher),
        potentials: TargetPotentials::from_inner(potentials),
        pairing: Pairing::SameRow,
        row_weights: weights,
        student_temperature: 0.1,
    })
    .loss;
    let peak = ibot::kernels::wgsl::peak_bytes_in_use(&mut || {
        let gradient = leaf.grad(&loss.clone().backward()).unwrap();
        assert!(gradient.abs().sum_dim(1).into_scalar() > 0.0);
    });
    assert!(
        peak < before + logits_bytes / 10,
        "{peak} bytes in use in the backward pass, {before} before"
    );
}
