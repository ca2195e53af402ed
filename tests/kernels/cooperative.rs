//! Products on cooperative matrices: every kernel is validated and written for Vulkan and Metal, and all of each but the
//! matrices themselves runs here, with plain WGSL in their place.

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_wgpu::WgpuDevice;
use ibot::device::Cooperative;
use ibot::kernels::wgsl::{cooperative_kernels, observe, with_emulated_matrices};
use ibot::kernels::{Gpu, IbotBackend, Layout};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};

use crate::shader_lints::parts_of_shared_vectors;
use crate::shader_uniformity::divergent_barriers;
use crate::shader_writers::{metal, vulkan};
use crate::shaders::validated;
use crate::{epilogues, precision, products, values};

#[test]
fn every_kernel_can_be_written_for_its_platforms() {
    let mut of_metal = 0;
    for kernel in cooperative_kernels() {
        let wgsl = kernel.wgsl().unwrap();
        let (module, info) = validated(&wgsl);
        let name = || format!("{} {}", kernel.name(), kernel.variant());
        let mut found = divergent_barriers(&module);
        found.extend(parts_of_shared_vectors(&module, &info));
        assert!(found.is_empty(), "{}: {found:?}", name());
        let globals = module.global_variables.iter();
        let bindings = globals.filter(|(_, global)| global.binding.is_some());
        assert!(bindings.count() <= 8, "{}", name());
        // loads of single entries are Metal's
        if !kernel.values().contains(&("together", "1".to_owned())) {
            let words = vulkan(&module, &info, false);
            assert!(words.is_ok_and(|words| words.len() > 100), "{}", name());
            continue;
        }
        of_metal += 1;
        let text = metal(&module, &info).unwrap();
        assert!(text.contains("simdgroup_multiply_accumulate"), "{text}");
        // each matrix is loaded and stored by the rows that Metal means, or turned: naga 29 says the one for the other
        let is_turned = |name: &str| {
            let (_, after) = text.split_once(&format!(" {name}(")).unwrap();
            let body = after.split_once('}').unwrap().0;
            body.contains("true);")
        };
        let has = |flag: &str| kernel.values().contains(&(flag, "1".to_owned()));
        let turned = [is_turned("left_matrix"), is_turned("right_matrix")];
        assert_eq!(turned, [has("turned_left"), has("turned_right")], "{text}");
        assert!(!is_turned("put_sums") && !is_turned("no_sums"), "{text}");
    }
    assert!(of_metal > 20);
}

/// Each kind of matrices and their sides on a GPU.
const KINDS: [(Cooperative, u32); 3] = [
    (Cooperative::F16, 16),
    (Cooperative::Split, 16),
    (Cooperative::F32, 8),
];

/// The tests of products, of whole numbers and in half precision, and how exact the sums of two halves are.
pub fn emulated(device: &WgpuDevice) {
    if Gpu::check_precision(Precision::F16, device).is_err() {
        println!("SKIPPED: THE ADAPTER HAS NO F16");
        return;
    }
    let only = std::env::var("IBOT_CHECK").unwrap_or_default();
    for (kind, side) in KINDS {
        if !format!("cooperative, {kind:?} {side}").contains(&only) {
            continue;
        }
        let ((), launched) = observe(|| with_emulated_matrices(kind, side, || all(kind, device)));
        let is_cooperative = |name| name == "matrix_product/cooperative";
        assert!(
            launched.iter().any(|of| is_cooperative(of.name)),
            "{kind:?}"
        );
    }
}

fn all(kind: Cooperative, device: &WgpuDevice) {
    if kind == Cooperative::F16 {
        return precision::operations(device);
    }
    products::linear::<Autodiff<Gpu>>(device);
    products::linear_backward::<Autodiff<Gpu>>(device);
    products::many_small::<Autodiff<Gpu>>(device);
    epilogues::gelu_gradient::<Autodiff<Gpu>>(device);
    epilogues::long_sums::<Autodiff<Gpu>>(device);
    if kind == Cooperative::Split {
        exactness(device);
        not_finite(device);
    }
}

