//! The samples of a TIFF image as 8-bit RGB on white.

use image::RgbImage;
use tiff::decoder::DecodingResult;

use crate::data::decode::tiff::layout::{Alpha, Color, Layout};

/// The image that `samples` are, in one plane or in one for each.
pub fn to_rgb(
    layout: &Layout,
    samples: DecodingResult,
    is_planar: bool,
) -> Result<RgbImage, String> {
    let is_rgb = (&layout.color, layout.samples, layout.bits) == (&Color::Rgb, 3, 8);
    let samples = match samples {
        DecodingResult::U8(values) if is_rgb && !is_planar => {
            return RgbImage::from_raw(layout.width, layout.height, values)
                .ok_or_else(|| "damaged: rows are missing".to_owned());
        }
        samples => samples,
    };
    let (width, height) = (layout.width as usize, layout.height as usize);
    // Rows of less than 8 bits are padded to whole bytes.
    let row_samples = |samples: usize| match layout.bits {
        1..=7 => (width * samples * layout.bits as usize).div_ceil(8),
        _ => width * samples,
    };
    let mut unpacked = vec![0; width * layout.samples];
    let mut image = RgbImage::new(layout.width, layout.height);
    let row_bytes = 3 * width;
    for (y, out) in image.chunks_exact_mut(row_bytes).enumerate() {
        if is_planar {
            let length = row_samples(1);
            for plane in 0..layout.samples {
                let start = (plane * height + y) * length;
                let target = unpacked.iter_mut().skip(plane).step_by(layout.samples);
                unpack(&samples, start, layout, target);
            }
        } else {
            let start = y * row_samples(layout.samples);
            unpack(&samples, start, layout, unpacked.iter_mut());
        }
        for (pixel, out) in unpacked
            .chunks_exact(layout.samples)
            .zip(out.chunks_exact_mut(3))
        {
            out.copy_from_slice(&color(layout, pixel));
        }
    }
    Ok(image)
}

/// Samples from place `start` on as 8 bits; those of a palette, and of less than 8 bits, as they are.
fn unpack<'a>(
    samples: &DecodingResult,
    start: usize,
    layout: &Layout,
    target: impl Iterator<Item = &'a mut u8>,
) {
    fn put<'a, T: Copy>(
        values: &[T],
        start: usize,
        target: impl Iterator<Item = &'a mut u8>,
        to_u8: impl Fn(T) -> u8,
    ) {
        let values = values.get(start..).unwrap_or_default();
        for (target, value) in target.zip(values) {
            *target = to_u8(*value);
        }
    }
    match samples {
        DecodingResult::U8(values) if layout.bits < 8 => {
            let bits = layout.bits as usize;
            for (at, target) in target.enumerate() {
                let bit = at * bits;
                // A sample of 3, 5, 6 or 7 bits may lie in two bytes.
                let byte = |at: usize| u16::from(values.get(at).copied().unwrap_or(0));
                let pair = byte(start + bit / 8) << 8 | byte(start + bit / 8 + 1);
                *target = (pair << (bit % 8) >> (16 - bits)) as u8;
            }
        }
        DecodingResult::U8(values) => put(values, start, target, |v| v),
        // as `image` does
        DecodingResult::U16(values) => {
            put(values, start, target, |v| {
                ((u32::from(v) + 128) / 257) as u8
            });
        }
        DecodingResult::F16(values) => put(values, start, target, |v| of_float(v.to_f32())),
        DecodingResult::F32(values) => put(values, start, target, of_float),
        DecodingResult::F64(values) => put(values, start, target, |v| of_float(v as f32)),
        // refused by its layout
        _ => {}
    }
}

fn of_float(value: f32) -> u8 {
    (value * 255.0).round() as u8
}

/// A pixel on white.
fn color(layout: &Layout, pixel: &[u8]) -> [u8; 3] {
    let most = (1_u32 << layout.bits.min(8)) - 1;
    let full = |value: u8| match most {
        255 => value.into(),
        most => (u32::from(value) * 255 + most / 2) / most,
    };
    let at = |at: usize| full(pixel[at]);
    let rgb = match &layout.color {
        Color::Gray { is_inverted: true } => [255 - at(0); 3],
        Color::Gray { is_inverted: false } => [at(0); 3],
        Color::Rgb => [at(0), at(1), at(2)],
        Color::Cmyk => {
            let paper = 255 - at(3);
            [0, 1, 2].map(|ink| ((255 - at(ink)) * paper + 127) / 255)
        }
        Color::YCbCr(shares) => of_ycbcr([at(0), at(1), at(2)], shares),
        Color::Palette(colors) => colors
            .get(usize::from(pixel[0]))
            .map_or([0; 3], |color| color.map(u32::from)),
    };
    let alpha = pixel
        .get(layout.color.samples())
        .map_or(255, |alpha| full(*alpha));
    let on_white = match layout.alpha {
        Alpha::None => rgb,
        // round(alpha * color + (1 - alpha) * white) in whole numbers
        Alpha::Straight => rgb.map(|color| (color * alpha + 255 * (255 - alpha) + 127) / 255),
        Alpha::Premultiplied => rgb.map(|color| color + 255 - alpha),
    };
    on_white.map(|color| color.min(255) as u8)
}

/// TIFF 6.0, section 21.
fn of_ycbcr(pixel: [u32; 3], [red, green, blue]: &[f32; 3]) -> [u32; 3] {
    let [luma, cb, cr] = pixel.map(|value| value as f32);
    let r = luma + (cr - 128.0) * (2.0 - 2.0 * red);
    let b = luma + (cb - 128.0) * (2.0 - 2.0 * blue);
    let g = (luma - blue * b - red * r) / green;
    [r, g, b].map(|value| value.round().clamp(0.0, 255.0) as u32)
}
