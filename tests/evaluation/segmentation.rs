//! Segmentation of images by patches, on a tiny model.

use std::sync::Arc;

use ibot::data::{EvalFit, FolderConfig, ImageFolder, MaskedImages, Masks};
use ibot::device::{BackendChoice, select};
use ibot::embedding::{Embedder, PatchRequest, embed_folder, patch_rows, segment, visit_patches};
use ibot::embedding::{FeatureKind, FolderRequest};
use ibot::files::model::ModelOptions;
use image::{GrayImage, Luma, Rgb, RgbImage};

use crate::tiny_model::{Scratch, WIDTH};

/// Three images of 32 x 32 pixels; masks with class 1 in the left 12, 16 and 20 columns, 0 right of them, the first 8 rows
/// ignored.
fn masked(scratch: &Scratch) -> Arc<MaskedImages> {
    let [images, masks] = ["images", "masks"].map(|name| scratch.path(name));
    for (at, split) in [12, 16, 20].into_iter().enumerate() {
        for folder in [&images, &masks] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let name = format!("{at}.png");
        let image = RgbImage::from_fn(32, 32, |x, y| {
            Rgb([x as u8 * 8, y as u8 * 8, at as u8 * 90])
        });
        image.save(images.join(&name)).unwrap();
        let class = |x: u32, y: u32| if y < 8 { 255 } else { u8::from(x < split) };
        GrayImage::from_fn(32, 32, |x, y| Luma([class(x, y)]))
            .save(masks.join(&name))
            .unwrap();
    }
    let folder = ImageFolder::scan(&images, &FolderConfig::default()).unwrap();
    let (images, without) = MaskedImages::new(
        &folder,
        Masks::Folder(masks),
        (EvalFit::Margin, 32),
        1 << 20,
    )
    .unwrap();
    assert!(without.is_empty());
    Arc::new(images)
}

fn embedder(scratch: &Scratch, depth: usize) -> Embedder {
    let device = select(BackendChoice::Flex, None).unwrap();
    Embedder::load(&scratch.model(depth), &ModelOptions::default(), &device).unwrap()
}

#[test]
fn mean_iou_is_the_one_counted_by_hand() {
    let scratch = Scratch::new("segmentation");
    let (embedder, images) = (embedder(&scratch, 1), masked(&scratch));
    // class 1 in the left half of any image, 0 in the right one; and class 1 everywhere
    let halves: Vec<f64> = (0..16)
        .flat_map(|at| if at % 4 < 2 { [0.0, 1.0] } else { [1.0, 0.0] })
        .collect();
    let ones = [0.0, 1.0].repeat(16);
    let scores = |patches: &[f32]| {
        assert_eq!(patches.len(), 16 * WIDTH);
        vec![halves.clone(), ones.clone()]
    };
    let mut seen = Vec::new();
    let request = PatchRequest::default();
    let (confusions, visited) = segment(
        &embedder,
        &images,
        &request,
        &[0, 1],
        &scores,
        &mut |image| {
            assert_eq!(image.predicted[0][..32], [[1; 16], [0; 16]].concat());
            seen.push(image.sample);
            Ok(())
        },
    )
    .unwrap();
    assert_eq!((seen, visited.skipped.len()), (vec![0, 1, 2], 0));
    // 24 rows: of class 1 there are 12, 16 and 20 columns, of which 12, 16 and 16 lie in the left half
    assert_eq!(confusions[0].total(), 24 * 96);
    let of_1 = (12.0 + 16.0 + 16.0) / (48.0 + 48.0 - 44.0);
    let of_0 = (16.0 + 16.0 + 12.0) / (48.0 + 48.0 - 44.0);
    assert_eq!(
        [0, 1].map(|class| confusions[0].iou(class)),
        [Some(of_0), Some(of_1)]
    );
    assert_eq!(confusions[0].mean_iou(), Some((of_0 + of_1) / 2.0));
    assert_eq!(confusions[0].accuracy(), Some(88.0 / 96.0));
    assert_eq!(confusions[1].mean_iou(), Some(0.25));
    assert_eq!(confusions[1], confusions[1].constant());
}

#[test]
fn patches_lie_over_the_pixels_of_their_mask() {
    let scratch = Scratch::new("patch-rows");
    let (embedder, images) = (embedder(&scratch, 2), masked(&scratch));
    let request = PatchRequest {
        layers: 2,
        batch_size: 2,
        ..PatchRequest::default()
    };
    let mut made = Vec::new();
    let (rows, _) = patch_rows(&embedder, &images, &request, None, 0, &mut |count| {
        made.push(count);
    })
    .unwrap();
    assert_eq!(
        (rows.width, rows.len(), made),
        (2 * WIDTH, 3 * 12, vec![2, 3])
    );
    // the second row of patches is the first that counts: columns 0..8, 8..16, 16..24 of the first image
    let covers = [
        vec![(1, 64)],
        vec![(0, 32), (1, 32)],
        vec![(0, 64)],
        vec![(0, 64)],
    ];
    assert_eq!(rows.covers[..4], covers);
    assert_eq!(
        rows.covers[24..28],
        [
            vec![(1, 64)],
            vec![(1, 64)],
            vec![(0, 32), (1, 32)],
            vec![(0, 64)]
        ]
    );
    assert_eq!(rows.images[11..13], [0, 1]);
    // and the features are those of the patches, the last block's last
    let mut all = Vec::new();
    visit_patches(&embedder, images.clone(), &request, &mut |batch| {
        all.extend(batch.patches);
        Ok(true)
    })
    .unwrap();
    assert_eq!(
        rows.features[..12 * 2 * WIDTH],
        all[4 * 2 * WIDTH..16 * 2 * WIDTH]
    );
    let folder = Arc::new(images.folder().clone());
    let means = FolderRequest {
        kind: FeatureKind::Patch,
        ..FolderRequest::default()
    };
    let means = embed_folder(&embedder, &folder, &means, &mut |_| true).unwrap();
    for at in 0..WIDTH {
        let mean = all[..16 * 2 * WIDTH]
            .iter()
            .skip(WIDTH + at)
            .step_by(2 * WIDTH)
            .sum::<f32>()
            / 16.0;
        assert!((mean - means.set.features[at]).abs() < 1e-4);
    }
    // some of each, the same ones for the same seed
    let some = |seed| {
        patch_rows(&embedder, &images, &request, Some(5), seed, &mut |_| {})
            .unwrap()
            .0
    };
    assert!(some(1).len() <= 15 && some(1) == some(1) && some(1).features != some(2).features);
    let none = PatchRequest {
        layers: 3,
        ..request
    };
    let message = patch_rows(&embedder, &images, &none, None, 0, &mut |_| {}).unwrap_err();
    assert!(message.to_string().contains("from 1 to 2"), "{message}");
}
