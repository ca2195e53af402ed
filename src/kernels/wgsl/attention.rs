//! Attention on the device: which kernels of `shaders/attention/`, and their launches.

use burn::tensor::Tensor;

use super::attention_lanes;
use super::attention_pass::Pass;
use super::attention_tiles::{LANES, Tiles};
use super::element::{Element, cast, empty_of, rows_as, rows_of};
use super::info::{Info, info};
use super::lanes::{MAX_ROUNDS, is_software, workgroup};
use super::launch::{Client, client_of, contiguous, empty, launch, tensor};
use crate::device::{AdapterKind, Api, adapter_behind};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::attention as tensor_attention;
use crate::kernels::ops::attention::Sizes;
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};

/// Subgroups at least this wide are those of GPUs whose lanes have many registers: NVIDIA, AMD. Intel's are 8 or 16 wide because a
/// lane has few; an Apple lane has few too, and its subgroups are 32 wide (cubecl's number; wgpu says 4).
const WIDE_SUBGROUP: u32 = 32;

/// What the choice asks of a device.
#[derive(Debug, Clone, Copy)]
struct Abilities {
    is_software: bool,
    /// Whether it is one of Apple's own.
    is_apple: bool,
    /// Lanes of the narrowest subgroup.
    subgroup: u32,
    /// Memory of a workgroup.
    workgroup_bytes: usize,
    /// Lanes of a workgroup, at most.
    lanes: usize,
}

impl Abilities {
    fn choose(client: &Client) -> Self {
        let hardware = &client.properties().hardware;
        Self {
            is_software: is_software(client),
            is_apple: adapter_behind(client)
                .is_some_and(|of| of.api == Api::Metal && of.kind == AdapterKind::Integrated),
            subgroup: hardware.plane_size_min,
            workgroup_bytes: hardware.max_shared_memory_size,
            lanes: hardware.max_units_per_cube as usize,
        }
    }
}

/// How attention is computed on a device. All give the same result but for rounding; each kind of kernel takes some widths of
/// heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionPath {
    /// A lane holds up to 4 tokens: for software devices, where a barrier costs more than reading again. Widths of up to 256,
    /// or 64 where they are no multiple of 4.
    SoftwareLanes,
    /// A lane holds one token: for GPUs and heads so narrow that its registers do. Widths of up to 16.
    GpuLanes,
    /// Tiles of 64 tokens in workgroup memory, or of 32 where registers would not do: for GPUs with many registers a lane.
    /// Widths of 20 to 96, multiples of 4.
    LargeTiles,
    /// Tiles of 32 tokens: for other GPUs. Widths of 20 to 128, multiples of 4.
    SmallTiles,
    /// Tensor operations: what remains.
    Reference,
}

impl AttentionPath {
    /// Every path.
    pub const ALL: [Self; 5] = [
        Self::SoftwareLanes,
        Self::GpuLanes,
        Self::LargeTiles,
        Self::SmallTiles,
        Self::Reference,
    ];

    /// The path that suits the device of the tensor and its heads.
    pub fn of_device(input: &AttentionInput<Gpu>) -> Self {
        let sizes = Sizes::new(input);
        let device = Abilities::choose(&client_of(&input.qkv));
        match sizes.tokens {
            1..=MAX_ROUNDS => Self::suited_to(device, sizes.head_width),
            _ => Self::Reference,
        }
    }

    fn suited_to(device: Abilities, head_width: usize) -> Self {
        let has_registers = device.subgroup >= WIDE_SUBGROUP && !device.is_apple;
        let in_order: &[Self] = match (device.is_software, has_registers) {
            (true, _) => &[Self::SoftwareLanes],
            (false, true) => &[Self::LargeTiles, Self::SmallTiles, Self::GpuLanes],
            (false, false) => &[Self::SmallTiles, Self::LargeTiles, Self::GpuLanes],
        };
        let fits = |path: &&Self| {
            let has_room = path.tiles(head_width).is_none_or(|tiles| {
                tiles.workgroup_bytes() <= device.workgroup_bytes && LANES <= device.lanes
            });
            has_room && path.takes(head_width)
        };
        in_order
            .iter()
            .find(fits)
            .copied()
            .unwrap_or(Self::Reference)
    }

    /// Whether the path has kernels for heads of this width.
    pub fn takes(self, head_width: usize) -> bool {
        self.passes(1, head_width, Element::F32).is_some()
    }

    fn tiles(self, head_width: usize) -> Option<Tiles> {
        match self {
            Self::LargeTiles => Tiles::large(head_width),
            Self::SmallTiles => Tiles::small(head_width),
            _ => None,
        }
    }

    /// Forward, by queries, by keys; none where the path has no kernels for heads of this width.
    pub(super) fn passes(
        self,
        workgroup: u32,
        head_width: usize,
        element: Element,
    ) -> Option<[Pass; 3]> {
        match self {
            Self::SoftwareLanes => attention_lanes::of_software(head_width, element),
            Self::GpuLanes => attention_lanes::of_gpu(workgroup, head_width, element),
            Self::LargeTiles | Self::SmallTiles => {
                let tiles = self.tiles(head_width);
                tiles.map(|tiles| tiles.passes(element))
            }
            Self::Reference => None,
        }
    }