/// A product of two matrices of normal numbers, `[R, T] [T, C]`, times a power of two by row.
struct Drawn {
    sizes: [usize; 3],
    left: Vec<f32>,
    right: Vec<f32>,
}

impl Drawn {
    fn new(sizes @ [rows, depth, columns]: [usize; 3], scales: [f32; 2], row_step: i32) -> Self {
        let draw = |stream, count: usize, scale: f32| {
            let mut random = Random::new(stream, 9, 0, Stream::Init);
            let drawn = random.fill(count, Random::normal);
            drawn.iter().map(|x: &f32| x * scale).collect::<Vec<f32>>()
        };
        let mut left = draw(90, rows * depth, scales[0]);
        for (row, entries) in left.chunks_mut(depth).enumerate() {
            let scale = 2.0_f32.powi(row_step * row as i32);
            entries.iter_mut().for_each(|x| *x *= scale);
        }
        Self {
            sizes,
            left,
            right: draw(91, depth * columns, scales[1]),
        }
    }

    fn product(&self, device: &WgpuDevice) -> Vec<f32> {
        let [rows, depth, columns] = self.sizes;
        let of = |numbers: &[f32], rows: usize| {
            Tensor::<Gpu, 1>::from_floats(numbers, device).reshape([1, rows, numbers.len() / rows])
        };
        let (left, right) = (of(&self.left, rows), of(&self.right, depth));
        let found = values(Gpu::matrix_products(left, right, Layout::Plain));
        assert_eq!(found.len(), rows * columns);
        found
    }

    /// Largest distances of each row from the products in f64, by the sums of their terms without signs.
    fn errors(&self, found: &[f32]) -> Vec<f64> {
        let [_, depth, columns] = self.sizes;
        let of_row = |(row, found): (usize, &[f32])| {
            let left = &self.left[row * depth..][..depth];
            let of_entry = |(column, found): (usize, &f32)| {
                let (mut sum, mut size) = (0.0, 0.0);
                for (term, x) in left.iter().enumerate() {
                    let product = f64::from(*x) * f64::from(self.right[term * columns + column]);
                    sum += product;
                    size += product.abs();
                }
                (f64::from(*found) - sum).abs() / size
            };
            found.iter().enumerate().map(of_entry).fold(0.0, f64::max)
        };
        found.chunks(columns).enumerate().map(of_row).collect()
    }
}

/// Numbers of any size are multiplied as f32 are: those that f16 has, and those beyond them on either side. Of rows that are much
/// smaller than the largest entry of their matrix, 11 bits are left.
fn exactness(device: &WgpuDevice) {
    for scales in [
        [1.0, 1.0],
        [1e-9, 1e-6],
        [1e9, 1e12],
        [1e-18, 1e20],
        [1e-30, 1e30],
    ] {
        let drawn = Drawn::new([33, 512, 36], scales, 0);
        let errors = drawn.errors(&drawn.product(device));
        let error = errors.iter().copied().fold(0.0, f64::max);
        assert!(error < 4e-7, "{scales:?}: {error}");
    }
    let drawn = Drawn::new([18, 64, 12], [1.0, 1.0], -2);
    for (row, error) in drawn.errors(&drawn.product(device)).iter().enumerate() {
        let bar = if row <= 10 { 4e-7 } else { 3e-4 };
        assert!(*error < bar, "row of 2^-{}: {error}, bar {bar}", 2 * row);
    }
}

/// What is not finite leaves no entry that could be taken for sound.
fn not_finite(device: &WgpuDevice) {
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let mut drawn = Drawn::new([5, 20, 7], [1.0, 1.0], 0);
        drawn.right[3] = bad;
        assert!(drawn.product(device).iter().all(|x| x.is_nan()), "{bad}");
    }
}
