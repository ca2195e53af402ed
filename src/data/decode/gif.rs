//! The screen of a GIF file: decoders cut the first frame to it, viewers widen it.

use std::io::{BufRead, BufReader, Cursor, Read, Result};

/// Width and height of the screen, or more where the first frame needs more, as in viewers.
pub fn screen(file: impl Read) -> Result<[u32; 2]> {
    let mut file = BufReader::new(file);
    let header: [u8; 13] = bytes(&mut file)?;
    let mut screen = [pair(&header[6..]), pair(&header[8..])];
    skip_palette(&mut file, header[10])?;
    loop {
        match bytes(&mut file)? {
            // an extension: its label and blocks
            [0x21] => {
                let [_label] = bytes(&mut file)?;
                loop {
                    let [length] = bytes(&mut file)?;
                    if length == 0 {
                        break;
                    }
                    skip(&mut file, length.into())?;
                }
            }
            // a frame
            [0x2c] => {
                let place: [u8; 8] = bytes(&mut file)?;
                for (axis, size) in screen.iter_mut().enumerate() {
                    let end = pair(&place[2 * axis..]) + pair(&place[4 + 2 * axis..]);
                    *size = end.max(*size);
                }
                return Ok(screen);
            }
            // the end, or damage, which the decoder will name
            _ => return Ok(screen),
        }
    }
}

/// Sets the screen so that the first frame is not cut.
pub fn widen_screen(file: &mut [u8]) {
    let Ok(screen) = screen(Cursor::new(&*file)) else {
        return;
    };
    for (axis, size) in screen.into_iter().enumerate() {
        let size = u16::try_from(size).unwrap_or(u16::MAX);
        file[6 + 2 * axis..][..2].copy_from_slice(&size.to_le_bytes());
    }
}

fn skip_palette(file: &mut impl BufRead, flags: u8) -> Result<()> {
    match flags & 0x80 {
        0 => Ok(()),
        _ => skip(file, 3 << ((flags & 7) + 1)),
    }
}

fn skip(file: &mut impl BufRead, length: u64) -> Result<()> {
    std::io::copy(&mut file.take(length), &mut std::io::sink()).map(|_| ())
}

fn pair(bytes: &[u8]) -> u32 {
    u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn bytes<const N: usize>(file: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
