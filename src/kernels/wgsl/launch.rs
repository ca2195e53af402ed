//! A kernel as a filled template, and its launch on burn's device queue.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{DType, Shape, Tensor, TensorMetadata};
use burn_wgpu::{
    CubeTensor, KernelSource, SourceKernel, SourceTemplate, WgpuRuntime, into_contiguous,
};
use cubecl::client::ComputeClient;
use cubecl::prelude::{CubeCount, CubeDim, KernelId};
use cubecl::server::{KernelArguments, MetadataBindingInfo};

use super::super::{Gpu, wrap};
use super::template::fill;
use crate::device::{AdapterKind, kind_of, launched};
use crate::error::{Error, Result};

/// Queue of one device.
pub(super) type Client = ComputeClient<WgpuRuntime>;
/// A tensor on the device.
pub(super) type GpuTensor = CubeTensor<WgpuRuntime>;

/// Name of the variable that holds a folder of shaders to run instead of those built in: for work on kernels.
pub const SHADERS_VARIABLE: &str = "IBOT_SHADERS";

/// Name of the variable that sets the lanes of a workgroup, a power of two: for tuning, and for running on a software
/// device what a GPU runs.
pub const WORKGROUP_VARIABLE: &str = "IBOT_WORKGROUP";

/// Lanes of a workgroup on a GPU.
const GPU_WORKGROUP: u32 = 256;
/// Lanes of a workgroup on a software device, those of a CPU's vector unit. There a barrier costs more than lanes that idle, so a
/// workgroup is one subgroup (944 x 8192 cross-entropy on lavapipe: 14 ms at 8 lanes, 26 ms at 256).
pub(super) const SOFTWARE_SUBGROUP: u32 = 8;

/// lavapipe leaves any loop after this many rounds, without a word (LP_MAX_TGSI_LOOP_ITERATIONS in Mesa's gallivm).
pub(super) const MOST_ROUNDS: usize = 65_535;

/// WGSL files of `shaders/` that make one shader together.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// Path there without the ending, and text, of each; the kernel's own is the last.
    pub files: &'static [(&'static str, &'static str)],
}

impl Shader {
    fn name(self) -> &'static str {
        self.files.last().map_or("", |(name, _)| name)
    }
}

/// The shader of `shaders/NAME.wgsl` with the files that it builds on; launch.wgsl is always one of them.
macro_rules! shader {
    ($($name:literal),+) => {
        $crate::kernels::wgsl::launch::Shader {
            files: &[
                shader!(@file "launch"),
                $(shader!(@file $name)),+
            ],
        }
    };
    (@file $name:literal) => {
        ($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")))
    };
}
pub(super) use shader;

/// A template and the values that make one kernel of it.
#[derive(Debug, Clone)]
pub struct Kernel {
    shader: Shader,
    workgroup: u32,
    values: Vec<(&'static str, String)>,
}

impl Kernel {
    /// `{{ workgroup }}` is filled in every shader; `values` holds all others.
    pub fn new(shader: Shader, workgroup: u32, values: Vec<(&'static str, String)>) -> Self {
        Self {
            shader,
            workgroup,
            values,
        }
    }

    /// The file it is made of, without what that builds on.
    pub fn name(&self) -> &'static str {
        self.shader.name()
    }

    /// Lanes of a workgroup.
    pub fn workgroup(&self) -> u32 {
        self.workgroup
    }

    /// The WGSL.
    ///
    /// # Errors
    /// Template and values do not fit together, or a shader of `IBOT_SHADERS` cannot be read.
    pub fn wgsl(&self) -> std::result::Result<String, String> {
        let mut values = self.values.clone();
        values.push(("workgroup", self.workgroup.to_string()));
        let mut text = String::new();
        for (name, built_in) in self.shader.files {
            match shader_folder() {
                None => text.push_str(built_in),
                Some(folder) => {
                    let path = folder.join(name).with_extension("wgsl");
                    let read = std::fs::read_to_string(&path)
                        .map_err(|error| format!("{}: {error}", path.display()))?;
                    text.push_str(&read);
                }
            }
        }
        fill(&text, &values).map_err(|error| format!("shader {}: {error}", self.name()))
    }
}

/// The folder of [`SHADERS_VARIABLE`].
pub fn shader_folder() -> Option<&'static PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| std::env::var_os(SHADERS_VARIABLE).map(PathBuf::from))
        .as_ref()
}

impl KernelSource for Kernel {
    fn source(&self) -> SourceTemplate {
        // An error becomes text that does not compile: the device's fault log quotes it.
        SourceTemplate::new(self.wgsl().unwrap_or_else(|error| error))
    }

    fn id(&self) -> KernelId {
        // Everything that reaches the template, the element type among it: pipelines are cached by this.
        KernelId::new::<Self>()
            .info((self.shader.name(), self.values.clone()))
            .cube_dim(CubeDim::new_1d(self.workgroup))
    }
}

/// Queue of the tensor's device.
pub(super) fn client_of<const D: usize>(tensor: &Tensor<Gpu, D>) -> Client {
    tensor.clone().into_primitive().tensor().client
}

/// Whether the device is a program on the CPU.
pub(super) fn is_software(client: &Client) -> bool {
    let subgroup = client.properties().hardware.plane_size_max;
    is_software_kind(chosen_workgroup(), kind_of(client), subgroup)
}

/// By the lanes that are asked for, else by the sort of adapter; by its largest subgroup only where that is unknown: small
/// GPUs (Mali) have subgroups of 8 too, and lavapipe on AVX-512 has some of 16.
fn is_software_kind(lanes: Option<u32>, kind: Option<AdapterKind>, largest_subgroup: u32) -> bool {
    match (lanes, kind) {
        (Some(lanes), _) => lanes <= SOFTWARE_SUBGROUP,
        (None, Some(AdapterKind::Software)) => true,
        (None, None | Some(AdapterKind::Other)) => largest_subgroup <= SOFTWARE_SUBGROUP,
        (None, Some(_)) => false,
    }
}

/// What [`WORKGROUP_VARIABLE`] says; anything but a power of two up to 1024 is warned of and left aside.
fn chosen_workgroup() -> Option<u32> {
    static CHOSEN: OnceLock<Option<u32>> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let value = std::env::var(WORKGROUP_VARIABLE).ok()?;
        let lanes = value.parse().ok();
        let lanes = lanes.filter(|lanes: &u32| lanes.is_power_of_two() && *lanes <= 1024);
        if lanes.is_none() {
            log::warn!("{WORKGROUP_VARIABLE} = {value}: must be a power of two up to 1024");
        }
        lanes
    })
}

