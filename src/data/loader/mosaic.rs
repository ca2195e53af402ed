//! The first views of a run on one image, to see what the networks see before hours are spent.

use image::imageops::{FilterType, overlay, resize};
use image::{Rgb, RgbImage};

use crate::data::ImageSource;
use crate::data::folder::order::Order;
use crate::data::loader::TrainViews;
use crate::data::views::augment::ViewKind;
use crate::data::views::view::{Augmenter, View};
use crate::error::{Error, Result};

/// Pixels between the images.
const GAP: u32 = 6;
/// Least and largest side of an image on it.
const SIDES: [u32; 2] = [96, 160];
/// What masked patches are mixed with.
const MASKED: [u16; 3] = [128, 128, 128];

/// A row for each of the first `rows` examples of the first epoch: the image or tile, its global views with the patches that
/// the student does not see in gray, and its local views; as [`crate::data::Loader`] makes them with this seed. Small views are
/// enlarged with hard edges. Examples that cannot be decoded are passed over.
///
/// # Errors
/// None of the first examples can be decoded.
pub fn views_mosaic(
    source: &dyn ImageSource,
    make: &TrainViews,
    seed: u64,
    rows: usize,
) -> Result<RgbImage> {
    let order = Order::of(source, seed, 0);
    let shown = (0..order.len().min(4 * rows))
        .map(|position| order.at(position))
        .filter_map(|sample| Some((sample, source.decode(sample).ok()?)))
        .filter(|(_, image)| !image.is_empty())
        .take(rows);
    let mut made = Vec::new();
    for (sample, image) in shown {
        made.push(row(&image, make, seed, sample)?);
    }
    if made.is_empty() {
        let reason = "none of the first images can be decoded";
        return Err(Error::Loader(reason.to_owned()));
    }
    let width = |row: &[RgbImage]| row.iter().map(|cell| cell.width() + GAP).sum::<u32>();
    let height = |row: &[RgbImage]| row.iter().map(RgbImage::height).max().unwrap_or(0);
    let whole = [
        made.iter().map(|row| width(row)).max().unwrap_or(0) + GAP,
        made.iter().map(|row| height(row) + GAP).sum::<u32>() + GAP,
    ];
    let mut mosaic = RgbImage::from_pixel(whole[0], whole[1], Rgb([255; 3]));
    let mut y = GAP;
    for row in &made {
        let mut x = GAP;
        for cell in row {
            overlay(&mut mosaic, cell, x.into(), y.into());
            x += cell.width() + GAP;
        }
        y += height(row) + GAP;
    }
    Ok(mosaic)
}

fn row(image: &RgbImage, make: &TrainViews, seed: u64, sample: usize) -> Result<Vec<RgbImage>> {
    let augment = &make.augment;
    let size = [image.width(), image.height()];
    let side = (augment.image_size as u32).clamp(SIDES[0], SIDES[1]);
    let mut cells = vec![fitted(image, side)];
    for number in 0..augment.views() {
        let kind = augment.kind(number);
        let view = View::new(augment, seed, 0, sample, number, size);
        let mut seen = Augmenter::of_kind(augment, kind)
            .render(image, &view)?
            .image();
        if number < augment.global_views {
            let mask = make.masks.mask(seed, 0, sample, number, make.grid);
            gray_out(&mut seen, &mask, make.grid);
        }
        // local views keep their size beside the global ones
        let side = match kind {
            ViewKind::Local => side * augment.local_size as u32 / augment.image_size as u32,
            _ => side,
        };
        cells.push(fitted(&seen, side.max(1)));
    }
    Ok(cells)
}

/// The image with its longer side at `side` pixels.
fn fitted(image: &RgbImage, side: u32) -> RgbImage {
    let longer = image.width().max(image.height());
    let scaled = |length: u32| {
        let scaled = u64::from(length) * u64::from(side) / u64::from(longer);
        (scaled as u32).max(1)
    };
    let filter = if longer < side {
        FilterType::Nearest
    } else {
        FilterType::Triangle
    };
    resize(image, scaled(image.width()), scaled(image.height()), filter)
}

