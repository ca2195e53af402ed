//! The kernels that a GPU runs, in the languages that its driver is given.

use ibot::kernels::wgsl::{Kernel, all_kernels, attention_kernels};
use naga::back::{msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// Lanes of a workgroup on every GPU that allows as many; attention and products have their own.
const WORKGROUP: u32 = 256;
/// Lanes of the kernels for software devices, which no GPU's compiler sees.
const SOFTWARE_WORKGROUP: u32 = 8;
/// Tensors a dispatch: AdamW's with 8 and 31 storage buffers, and the most on any device.
const TENSORS: [usize; 3] = [1, 7, 16];
const TEACHER_VIEWS: [usize; 2] = [1, 2];
/// Widths of a head in the encoders that have names, and half of that.
const HEAD_WIDTHS: [usize; 2] = [32, 64];

/// One kernel, checked by naga.
pub struct Variant {
    /// The shader's file, then what tells the variant from others.
    pub name: String,
    /// Lanes of a workgroup.
    pub lanes: u32,
    /// Storage buffers.
    pub bindings: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Its text.
    pub wgsl: String,
    module: naga::Module,
    info: ModuleInfo,
}

/// Every kernel at the widths of a GPU.
pub fn variants() -> Vec<Variant> {
    let mut kernels = all_kernels(&[WORKGROUP], &TENSORS, &TEACHER_VIEWS);
    kernels.extend(attention_kernels(&[WORKGROUP], &HEAD_WIDTHS));
    kernels.retain(|kernel| kernel.workgroup() != SOFTWARE_WORKGROUP);
    let mut variants: Vec<Variant> = kernels.iter().map(Variant::of).collect();
    variants.sort_by(|a, b| a.name.cmp(&b.name));
    variants.dedup_by(|a, b| a.name == b.name && a.wgsl == b.wgsl);
    if let Some(pair) = variants
        .windows(2)
        .find(|pair| pair[0].name == pair[1].name)
    {
        panic!("two kernels are called {}", pair[0].name);
    }
    variants
}

impl Variant {
    fn of(kernel: &Kernel) -> Self {
        let name = name(kernel);
        let wgsl = kernel.wgsl().unwrap_or_else(|error| panic!("{error}"));
        let module = naga::front::wgsl::parse_str(&wgsl)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&wgsl)));
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
            .validate(&module)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&wgsl)));
        let globals = || module.global_variables.iter().map(|(_, global)| global);
        let bindings = globals().filter(|global| global.binding.is_some()).count();
        let shared = globals().filter(|g| g.space == naga::AddressSpace::WorkGroup);
        let sizes = shared.map(|global| module.types[global.ty].inner.size(module.to_ctx()));
        Self {
            lanes: kernel.workgroup(),
            bindings: bindings as u32,
            workgroup_bytes: sizes.sum(),
            name,
            wgsl,
            module,
            info,
        }
    }

    /// What Vulkan's drivers get.
    pub fn spirv(&self) -> Vec<u32> {
        let options = spv::Options {
            lang_version: (1, 6),
            bounds_check_policies: UNCHECKED,
            force_loop_bounding: false,
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            ..spv::Options::default()
        };
        spv::write_vec(&self.module, &self.info, &options, None)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// What Metal gets, but for the numbers of its buffers.
    pub fn msl(&self) -> String {
        let options = msl::Options {
            lang_version: (2, 4),
            fake_missing_bindings: true,
            bounds_check_policies: UNCHECKED,
            force_loop_bounding: false,
            zero_initialize_workgroup_memory: false,
            ..msl::Options::default()
        };
        msl::write_string(&self.module, &self.info, &options, &Default::default())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
            .0
    }
}

/// Kernels are launched without naga's checks: every index is bounded by the shader.
const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// `attention/keys vec4 head_chunk=16 member=1`: numbers that fill the template, and how long its vectors are. Other values,
/// bodies of functions, follow from those.
fn name(kernel: &Kernel) -> String {
    let mut name = kernel.name().to_owned();
    for (key, value) in kernel.values() {
        match value.parse::<usize>() {
            Ok(number) => name += &format!(" {key}={number}"),
            Err(_) if value.starts_with("vec4<") => name += " vec4",
            Err(_) => {}
        }
    }
    name
}
