//! Reads the images that `tests/fixtures/fuzz_images.py` makes, which then compares them with Pillow's.

use std::fs;
use std::path::{Path, PathBuf};

use ibot::data::decode::decode_rgb;
use ibot::data::header::read_header;

use super::MAX_PIXELS;

/// Writes `read/NAME.rgb` (width and height, 32 bits each, little-endian, and the pixels), or `read/NAME.skipped` with
/// the reason, or nothing where a scan would not name the file.
fn read(folder: &Path, path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let write = |ending: &str, bytes: &[u8]| {
        let name = format!("read/{name}.{ending}");
        fs::write(folder.join(name), bytes).unwrap();
    };
    let image = match read_header(path, MAX_PIXELS) {
        Ok(None) => return,
        Ok(Some(header)) if header.pixels() == 0 => return write("skipped", b"no pixels"),
        Ok(Some(_)) => decode_rgb(path, MAX_PIXELS),
        Err(error) => Err(error),
    };
    match image {
        Ok(image) => {
            let size = [image.width(), image.height()].map(u32::to_le_bytes);
            write("rgb", &[size.as_flattened(), &image].concat());
        }
        Err(error) => write("skipped", error.to_string().as_bytes()),
    }
}

#[test]
#[ignore = "reads the folder that IBOT_IMAGES names: see tests/fixtures/fuzz_images.py"]
fn a_folder_is_read_for_the_comparison_with_pillow() {
    let folder = PathBuf::from(std::env::var_os("IBOT_IMAGES").unwrap());
    fs::create_dir_all(folder.join("read")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(folder.join("images")).unwrap() {
        read(&folder, &entry.unwrap().path());
        count += 1;
    }
    assert!(count > 0, "no image in {}", folder.display());
    println!("{count} images are read");
}
