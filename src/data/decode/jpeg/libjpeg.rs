//! libjpeg-turbo's decoder (in mozjpeg), strict: damage that it would paint over is an error.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{JERR_FRACT_SAMPLE_NOTIMPL, jpeg_common_struct, jpeg_error_mgr};

pub const NO_END: &str = "truncated: its end marker is missing";
/// Bytes that libjpeg is given at a time where the end of the data matters.
const PIECE: usize = 16;
/// This many equal bytes at the end of the data mean that the file was never completely written.
const FILLED: usize = 32;
/// libjpeg's JWRN_ARITH_BAD_CODE; the list of mozjpeg-sys 2.2 is that of a build without arithmetic coding.
const ARITHMETIC_BAD_CODE: c_int = 126;
/// libjpeg's DSTATE_INHEADER.
const IN_HEADER: c_int = 201;

/// The image in `bytes`, with this many color components. Without an end marker (`is_complete` false) its data must end
/// before the file does, as in phones' panoramas, whose makers append their own data.
pub fn decode(bytes: &[u8], components: usize, is_complete: bool) -> Result<RgbImage, String> {
    let given = Cell::new(0);
    let piece = if is_complete { bytes.len() } else { PIECE };
    let source = Source {
        rest: bytes,
        piece,
        given: &given,
    };
    // libjpeg leaves by unwinding at an error, without a panic's message.
    let decoded = catch_unwind(AssertUnwindSafe(|| read(source, components)));
    let image = match decoded {
        Ok(image) => image.map_err(|error| error.to_string()),
        Err(reason) => Err(reason.downcast().map_or_else(
            |_| "the decoder failed on it".to_owned(),
            |reason: Box<String>| *reason,
        )),
    };
    if !is_complete {
        let data = &bytes[..given.get()];
        let is_filled = data
            .windows(FILLED)
            .rev()
            .take(2 * FILLED)
            .any(|window| window.iter().all(|byte| *byte == window[0]));
        if image.is_err() || data.len() == bytes.len() || is_filled {
            return Err(NO_END.to_owned());
        }
    }
    image
}

fn read(source: Source, components: usize) -> io::Result<RgbImage> {
    let decoder = Decompress::with_err(errors()).from_reader(source)?;
    let (width, height) = (decoder.width() as u32, decoder.height() as u32);
    let pixels = if components == 4 {
        let mut started = decoder.to_colorspace(ColorSpace::JCS_CMYK)?;
        let inks: Vec<[u8; 4]> = started.read_scanlines()?;
        inks.iter().flat_map(of_cmyk).collect()
    } else {
        decoder.rgb()?.read_scanlines()?
    };
    RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| io::Error::other("damaged: rows are missing"))
}

/// Inverted, as Adobe writes them and all programs take them.
fn of_cmyk([c, m, y, k]: &[u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| ((u32::from(*ink) * u32::from(*k) + 127) / 255) as u8)
}

fn errors() -> jpeg_error_mgr {
    // SAFETY: a table of optional functions, numbers and pointers, for which zeros are values; `jpeg_std_error` fills it.
    let mut errors: jpeg_error_mgr = unsafe { std::mem::zeroed() };
    // SAFETY: fills the table that it is given.
    unsafe { mozjpeg_sys::jpeg_std_error(&mut errors) };
    errors.error_exit = Some(leave);
    errors.emit_message = Some(judge);
    errors
}

extern "C-unwind" fn leave(info: &mut jpeg_common_struct) {
    // SAFETY: libjpeg calls it with the table that it was given.
    let number = unsafe { info.err.as_ref() }.map_or(0, |errors| errors.msg_code);
    let reason = match number {
        JERR_FRACT_SAMPLE_NOTIMPL => {
            "JPEG with these sampling factors is not supported; save it as PNG or baseline JPEG"
                .to_owned()
        }
        number => format!("damaged: invalid headers (libjpeg error {number})"),
    };
    resume_unwind(Box::new(reason));
}

/// A warning (level -1) that data is missing or makes no sense is an error; one about markers is none.
extern "C-unwind" fn judge(info: &mut jpeg_common_struct, level: c_int) {
    use mozjpeg_sys::{
        JWRN_EXTRANEOUS_DATA, JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_JPEG_EOF, JWRN_MUST_RESYNC,
    };
    if level != -1 {
        return;
    }
    // SAFETY: libjpeg calls it with the table that it was given.
    let number = unsafe { info.err.as_ref() }.map_or(0, |errors| errors.msg_code);
    let reason = match number {
        JWRN_JPEG_EOF | JWRN_HIT_MARKER => "truncated: its data ends too early",
        JWRN_HUFF_BAD_CODE | ARITHMETIC_BAD_CODE => "damaged: invalid data",
        // Some cameras fill up their headers.
        JWRN_EXTRANEOUS_DATA if info.global_state <= IN_HEADER => return,
        JWRN_EXTRANEOUS_DATA | JWRN_MUST_RESYNC => "damaged: data between its scans",
        _ => return,
    };
    resume_unwind(Box::new(reason.to_owned()));
}

/// A file in memory, given in pieces, so that it is known how far libjpeg came.
struct Source<'a> {
    rest: &'a [u8],
    piece: usize,
    /// Bytes that libjpeg was given so far.
    given: &'a Cell<usize>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let piece = &self.rest[..self.piece.min(self.rest.len())];
        self.given.set(self.given.get() + piece.len());
        Ok(piece)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }
}
