//! Each variant in the languages of the other platforms: Metal's, Direct3D's, and Vulkan's with and without loop counters.
//! With the options of wgpu 29 for a device and for modules that cubecl makes; what the platform's own compiler says is
//! not seen here.

use std::collections::BTreeMap;
use std::fmt::Display;

use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{Module, ShaderStage};
use wgpu::naga;

use crate::shaders::{every_variant, validated};

const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

const ENTRY: &str = "main";

#[test]
fn every_variant_can_be_written_for_every_platform() {
    for kernel in every_variant() {
        let wgsl = kernel.wgsl().unwrap();
        let (module, info) = validated(&wgsl);
        let failed = |language: &str, error: &dyn Display| -> ! {
            let lanes = kernel.workgroup();
            panic!("{} of {lanes} lanes, {language}: {error}", kernel.name());
        };
        let text = metal(&module, &info).unwrap_or_else(|error| failed("Metal", &error));
        assert!(text.contains("kernel void main_"), "{text}");
        // f16 wants DXC, which has newer ones
        let models = if wgsl.starts_with("enable f16;") {
            &[hlsl::ShaderModel::V6_2][..]
        } else {
            &[hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_0]
        };
        for model in models {
            let text = direct3d(&module, &info, *model);
            let text = text.unwrap_or_else(|error| failed("Direct3D", &error));
            assert!(text.contains("numthreads"), "{text}");
        }
        for bounded in [false, true] {
            let words = vulkan(&module, &info, bounded);
            let words = words.unwrap_or_else(|error| failed("Vulkan", &error));
            assert!(words.len() > 100, "{}", kernel.name());
        }
    }
}

fn bindings(module: &Module) -> impl Iterator<Item = naga::ResourceBinding> {
    let variables = module.global_variables.iter();
    variables.filter_map(|(_, variable)| variable.binding)
}

/// wgpu-hal's metal/device.rs: one slot a buffer, then that of the sizes.
pub fn metal(module: &Module, info: &ModuleInfo) -> Result<String, msl::Error> {
    let resources: BTreeMap<_, _> = bindings(module)
        .map(|binding| {
            let target = msl::BindTarget {
                buffer: Some(binding.binding as u8),
                mutable: true,
                ..Default::default()
            };
            (binding, target)
        })
        .collect();
    let sizes = resources.len() as u8;
    let of_entry = msl::EntryPointResources {
        resources,
        immediates_buffer: None,
        sizes_buffer: Some(sizes),
    };
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [(ENTRY.to_owned(), of_entry)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let of_pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, ENTRY.to_owned())),
        vertex_pulling_transform: true,
        ..Default::default()
    };
    msl::write_string(module, info, &options, &of_pipeline).map(|(text, _)| text)
}

/// wgpu-hal's dx12/device.rs: number of workgroups from a root constant; 5.1 for FXC, 6.0 for DXC.
fn direct3d(
    module: &Module,
    info: &ModuleInfo,
    shader_model: hlsl::ShaderModel,
) -> Result<String, hlsl::Error> {
    let target = |register| hlsl::BindTarget {
        register,
        ..Default::default()
    };
    let bound = bindings(module).map(|binding| (binding, target(binding.binding)));
    let options = hlsl::Options {
        shader_model,
        binding_map: bound.collect(),
        fake_missing_bindings: false,
        special_constants_binding: Some(hlsl::BindTarget {
            space: 255,
            ..Default::default()
        }),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let of_pipeline = hlsl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, ENTRY.to_owned())),
    };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &of_pipeline);
    writer.write(module, info, None)?;
    Ok(text)
}

/// wgpu-hal's vulkan/adapter.rs.
pub fn vulkan(module: &Module, info: &ModuleInfo, bounded: bool) -> Result<Vec<u32>, spv::Error> {
    let options = spv::Options {
        lang_version: (1, 3),
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: bounded,
        ..Default::default()
    };
    let of_pipeline = spv::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: ENTRY.to_owned(),
    };
    spv::write_vec(module, info, &options, Some(&of_pipeline))
}
