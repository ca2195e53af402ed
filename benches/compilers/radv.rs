//! AMD's compiler without an AMD GPU: Mesa's Vulkan driver RADV makes pipelines for a card that is not there, and says what
//! its compiler made of them.
//!
//! The driver reads the card's name once, from the environment: one process a card. It compiles; it cannot run.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::CStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use ash::vk;

/// Generations to compile for, by RADV's names, older Mesa's first: GCN 5, RDNA 2 and RDNA 3.
const FAMILIES: [&[&str]; 3] = [&["vega10"], &["navi21"], &["gfx1100", "navi31"]];

/// The variable that names the card.
const FAMILY_VARIABLE: &str = "RADV_FORCE_FAMILY";

/// What a process must print once it has opened a card: the driver ends one that names a card it does not know.
const OPENED: &str = "compiling for";

/// Runs this program with `arguments` once for each generation; nothing where RADV is not installed. The process is to open
/// [`Radv`], compile, and print.
pub fn in_processes(arguments: &[&str]) -> std::io::Result<Vec<Output>> {
    let mut outputs = Vec::new();
    let Some(driver) = driver() else {
        return Ok(outputs);
    };
    for names in FAMILIES {
        let mut said = None;
        for name in names {
            let output = Command::new(std::env::current_exe()?)
                .args(arguments)
                // the loader's variable by both of its names
                .env("VK_DRIVER_FILES", &driver)
                .env("VK_ICD_FILENAMES", &driver)
                .env(FAMILY_VARIABLE, name)
                .env("MESA_SHADER_CACHE_DISABLE", "true")
                .output()?;
            let opened = String::from_utf8_lossy(&output.stdout).contains(OPENED);
            said = Some(output);
            if opened {
                break;
            }
        }
        outputs.extend(said);
    }
    Ok(outputs)
}

fn driver() -> Option<PathBuf> {
    let files = std::fs::read_dir("/usr/share/vulkan/icd.d").ok()?;
    let mut paths = files.flatten().map(|file| file.path());
    paths.find(|path| path.to_string_lossy().contains("/radeon_icd"))
}

/// What the driver says of a compiled kernel, by its own names: "VGPRs", "Spilled VGPRs", "Subgroups per SIMD" ...
pub type Statistics = BTreeMap<String, u64>;

/// What became of a kernel.
pub struct Compiled {
    pub statistics: Statistics,
    /// The card's own instructions, a line each; empty where the driver keeps them to itself.
    pub listing: String,
}

/// A device of RADV, as good as open: it is never closed, as a process compiles and ends.
pub struct Radv {
    /// The card that it believes in.
    pub card: String,
    /// Whether the driver knows cooperative matrices, and the card has them.
    pub has_matrices: bool,
    device: ash::Device,
    statistics: ash::khr::pipeline_executable_properties::Device,
    _entry: ash::Entry,
}

impl Radv {
    /// Opens the card that [`in_processes`] names; none where that did not start the process.
    pub fn open() -> Result<Option<Self>, Box<dyn Error>> {
        if std::env::var_os(FAMILY_VARIABLE).is_none() {
            return Ok(None);
        }
        // SAFETY: all calls follow Vulkan's rules for them; the handles are made here and outlive their uses
        unsafe {
            let entry = ash::Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None)?;
            let cards = instance.enumerate_physical_devices()?;
            let card = *cards.first().ok_or("RADV lists no card")?;
            let properties = instance.get_physical_device_properties(card);
            let mut extensions = vec![ash::khr::pipeline_executable_properties::NAME.as_ptr()];
            let there = instance.enumerate_device_extension_properties(card)?;
            let matrices = ash::khr::cooperative_matrix::NAME;
            let has_matrices = there
                .iter()
                .any(|known| known.extension_name_as_c_str() == Ok(matrices));
            extensions.extend(has_matrices.then_some(matrices.as_ptr()));
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let mut told = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
                .pipeline_executable_info(true);
            let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default()
                .cooperative_matrix(has_matrices);
            let mut memory =
                vk::PhysicalDeviceVulkanMemoryModelFeatures::default().vulkan_memory_model(true);
            let mut halves =
                vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(true);
            let mut info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut told);
            if has_matrices {
                info = info
                    .push_next(&mut matrices)
                    .push_next(&mut memory)
                    .push_next(&mut halves);
            }
            let device = instance.create_device(card, &info, None)?;
            let statistics =
                ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            let card = text(&properties.device_name);
            println!("{OPENED} {card}");
            Ok(Some(Self {
                card,
                has_matrices,
                device,
                statistics,
                _entry: entry,
            }))
        }
    }

    /// Compiles a compute shader that binds so many storage buffers.
    pub fn compile(&self, spirv: &[u32], bindings: u32) -> Result<Compiled, Box<dyn Error>> {
        let buffer = |binding| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let buffers: Vec<_> = (0..bindings).map(buffer).collect();
        let device = &self.device;
        // SAFETY: as above; naga wrote the SPIR-V, and all of its bindings are in the layout
        unsafe {
            let info = vk::ShaderModuleCreateInfo::default().code(spirv);
            let module = device.create_shader_module(&info, None)?;
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&buffers);
            let sets = [device.create_descriptor_set_layout(&info, None)?];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&info, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let captured = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let info = vk::ComputePipelineCreateInfo::default()
                .flags(captured)
                .stage(stage)
                .layout(layout);
            let made = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
            let pipeline = made.map_err(|(_, error)| error)?[0];
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let told = self.statistics.get_pipeline_executable_statistics(&info)?;
            let entry =
                |told: &vk::PipelineExecutableStatisticKHR<'_>| (text(&told.name), told.value.u64);
            Ok(Compiled {
                statistics: told.iter().map(entry).collect(),
                listing: self.listing(&info)?,
            })
        }
    }

    fn listing(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String, vk::Result> {
        let device = &self.statistics;
        // SAFETY: the driver says how many bytes each text has, and is given a buffer of as many
        let texts = unsafe {
            let mut texts = device.get_pipeline_executable_internal_representations(info)?;
            let mut buffers: Vec<_> = texts
                .iter()
                .map(|text| vec![0_u8; text.data_size])
                .collect();
            for (text, buffer) in texts.iter_mut().zip(&mut buffers) {
                text.p_data = buffer.as_mut_ptr().cast();
            }
            let mut count = texts.len() as u32;
            let ask = device
                .fp()
                .get_pipeline_executable_internal_representations_khr;
            ask(device.device(), info, &mut count, texts.as_mut_ptr()).result()?;
            let names = texts.iter().map(|told| text(&told.name));
            names.zip(buffers).collect::<Vec<_>>()
        };
        let listing = texts.into_iter().find(|(name, _)| name == "Assembly");
        let bytes = listing.map_or(Vec::new(), |(_, bytes)| bytes);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn text(characters: &[std::ffi::c_char]) -> String {
    // SAFETY: Vulkan ends each of its texts with a zero
    let text = unsafe { CStr::from_ptr(characters.as_ptr()) };
    text.to_string_lossy().into_owned()
}