/// Lanes of a workgroup that suit the device.
pub(super) fn workgroup(client: &Client) -> u32 {
    let hardware = &client.properties().hardware;
    if let Some(lanes) = chosen_workgroup() {
        return lanes.min(1 << hardware.max_units_per_cube.max(1).ilog2());
    }
    workgroup_for(is_software(client), hardware.max_units_per_cube)
}

/// Lanes of a workgroup that suit the device and reduce `length` entries in no more rounds than it can count.
pub(super) fn reducing_workgroup(client: &Client, length: usize) -> u32 {
    lanes_for(length, workgroup(client))
}

fn lanes_for(length: usize, mut lanes: u32) -> u32 {
    while length.div_ceil(lanes as usize) > MOST_ROUNDS && lanes < GPU_WORKGROUP {
        lanes *= 2;
    }
    let rounds = length.div_ceil(lanes as usize);
    assert!(
        rounds <= MOST_ROUNDS,
        "a row of {length} entries is too long for one workgroup"
    );
    lanes
}

fn workgroup_for(is_software: bool, most_lanes: u32) -> u32 {
    match is_software {
        true => SOFTWARE_SUBGROUP,
        false => GPU_WORKGROUP.min(1 << most_lanes.max(1).ilog2()),
    }
}

/// Most tensors that a kernel binds whatever the device: those of the cross-entropy.
const MOST_TENSORS: u32 = 10;

/// Whether the device binds as many buffers as the kernels need.
pub(super) fn check_bindings(client: &Client) -> Result<()> {
    // one less than the adapter's number, and each kernel's info is one more than its tensors
    check_max_bindings(client.properties().hardware.max_bindings)
}

fn check_max_bindings(bindings: u32) -> Result<()> {
    if bindings >= MOST_TENSORS {
        return Ok(());
    }
    Err(Error::Device(format!(
        "this adapter lets a kernel use {} storage buffers, the losses need {}: IBOT_KERNELS=reference does without this \
         crate's kernels, --backend flex without the GPU",
        bindings + 1,
        MOST_TENSORS + 1,
    )))
}

/// Runs a kernel in `groups` workgroups over `tensors`, bound in their order, and `info`, bound last.
pub(super) fn launch(
    client: &Client,
    kernel: Kernel,
    groups: usize,
    tensors: &[&GpuTensor],
    info: &[u32],
) {
    if groups == 0 {
        return;
    }
    let hardware = &client.properties().hardware;
    let grid = grid(groups, hardware.max_cube_count.0 as usize);
    let arguments = KernelArguments::new()
        .with_buffers(tensors.iter().map(|t| t.handle.clone().binding()).collect())
        .with_info(MetadataBindingInfo::custom(pack(info)));
    let dim = CubeDim::new_1d(kernel.workgroup);
    client.launch(Box::new(SourceKernel::new(kernel, dim)), grid, arguments);
    launched(client);
    observe_memory(client);
}

/// Workgroups as a rectangle; its last row may hold some more than asked for, which the shaders skip.
fn grid(groups: usize, most: usize) -> CubeCount {
    let rows = groups.div_ceil(most);
    assert!(
        rows <= most,
        "{groups} workgroups are more than the device can count"
    );
    let columns = groups.div_ceil(rows);
    CubeCount::Static(columns as u32, rows as u32, 1)
}

