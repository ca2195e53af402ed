//! The formulas against launches, and against what others say.

use ibot::kernels::wgsl::{Launched, observe};
use ibot::kernels::{Autodiff, Gpu};

use super::*;
use crate::bench::step::random_input;
use crate::bench::traffic::alone_on_the_gpu;
use crate::gpu;
use ibot::train::{Rates, TrainerConfig};

fn of(size: &StepSize) -> Vec<Part> {
    Sizes::of(size, Kind::Gpu).unwrap().parts()
}

/// timm says 4.61 G multiply-adds of an image for ViT-S/16 at 224 (`vit_small_patch16_224`, its results table); this step
/// leaves out most of the last block's second half.
#[test]
fn a_forward_pass_is_as_large_as_timm_says() {
    let size = StepSize {
        batch_size: 1,
        ..StepSize::default()
    };
    let mut sizes = Sizes::of(&size, Kind::Gpu).unwrap();
    sizes.masked = sizes.images * sizes.patches; // all tokens go through the last block
    let parts = sizes.parts();
    let backbone = parts.iter().filter(|part| {
        let is_head = part.name.contains("heads") || part.name.contains("prototypes");
        part.phase == Phase::Forward && !is_head
    });
    let images = 2 * sizes.images; // of both networks
    let each = backbone.map(|part| part.work.multiply_adds).sum::<u64>() / images;
    assert!((4.59e9..4.63e9).contains(&(each as f64)), "{each}");
}

/// Of a launch by one name in its info.
fn word(info: &[(&str, u32)], name: &str) -> Option<u64> {
    let found = info.iter().find(|(field, _)| *field == name);
    found.map(|(_, word)| u64::from(*word))
}

/// Multiply-adds of the products and of attention that were launched.
fn counted(seen: &[Launched], head_width: u64) -> [u64; 2] {
    type Of<'a> = &'a dyn Fn(&str, &[(&str, u32)]) -> u64;
    let sum = |folder: &str, of: Of<'_>| -> u64 {
        let kernels = seen
            .iter()
            .filter(|launched| launched.name.starts_with(folder));
        let each = kernels.flat_map(|launched| {
            let sizes = launched.sizes.iter();
            sizes.map(|(info, launches)| *launches as u64 * of(launched.name, info))
        });
        each.sum()
    };
    let product = |name: &str, info: &[(&str, u32)]| {
        if name.ends_with("parts") {
            return 0; // adds up what others multiplied
        }
        let sizes = ["count", "rows", "columns", "depth"].map(|field| word(info, field));
        sizes.map(|size| size.unwrap()).iter().product()
    };
    let attention = |name: &str, info: &[(&str, u32)]| {
        let [batch, heads, tokens] =
            ["batch", "heads", "tokens"].map(|field| word(info, field).unwrap());
        // of a map: forward itself and its product with the values; by queries and by keys see `Kind`
        let products = match name.rsplit('/').next() {
            Some("forward") => 2,
            Some("queries") => 3,
            _ => 4,
        };
        products * batch * heads * tokens * tokens * head_width
    };
    [
        sum("matrix_product/", &product),
        sum("attention/", &attention),
    ]
}

/// The formulas against the launches of a step, on whatever GPU there is.
#[test]
fn products_are_those_that_are_launched() {
    let _alone = alone_on_the_gpu();
    let Some((device, guard)) = gpu::device() else {
        return;
    };
    let size = StepSize {
        image_size: 32,
        batch_size: 2,
        n_cls_prototypes: 512,
        n_patch_prototypes: 256,
        ..StepSize::tiny()
    };
    let config = size.method().unwrap();
    let method = config.init::<Autodiff<Gpu>>(0, &device).unwrap();
    let mut trainer = TrainerConfig::default().init(method, device.clone(), guard);
    let input = random_input::<Autodiff<Gpu>>(&size, &device).unwrap();
    let rates = Rates {
        temperature_teacher: 0.04,
        ..Rates::default()
    };
    // the first step may also time products, to choose their tiles
    trainer.step(&input, &rates).unwrap();
    let (stepped, seen) = observe(|| trainer.step(&input, &rates));
    stepped.unwrap();
    let parts = of(&size);
    let sum = |is_attention: bool| -> u64 {
        let of_kind = parts
            .iter()
            .filter(|part| part.name.starts_with("attention") == is_attention);
        of_kind.map(|part| part.work.multiply_adds).sum()
    };
    assert_eq!(counted(&seen, 64), [sum(false), sum(true)]);
}

#[test]
fn parts_are_bound_by_what_takes_longer() {
    let size = StepSize {
        batch_size: 64,
        ..StepSize::default()
    };
    let found = roofline(&size, Against::Numbers([67.0, 3350.0]), &mut |_| {}).unwrap();
    let part = |name: &str| found.parts.iter().find(|part| part.part == name).unwrap();
    // 2 x 2 x 25 216 x 12 x 384 x 1 152 operations at 40.2 TFLOP/s
    let qkv = part("qkv");
    assert!((qkv.milliseconds[0] - 13.32).abs() < 0.01, "{qkv:?}");
    assert!(!qkv.by_memory[0]);
    // 7 entries of 51.6 M parameters at 2 680 GB/s
    let adamw = part("AdamW");
    assert!((adamw.milliseconds[0] - 0.539).abs() < 0.01, "{adamw:?}");
    assert!(adamw.by_memory[0]);
    let text = found.to_string();
    assert!(
        text.contains("published") && text.contains("**step**"),
        "{text}"
    );
    let error = roofline(&size, Against::Numbers([0.0, 1.0]), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("--tflops"), "{error}");
}