/// Mixes the masked patches of a view with gray.
fn gray_out(view: &mut RgbImage, mask: &[bool], [rows, columns]: [usize; 2]) {
    if mask.len() != rows * columns {
        return;
    }
    let [width, height] = [view.width(), view.height()].map(|side| side as usize);
    for (x, y, pixel) in view.enumerate_pixels_mut() {
        let (row, column) = (y as usize * rows / height, x as usize * columns / width);
        if mask[row * columns + column] {
            for (value, gray) in pixel.0.iter_mut().zip(MASKED) {
                *value = ((u16::from(*value) + 5 * gray) / 6) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::data::{AugmentConfig, Shuffle};
    use crate::masking::MaskPolicy;

    struct Two;

    impl ImageSource for Two {
        fn len(&self) -> usize {
            3
        }

        fn name(&self, index: usize) -> PathBuf {
            index.to_string().into()
        }

        fn decode(&self, index: usize) -> Result<RgbImage> {
            match index {
                2 => Err(Error::data("2", "damaged")),
                _ => Ok(RgbImage::from_pixel(40, 20, Rgb([200, 0, 0]))),
            }
        }
    }

    fn mosaic(rows: usize) -> Result<RgbImage> {
        let make = TrainViews {
            augment: AugmentConfig {
                image_size: 32,
                local_views: 2,
                local_size: 16,
                ..AugmentConfig::default()
            },
            masks: MaskPolicy::default(),
            grid: [4, 4],
        };
        views_mosaic(&Two, &make, 1, rows)
    }

    #[test]
    fn a_row_has_the_image_and_its_views() {
        let both = mosaic(8).unwrap();
        // 96 wide each, two local views of 48; one that is damaged is passed over
        assert_eq!(both.dimensions(), (3 * 102 + 2 * 54 + 6, 2 * 102 + 6));
        assert_eq!(*both.get_pixel(6, 6), Rgb([200, 0, 0]));
        assert_eq!(*both.get_pixel(0, 0), Rgb([255; 3]));
        assert_eq!(both, mosaic(2).unwrap());
        assert_eq!(mosaic(1).unwrap().height(), 108);
        assert!(mosaic(0).is_err());
    }

    /// Images each of its own gray, in an order that is not that of small sets.
    struct InBlocks;

    impl ImageSource for InBlocks {
        fn len(&self) -> usize {
            200
        }

        fn name(&self, index: usize) -> PathBuf {
            index.to_string().into()
        }

        fn shuffle(&self) -> Shuffle {
            Shuffle::Blocks
        }

        fn decode(&self, index: usize) -> Result<RgbImage> {
            Ok(RgbImage::from_pixel(40, 20, Rgb([index as u8; 3])))
        }
    }

    #[test]
    fn the_first_images_are_those_of_the_loader() {
        let make = TrainViews {
            augment: AugmentConfig {
                image_size: 32,
                ..AugmentConfig::default()
            },
            masks: MaskPolicy::default(),
            grid: [4, 4],
        };
        let drawn = views_mosaic(&InBlocks, &make, 1, 1).unwrap();
        let first = |shuffle| Order::new(shuffle, 1, 0, InBlocks.len()).at(0) as u8;
        assert_ne!(first(Shuffle::Blocks), first(Shuffle::All));
        assert_eq!(drawn.get_pixel(6, 6).0, [first(Shuffle::Blocks); 3]);
    }

    #[test]
    fn masked_patches_are_gray() {
        let mut view = RgbImage::from_pixel(8, 8, Rgb([200, 0, 0]));
        gray_out(&mut view, &[false, true, false, false], [2, 2]);
        assert_eq!(*view.get_pixel(3, 3), Rgb([200, 0, 0]));
        assert_eq!(*view.get_pixel(4, 0), Rgb([140, 106, 106]));
        assert_eq!(*view.get_pixel(4, 4), Rgb([200, 0, 0]));
    }
}