/// Words of 32 bits as cubecl takes them, low half first.
fn pack(info: &[u32]) -> Vec<u64> {
    let pairs = info.chunks(2);
    pairs
        .map(|pair| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32)
        .collect()
}

/// The tensor's buffer without gaps; panics on anything but f32, which no caller passes.
pub(super) fn contiguous<const D: usize>(tensor: Tensor<Gpu, D>) -> GpuTensor {
    let tensor = tensor.into_primitive().tensor();
    assert_eq!(tensor.dtype(), DType::F32, "the kernels take f32 tensors");
    into_contiguous(tensor)
}

/// A tensor like this one that nobody else holds: itself, or a copy.
pub(super) fn unshared(tensor: GpuTensor) -> GpuTensor {
    match tensor.can_mut() && tensor.is_nonoverlapping() {
        true => tensor,
        false => tensor.copy(),
    }
}

/// A new tensor on the device of `like`; its entries are whatever lies there.
pub(super) fn empty<const D: usize>(like: &GpuTensor, shape: [usize; D]) -> GpuTensor {
    let shape = Shape::from(shape);
    let bytes = shape.num_elements() * size_of::<f32>();
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        shape,
        like.client.empty(bytes),
        DType::F32,
    )
}

/// The tensor of this buffer.
pub(super) fn tensor<const D: usize>(buffer: GpuTensor) -> Tensor<Gpu, D> {
    wrap(buffer)
}

/// Bytes in use on the device, at most, after any launch since observation began; `u64::MAX` while nobody observes.
static PEAK: AtomicU64 = AtomicU64::new(u64::MAX);

/// The most memory that was in use on the device right after one of our kernels was queued, while `work` ran: for
/// benchmarks, as asking the device after each launch is slow.
pub fn peak_bytes_in_use(work: &mut dyn FnMut()) -> u64 {
    PEAK.store(0, Ordering::Relaxed);
    work();
    PEAK.swap(u64::MAX, Ordering::Relaxed)
}

fn observe_memory(client: &Client) {
    if PEAK.load(Ordering::Relaxed) == u64::MAX {
        return;
    }
    if let Ok(usage) = client.memory_usage() {
        PEAK.fetch_max(usage.bytes_in_use, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_storage_buffers_are_refused_with_the_way_out() {
        assert!(check_max_bindings(MOST_TENSORS).is_ok());
        // WebGPU's least is 8: 7 beside the info
        let refusal = check_max_bindings(7).unwrap_err().to_string();
        assert!(refusal.contains("8 storage buffers") && refusal.contains("--backend flex"));
    }

    #[test]
    fn workgroups_suit_the_device() {
        assert_eq!(workgroup_for(true, 1024), 8); // lavapipe
        assert_eq!(workgroup_for(false, 1024), 256); // NVIDIA, Apple
        assert_eq!(workgroup_for(false, 128), 128); // small workgroups
        assert_eq!(workgroup_for(false, 100), 64);
    }

    #[test]
    fn software_is_told_by_the_sort_of_adapter() {
        let software = |kind, subgroup| is_software_kind(None, kind, subgroup);
        // lavapipe: AVX2, and AVX-512 or LP_NATIVE_VECTOR_WIDTH=512; WARP
        for subgroup in [8, 16, 4] {
            assert!(software(Some(AdapterKind::Software), subgroup));
        }
        assert!(!software(Some(AdapterKind::Integrated), 8)); // Mali
        assert!(!software(Some(AdapterKind::Discrete), 32));
        for unknown in [None, Some(AdapterKind::Other)] {
            assert!(software(unknown, 8) && !software(unknown, 16));
        }
        // what is asked for is right
        assert!(!is_software_kind(Some(256), Some(AdapterKind::Software), 8));
        assert!(is_software_kind(Some(8), Some(AdapterKind::Discrete), 32));
    }

    #[test]
    fn long_rows_get_more_lanes() {
        assert_eq!(lanes_for(0, 8), 8);
        assert_eq!(lanes_for(8 * 65_535, 8), 8);
        assert_eq!(lanes_for(8 * 65_535 + 1, 8), 16);
        assert_eq!(lanes_for(256 * 65_535, 8), 256);
    }

    #[test]
    fn grids_hold_all_groups() {
        for (groups, most) in [(1, 65_535), (65_535, 65_535), (65_536, 65_535), (7, 3)] {
            let CubeCount::Static(x, y, z) = grid(groups, most) else {
                panic!("not static");
            };
            let held = x as usize * y as usize;
            assert!((groups..groups + y as usize).contains(&held) && z == 1);
            assert!(x as usize <= most && y as usize <= most);
        }
    }

    #[test]
    fn words_are_packed_low_half_first() {
        assert_eq!(pack(&[1, 2, 3]), [1 | 2 << 32, 3]);
    }
}
