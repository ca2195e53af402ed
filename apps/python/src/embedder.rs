//! A model that turns images into features.

use std::ffi::OsString;
use std::path::PathBuf;

use ibot::app::{
    DeviceRequest, EmbedRequest, EmbedderConfig, EmbedderHandle, ImageFeatures, ImageInput,
    ModelInfo,
};
use ibot::backbone::Normalization;
use ibot::data::ValueRange;
use ibot::device::BackendChoice;
use ibot::files::model::{ModelOptions, ModelSource};
use ibot::precision::Precision;
use ibot::{Error, Result};
use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyByteArray;

use crate::choice::choice;
use crate::errors::raised;
use crate::waiting::result_of;

/// An image as Python gives it.
#[derive(FromPyObject)]
enum Given {
    /// Width, height, channels (1, 3 or 4), bytes of a value (1 or 2, in the processor's order) and the values, row by row from the
    /// top.
    Pixels(u32, u32, u8, u8, PyBackedBytes),
    Path(PathBuf),
}

impl Given {
    fn image(self) -> Result<ImageInput> {
        let (width, height, channels, depth, bytes) = match self {
            Self::Path(path) => return Ok(path.into()),
            Self::Pixels(width, height, channels, depth, bytes) => {
                (width, height, channels, depth, bytes)
            }
        };
        let wide = || of_16_bits(&bytes);
        let image: Option<DynamicImage> = match (depth, channels) {
            (1, 1) => GrayImage::from_raw(width, height, bytes.to_vec()).map(Into::into),
            (1, 3) => RgbImage::from_raw(width, height, bytes.to_vec()).map(Into::into),
            (1, 4) => RgbaImage::from_raw(width, height, bytes.to_vec()).map(Into::into),
            (2, 1) => ImageBuffer::<Luma<u16>, _>::from_raw(width, height, wide()).map(Into::into),
            (2, 3) => ImageBuffer::<Rgb<u16>, _>::from_raw(width, height, wide()).map(Into::into),
            (2, 4) => ImageBuffer::<Rgba<u16>, _>::from_raw(width, height, wide()).map(Into::into),
            _ => None,
        };
        image.map(ImageInput::from).ok_or_else(|| {
            let value = format!("{width} x {height} x {channels}");
            let remedy = "must have 1, 3 or 4 channels of 8 or 16 bits";
            Error::config("images", value, remedy)
        })
    }
}

fn of_16_bits(bytes: &[u8]) -> Vec<u16> {
    let (values, _) = bytes.as_chunks::<2>();
    values
        .iter()
        .map(|pair| u16::from_ne_bytes(*pair))
        .collect()
}

/// What of an image is returned.
#[derive(Clone, Copy)]
enum Output {
    Cls,
    Patches,
    Attention,
}

/// The words of `output`.
const OUTPUTS: &[(&str, Output)] = &[
    ("cls", Output::Cls),
    ("patches", Output::Patches),
    ("attention", Output::Attention),
];

impl Output {
    fn request(self, images: Vec<ImageInput>) -> EmbedRequest {
        let request = EmbedRequest::new(images);
        match self {
            Self::Cls => request,
            Self::Patches => request.with_patches(),
            Self::Attention => request.with_attention(),
        }
    }

    fn values(self, features: &ImageFeatures) -> &[f32] {
        match self {
            Self::Cls => &features.cls,
            Self::Patches => &features.patches,
            Self::Attention => &features.attention,
        }
    }

    /// Shape of one image's values.
    fn shape(self, info: &ModelInfo) -> Vec<usize> {
        let [rows, columns] = info.grid;
        match self {
            Self::Cls => vec![info.width],
            Self::Patches => vec![rows, columns, info.width],
            Self::Attention => vec![info.heads, rows, columns],
        }
    }
}

/// A model on one device; all its work is done on a thread of its own.
#[pyclass(frozen)]
pub struct Embedder {
    handle: EmbedderHandle,
    info: ModelInfo,
    /// The process that has the thread.
    process: u32,
}

/// Values of all images, the shape of one image's, and the numbers and errors of those that could not be read.
type Computed<'py> = (Bound<'py, PyByteArray>, Vec<usize>, Vec<(usize, String)>);

impl Drop for Embedder {
    /// Waits for a batch that is computed, without the GIL: other threads of Python go on meanwhile.
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // a forked process has no thread to wait for; a clone that stays keeps the handle from waiting
            std::mem::forget(self.handle.clone());
            return;
        }
        Python::attach(|py| py.detach(|| self.handle.close()));
    }
}

