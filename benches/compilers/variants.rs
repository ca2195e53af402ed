//! The kernels that a GPU runs, in the languages that its driver is given.

use ibot::kernels::wgsl::{Kernel, all_kernels, attention_kernels};
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// Lanes of a workgroup on every GPU that allows as many; attention and products have their own.
const WORKGROUP: u32 = 256;
/// Lanes of the kernels for software devices, which no GPU's compiler sees.
const SOFTWARE_WORKGROUP: u32 = 8;
/// Tensors a dispatch: AdamW's with 8 and 31 storage buffers, and the most on any device.
const TENSORS: [usize; 3] = [1, 7, 16];
const TEACHER_VIEWS: [usize; 2] = [1, 2];
/// Widths of a head in the encoders that have names, half of that, and ViT-H's.
const HEAD_WIDTHS: [usize; 4] = [32, 64, 80, 128];

/// One kernel, checked by naga.
pub struct Variant {
    /// The shader's file, then what tells the variant from others.
    pub name: String,
    /// Storage buffers.
    pub bindings: u32,
    /// Its text.
    pub wgsl: String,
    /// The same as naga sees it.
    pub module: naga::Module,
    /// What naga found out about that.
    pub info: ModuleInfo,
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
    /// A number of its name.
    pub fn number(&self, key: &str) -> Option<f64> {
        let mut words = self.name.split_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    }

    fn of(kernel: &Kernel) -> Self {
        let name = name(kernel);
        let wgsl = kernel.wgsl().unwrap_or_else(|error| panic!("{error}"));
        let module = naga::front::wgsl::parse_str(&wgsl)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&wgsl)));
        let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&wgsl)));
        let globals = module.global_variables.iter();
        let bindings = globals.filter(|(_, global)| global.binding.is_some());
        Self {
            bindings: bindings.count() as u32,
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
}

/// Kernels are launched without naga's checks: every index is bounded by the shader.
pub const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// `attention/keys vec4 head_chunk=16 member=1`: numbers that fill the template, but for flags that are 0, what is f16, and
/// whether its vectors have 4 entries. Other values, bodies of functions, follow from those.
fn name(kernel: &Kernel) -> String {
    let mut words = vec![kernel.name().to_owned()];
    let mut has_vectors = false;
    for (key, value) in kernel.values() {
        match value.parse::<usize>() {
            Ok(0) => {}
            Ok(number) => words.push(format!("{key}={number}")),
            Err(_) if value.ends_with("f16") || value.ends_with("f16>") => {
                words.push(format!("{key}=f16"));
            }
            Err(_) if value.starts_with("vec4<") && !has_vectors => {
                has_vectors = true;
                words.push("vec4".to_owned());
            }
            Err(_) => {}
        }
    }
    words.join(" ")
}
