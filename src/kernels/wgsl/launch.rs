//! A kernel as a filled template, and its launch on burn's device queue.

use std::collections::{BTreeMap, BTreeSet};
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

use super::element::{Element, empty_of};
use super::info::Info;
use super::observed::{Launched, note};
use super::template::fill;
use crate::device::{kept, launched};
use crate::error::{Error, Result};
use crate::kernels::backends::Gpu;
use crate::kernels::wrap::wrap;

/// Queue of one device.
pub(super) type Client = ComputeClient<WgpuRuntime>;
/// A tensor on the device.
pub(super) type GpuTensor = CubeTensor<WgpuRuntime>;

/// Name of the variable that holds a folder of shaders to run instead of those built in: for work on kernels.
pub const SHADERS_VARIABLE: &str = "IBOT_SHADERS";

/// Name of the variable that, set to 1, launches the kernels with counters that end any loop: for work on kernels, where
/// a loop without an end would take the device away.
const CHECKED_VARIABLE: &str = "IBOT_CHECKED";

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

    fn has(self, name: &str) -> bool {
        self.files.iter().any(|(file, _)| *file == name)
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

    /// One launch of it.
    fn launched(&self, workgroups: usize, info: &Info) -> Launched {
        Launched {
            name: self.name(),
            lanes: self.workgroup,
            launches: 1,
            max_workgroups: workgroups,
            variants: BTreeSet::from([self.variant()]),
            infos: BTreeMap::from([(self.variant(), info.names())]),
            sizes: BTreeMap::from([(info.fields().to_vec(), 1)]),
        }
    }

    /// Lanes of a workgroup.
    pub fn workgroup(&self) -> u32 {
        self.workgroup
    }

    /// What stands for the other placeholders of its template.
    pub fn values(&self) -> &[(&'static str, String)] {
        &self.values
    }

    /// What fills the template beside the lanes, as `name=value` with spaces between.
    pub fn variant(&self) -> String {
        let values = self.values.iter();
        let values = values.map(|(name, value)| format!("{name}={value}"));
        values.collect::<Vec<_>>().join(" ")
    }

    /// The WGSL.
    ///
    /// # Errors
    /// Template and values do not fit together, or a shader of `IBOT_SHADERS` cannot be read.
    pub fn wgsl(&self) -> std::result::Result<String, String> {
        let mut values = self.values.clone();
        values.push(("workgroup", self.workgroup.to_string()));
        // WGSL wants it before all else
        let has_half = values.iter().any(|(_, value)| value.contains("f16"));
        let mut text = String::from(if has_half { "enable f16;\n\n" } else { "" });
        if self.shader.has("matrix_product/cooperative_matrices") {
            text.push_str("enable wgpu_cooperative_matrix;\n\n");
        }
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

/// Whether [`CHECKED_VARIABLE`] is 1.
fn is_checked() -> bool {
    static CHECKED: OnceLock<bool> = OnceLock::new();
    *CHECKED.get_or_init(|| std::env::var_os(CHECKED_VARIABLE).is_some_and(|value| value == "1"))
}

/// Most tensors that a kernel binds whatever the device: with the info, WebGPU's least number of storage buffers.
pub(super) const MAX_TENSORS: u32 = 7;

/// Tensors that a kernel can bind on the device, beside its info: cubecl's number is one less than the adapter's.
pub(super) fn bindings(client: &Client) -> u32 {
    client.properties().hardware.max_bindings
}

/// Whether the device binds as many buffers as the kernels need.
pub(super) fn check_bindings(client: &Client) -> Result<()> {
    check_max_bindings(bindings(client))
}

fn check_max_bindings(bindings: u32) -> Result<()> {
    if bindings >= MAX_TENSORS {
        return Ok(());
    }
    Err(Error::Device(format!(
        "this adapter lets a kernel use {} storage buffers, these need {}: IBOT_KERNELS=reference does without this \
         crate's kernels, `backend` flex without the GPU",
        bindings + 1,
        MAX_TENSORS + 1,
    )))
}

/// Runs a kernel in `groups` workgroups over `tensors`, bound in their order, and `info`, bound last.
pub(super) fn launch(
    client: &Client,
    kernel: Kernel,
    groups: usize,
    tensors: &[&GpuTensor],
    info: &Info,
) {
    if groups == 0 {
        return;
    }
    note(|| kernel.launched(groups, info));
    let hardware = &client.properties().hardware;
    let grid = grid(groups, hardware.max_cube_count.0 as usize);
    let words = info.words();
    let mut buffers: Vec<_> = tensors.iter().map(|t| t.handle.clone().binding()).collect();
    let written = match kept(client, &words) {
        Some(info) => {
            buffers.push(info);
            Vec::new()
        }
        None => pack(&words),
    };
    let arguments = KernelArguments::new()
        .with_buffers(buffers)
        .with_info(MetadataBindingInfo::custom(written));
    let dim = CubeDim::new_1d(kernel.workgroup);
    let kernel = Box::new(SourceKernel::new(kernel, dim));
    if is_checked() {
        client.launch(kernel, grid, arguments);
    } else {
        // SAFETY: every kernel takes its sizes from `info` and from its template alone, which the modules here make of
        // the tensors' own shapes: each index into a tensor is below one of these sizes or clamped to it, spare lanes
        // and workgroups return or loop over nothing, and a loop ends at one of these sizes or halves its counter. (cubecl
        // bounds no index of a WGSL kernel in its checked mode either; it adds two counters to each loop.)
        unsafe { client.launch_unchecked(kernel, grid, arguments) };
    }
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
    if tensor.can_mut() && tensor.is_nonoverlapping() {
        tensor
    } else {
        tensor.copy()
    }
}

/// A new tensor of f32 on the device of `like`; its entries are whatever lies there.
pub(super) fn empty<const D: usize>(like: &GpuTensor, shape: [usize; D]) -> GpuTensor {
    empty_of(Element::F32, like, shape)
}

/// Numbers from the host on the device of `like`: for those that change from step to step, while an info stays.
pub(super) fn uploaded(like: &GpuTensor, numbers: &[f32]) -> GpuTensor {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        Shape::from([numbers.len()]),
        like.client.create_from_slice(&bytes),
        DType::F32,
    )
}

/// Entries at which a tensor may begin inside another: WebGPU's `min_storage_buffer_offset_alignment` is at most 256 bytes.
pub(super) const SECTION: usize = 64;

/// Some entries of a buffer of f32, `[length]`; `start` is a multiple of [`SECTION`].
pub(super) fn section(of: &GpuTensor, start: usize, length: usize) -> GpuTensor {
    let bytes = |entries: usize| (entries * size_of::<f32>()) as u64;
    let after = of.meta.shape().num_elements() - start - length;
    let handle = of.handle.clone();
    CubeTensor::new_contiguous(
        of.client.clone(),
        of.device.clone(),
        Shape::from([length]),
        handle.offset_start(bytes(start)).offset_end(bytes(after)),
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
        assert!(check_max_bindings(MAX_TENSORS).is_ok());
        let refusal = check_max_bindings(3).unwrap_err().to_string();
        assert!(refusal.contains("4 storage buffers") && refusal.contains("`backend` flex"));
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