#[pymethods]
impl Embedder {
    #[new]
    #[pyo3(signature = (model, *, backend, device, encoder, image_size, normalization, range, max_pixels, precision, batch_size))]
    #[allow(clippy::too_many_arguments, reason = "Python's keywords")]
    fn new(
        py: Python<'_>,
        model: OsString,
        backend: &str,
        device: Option<String>,
        encoder: Option<String>,
        image_size: Option<usize>,
        normalization: Option<String>,
        range: &str,
        max_pixels: u64,
        precision: &str,
        batch_size: usize,
    ) -> PyResult<Self> {
        let start = || -> Result<EmbedderHandle> {
            // wrong arguments are told before a model is downloaded
            let normalization = normalization.as_deref().map(normalization_of).transpose()?;
            let range = range_of(range)?;
            let precision = precision.parse::<Precision>()?;
            let local = ModelSource::from(model).resolve()?;
            let config = EmbedderConfig {
                options: ModelOptions {
                    encoder,
                    image_size,
                    normalization,
                    range,
                    precision,
                    described: local.described,
                },
                device: DeviceRequest::Choose(backend.parse::<BackendChoice>()?, device),
                batch_size,
                max_pixels,
                // nobody draws frames on this device
                batch_time: None,
                ..EmbedderConfig::new(local.file)
            };
            config.start()
        };
        let handle = py.detach(start).map_err(raised)?;
        match result_of(py, handle.load(), None) {
            Ok(info) => Ok(Self {
                handle,
                info,
                process: std::process::id(),
            }),
            Err(error) => {
                py.detach(|| handle.close());
                Err(error)
            }
        }
    }

    /// The values of all images in their order as 32-bit floats, the shape of one image's, and the numbers and errors of
    /// images that could not be read, whose values are NaN.
    fn embed<'py>(
        &self,
        py: Python<'py>,
        images: Vec<Given>,
        output: &str,
        on_progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Computed<'py>> {
        let output = choice("output", output, OUTPUTS).map_err(raised)?;
        // other threads of Python go on while pixels are copied
        let images = py.detach(|| images.into_iter().map(Given::image).collect::<Result<_>>());
        let images = images.map_err(raised)?;
        let job = self.handle.embed(output.request(images));
        let results = result_of(py, job, on_progress)?;

        let shape = output.shape(&self.info);
        let bytes_each = 4 * shape.iter().product::<usize>();
        let mut unreadable = Vec::new();
        let values = PyByteArray::new_with(py, bytes_each * results.len(), |all| {
            for (at, (into, result)) in all.chunks_exact_mut(bytes_each).zip(&results).enumerate() {
                match result {
                    Ok(features) => fill(into, output.values(features).iter().copied()),
                    Err(error) => {
                        unreadable.push((at, error.to_string()));
                        fill(into, std::iter::repeat(f32::NAN));
                    }
                }
            }
            Ok(())
        })?;
        Ok((values, shape, unreadable))
    }

    /// Frees the model; the next request loads it again.
    fn unload(&self) {
        self.handle.unload();
    }

    /// Width of a feature.
    #[getter]
    fn width(&self) -> usize {
        self.info.width
    }

    /// Rows and columns of patches.
    #[getter]
    fn grid(&self) -> (usize, usize) {
        let [rows, columns] = self.info.grid;
        (rows, columns)
    }

    /// Heads of the attention.
    #[getter]
    fn heads(&self) -> usize {
        self.info.heads
    }

    /// Backend and device.
    #[getter]
    fn device(&self) -> &str {
        &self.info.device
    }

    /// What the file says of itself, as JSON; null for a file of another program.
    #[getter]
    fn card(&self) -> String {
        serde_json::json!(self.info.card).to_string()
    }
}

fn normalization_of(text: &str) -> Result<Normalization> {
    let wrong = |reason: String| Error::config("normalization", text, reason);
    text.parse().map_err(wrong)
}

fn range_of(text: &str) -> Result<ValueRange> {
    let wrong = |reason: String| Error::config("range", text, reason);
    text.parse().map_err(wrong)
}

fn fill(into: &mut [u8], values: impl Iterator<Item = f32>) {
    for (into, value) in into.chunks_exact_mut(4).zip(values) {
        into.copy_from_slice(&value.to_ne_bytes());
    }
}