    /// See [`crate::kernels::IbotBackend::packed_attention`]; by tensor operations where the path has no kernels for heads of this
    /// width.
    pub fn forward(self, input: AttentionInput<Gpu>) -> AttentionOutput<Gpu> {
        let sizes = Sizes::new(&input);
        let client = client_of(&input.qkv);
        let element = Element::of_dtype(input.qkv.dtype());
        match self.passes(workgroup(&client), sizes.head_width, element) {
            Some([pass, ..]) => forward(&pass, input),
            None => {
                let found = tensor_attention::forward(in_f32(input));
                AttentionOutput {
                    context: cast(found.context, element),
                    ..found
                }
            }
        }
    }

    /// See [`crate::kernels::IbotBackend::packed_attention_backward`].
    pub fn backward(
        self,
        input: AttentionInput<Gpu>,
        output: AttentionOutput<Gpu>,
        d_context: Tensor<Gpu, 2>,
    ) -> Tensor<Gpu, 2> {
        let sizes = Sizes::new(&input);
        let client = client_of(&input.qkv);
        let element = Element::of_dtype(input.qkv.dtype());
        match self.passes(workgroup(&client), sizes.head_width, element) {
            Some([_, queries, keys]) => backward([&queries, &keys], input, output, d_context),
            None => {
                let output = AttentionOutput {
                    context: cast(output.context, Element::F32),
                    ..output
                };
                let d_context = cast(d_context, Element::F32);
                cast(
                    tensor_attention::backward(in_f32(input), output, d_context),
                    element,
                )
            }
        }
    }
}

/// As tensor operations take it.
fn in_f32(input: AttentionInput<Gpu>) -> AttentionInput<Gpu> {
    AttentionInput {
        qkv: cast(input.qkv, Element::F32),
        ..input
    }
}

/// Of tiles; the lanes of a software device leave out `chunks`, which stands last.
fn info_of(sizes: &Sizes) -> Info {
    info! {
        batch: sizes.batch,
        heads: sizes.heads,
        tokens: sizes.tokens,
        scale: sizes.scale() as f32,
        chunks: sizes.head_width.div_ceil(4),
    }
}

fn forward(pass: &Pass, input: AttentionInput<Gpu>) -> AttentionOutput<Gpu> {
    let sizes = Sizes::new(&input);
    let qkv = rows_of(input.qkv);
    let rows = sizes.batch * sizes.tokens;
    let width = sizes.heads * sizes.head_width;
    let context = empty_of(Element::of(&qkv), &qkv, [rows, width]);
    let row_lse = empty(&qkv, [rows * sizes.heads]);
    launch(
        &qkv.client,
        pass.kernel.clone(),
        pass.groups(&sizes),
        &[&qkv, &context, &row_lse],
        &info_of(&sizes),
    );
    AttentionOutput {
        context: tensor(context),
        row_lse: tensor(row_lse),
    }
}

fn backward(
    [by_queries, by_keys]: [&Pass; 2],
    input: AttentionInput<Gpu>,
    output: AttentionOutput<Gpu>,
    d_context: Tensor<Gpu, 2>,
) -> Tensor<Gpu, 2> {
    let sizes = Sizes::new(&input);
    let qkv = rows_of(input.qkv);
    let element = Element::of(&qkv);
    let rows = sizes.batch * sizes.tokens;
    let [context, d_context] = [output.context, d_context].map(|rows| rows_as(rows, element));
    let row_lse = contiguous(output.row_lse);
    let d_qkv = empty_of(element, &qkv, [rows, 3 * sizes.heads * sizes.head_width]);
    let along = empty(&qkv, [rows * sizes.heads]);
    launch(
        &qkv.client,
        by_queries.kernel.clone(),
        by_queries.groups(&sizes),
        &[&qkv, &row_lse, &context, &d_context, &d_qkv, &along],
        &info_of(&sizes),
    );
    launch(
        &qkv.client,
        by_keys.kernel.clone(),
        by_keys.groups(&sizes),
        &[&qkv, &row_lse, &along, &d_context, &d_qkv],
        &info_of(&sizes),
    );
    tensor(d_qkv)
}

#[cfg(test)]
mod tests {
    use super::AttentionPath::*;
    use super::*;

    #[test]
    fn paths_suit_device_and_width() {
        let gpu = |subgroup, workgroup_bytes, lanes| Abilities {
            is_software: false,
            is_apple: false,
            subgroup,
            workgroup_bytes,
            lanes,
        };
        let devices = [
            gpu(32, 49_152, 1024), // NVIDIA
            gpu(8, 65_536, 1024),  // Arc
            // Apple, as cubecl reports it
            Abilities {
                is_apple: true,
                ..gpu(32, 32_768, 1024)
            },
            gpu(32, 16_352, 256), // the least that wgpu takes on GL
            gpu(32, 32_768, 64),
        ];
        for (head_width, expected) in [
            (16, [GpuLanes; 5]),
            (17, [Reference; 5]),
            (
                32,
                [LargeTiles, SmallTiles, SmallTiles, SmallTiles, Reference],
            ),
            (42, [Reference; 5]),
            (
                64,
                [LargeTiles, SmallTiles, SmallTiles, SmallTiles, Reference],
            ),
            (
                80,
                [LargeTiles, SmallTiles, SmallTiles, SmallTiles, Reference],
            ),
            (
                128,
                [SmallTiles, SmallTiles, SmallTiles, SmallTiles, Reference],
            ),
        ] {
            let found = devices.map(|device| AttentionPath::suited_to(device, head_width));
            assert_eq!(found, expected, "{head_width}");
        }
        let software = Abilities {
            is_software: true,
            ..devices[1]
        };
        for (head_width, expected) in [(16, SoftwareLanes), (64, SoftwareLanes), (260, Reference)] {
            assert_eq!(AttentionPath::suited_to(software, head_width), expected);
        }
    }
}
