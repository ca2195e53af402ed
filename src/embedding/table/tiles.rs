//! Features of tiles of images on disk: a row a tile.
//!
//! | ending         | holds                                                                                              |
//! |----------------|----------------------------------------------------------------------------------------------------|
//! | `.npy`         | `[T, D]`; `FILE.tiles.csv` beside it has path, label, x, y, width and height of each of the T      |
//! | `.safetensors` | `tile_features` `[T, D]`; paths, labels and tiles `[x, y, width, height]` as JSON in the metadata   |
//! | `.csv`         | a line a tile: path, label, x, y, width, height, f0, f1, ...                                        |
//! | `.parquet`     | a row a tile: path, label, x, y, width, height, embedding (a list of D floats)                      |
//!
//! x and y are the tile's left and upper edge in pixels of the upright image.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::Int32Type;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::csv_text::{field, label_field};
use crate::data::TileArea;
use crate::embedding::table::csv::{write_names, write_numbers};
use crate::embedding::table::format::{TableFormat, check_files, files_of};
use crate::embedding::table::npy::{header, publish};
use crate::embedding::table::parquet::{self as columns, VALUES_IN_GROUP};
use crate::embedding::table::safetensors::check_header;
use crate::error::{Error, Result};
use crate::files::{safetensors_header, write_values};
use crate::precision::Precision;
use crate::unfinished::Unfinished;

const COLUMNS: &str = "path,label,x,y,width,height";

const SCHEMA: &str = "message schema {
    required binary path (STRING);
    optional binary label (STRING);
    required int32 x;
    required int32 y;
    required int32 width;
    required int32 height;
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// Name of the tensor.
pub(super) const TILE_FEATURES: &str = "tile_features";

/// Features of tiles, with where each is from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TileTable {
    /// The image of each row, absolute, `[T]`; see [`crate::path_text`].
    pub paths: Vec<String>,
    /// Its class, where it has one, `[T]`.
    pub labels: Vec<Option<String>>,
    /// Where the tile lies in it, `[T]`.
    pub areas: Vec<TileArea>,
    /// Width D.
    pub width: usize,
    /// Row-major `[T, D]`.
    pub features: Vec<f32>,
    /// BLAKE3 of the model file; kept by `.safetensors` alone.
    pub model: String,
    /// Which features they are; kept by `.safetensors` alone.
    pub recipe: String,
}

impl TileTable {
    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there is no tile.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Refuses a path that [`Self::write`] cannot write to, before the work starts.
    ///
    /// # Errors
    /// Those of [`crate::embedding::EmbeddingTable::check_path`].
    pub fn check_path(path: &Path) -> Result<()> {
        TableFormat::from_path(path)?;
        check_files(&Self::written(path))
    }

    /// The files that [`Self::write`] makes: `path`, and the places beside a `.npy`.
    pub fn written(path: &Path) -> Vec<PathBuf> {
        files_of(path, tiles_file)
    }

    /// Writes the table, whole or not at all, in the format that the ending of `path` names.
    ///
    /// # Errors
    /// [`Error::Data`] where the ending is not known or the format cannot hold so many rows; [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let written = match TableFormat::from_path(path)? {
            TableFormat::Csv => Unfinished::write(path, |file| {
                write!(file, "{COLUMNS}")?;
                write_names(file, self.width)?;
                for (at, features) in self.rows() {
                    self.write_place(file, at)?;
                    write_numbers(file, features)?;
                }
                Ok(())
            })?,
            TableFormat::Npy => {
                let tiles = Unfinished::write(&tiles_file(path), |file| {
                    writeln!(file, "{COLUMNS}")?;
                    (0..self.len()).try_for_each(|at| {
                        self.write_place(file, at)?;
                        writeln!(file)
                    })
                })?;
                let features = Unfinished::write(path, |file| {
                    file.write_all(&header(&[self.len(), self.width], 0))?;
                    write_values(file, &self.features)
                })?;
                return publish(tiles, features, path);
            }
            TableFormat::Safetensors => {
                let header = self.safetensors_header().map_err(Error::io(path))?;
                check_header(path, header.len(), self.len())?;
                Unfinished::write(path, |file| {
                    file.write_all(&header)?;
                    write_values(file, &self.features)
                })?
            }
            TableFormat::Parquet => Unfinished::write(path, |file| {
                self.write_parquet(file).map_err(std::io::Error::other)
            })?,
        };
        written.finish()
    }

    fn rows(&self) -> impl Iterator<Item = (usize, &[f32])> {
        (0..).zip(self.features.chunks_exact(self.width.max(1)))
    }

    /// Path, label and area of a row.
    fn write_place(&self, file: &mut impl Write, at: usize) -> std::io::Result<()> {
        let TileArea {
            x,
            y,
            width,
            height,
        } = self.areas[at];
        let (path, label) = (&self.paths[at], self.labels[at].as_deref());
        let (path, label) = (field(path), label_field(label));
        write!(file, "{path},{label},{x},{y},{width},{height}")
    }

    fn safetensors_header(&self) -> std::io::Result<Vec<u8>> {
        let areas = self.areas.iter();
        let areas: Vec<[u32; 4]> = areas.map(|a| [a.x, a.y, a.width, a.height]).collect();
        let metadata = [
            ("format", "pt".to_owned()),
            ("paths", serde_json::to_string(&self.paths)?),
            ("labels", serde_json::to_string(&self.labels)?),
            ("tiles", serde_json::to_string(&areas)?),
            ("model", self.model.clone()),
            ("recipe", self.recipe.clone()),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let shape = [self.len(), self.width];
        // another name than that of whole images: `ibot search` must not take one for the other
        let tensors = [(TILE_FEATURES, &shape[..])];
        safetensors_header(tensors, &metadata.into(), Precision::F32)
    }

    fn write_parquet(&self, file: &mut BufWriter<File>) -> ::parquet::errors::Result<()> {
        let properties = WriterProperties::builder();
        let properties =
            properties.set_created_by(concat!("ibot ", env!("CARGO_PKG_VERSION")).into());
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build()))?;
        let rows = (VALUES_IN_GROUP / self.width.max(1)).max(1);
        for start in (0..self.len()).step_by(rows) {
            let range = start..self.len().min(start + rows);
            let areas = &self.areas[range.clone()];
            let mut group = writer.next_row_group()?;
            let paths = self.paths[range.clone()].iter().map(String::as_str);
            let labels = self.labels[range.clone()].iter().map(Option::as_deref);
            columns::write_names(&mut group, paths, labels)?;
            let parts: [fn(&TileArea) -> u32; 4] = [|a| a.x, |a| a.y, |a| a.width, |a| a.height];
            for part in parts {
                // sides of an image are far below 2^31
                let values: Vec<i32> = areas.iter().map(|area| part(area) as i32).collect();
                columns::write_column::<Int32Type, _>(&mut group, &values, None, None)?;
            }
            let features = &self.features[range.start * self.width..range.end * self.width];
            columns::write_lists(&mut group, features, self.width)?;
            group.close()?;
        }
        writer.close()?;
        Ok(())
    }
}

/// The neighbor of a `.npy` that says where the tiles lie.
pub(super) fn tiles_file(path: &Path) -> PathBuf {
    path.with_extension("tiles.csv")
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};

    use super::*;

    #[test]
    fn every_format_holds_the_same_rows() {
        let folder = std::env::temp_dir().join(format!("ibot-tiles-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let area = |x| TileArea {
            x,
            y: 7,
            width: 40,
            height: 30,
        };
        let table = TileTable {
            paths: vec!["a,b.png".into(), "c.png".into()],
            labels: vec![None, Some("x".into())],
            areas: vec![area(0), area(25)],
            width: 3,
            features: vec![0.5, 1.0, -2.0, 0.25, 3.0, 4.0],
            model: "hash".into(),
            recipe: "cls".into(),
        };
        let write = |name: &str| {
            let path = folder.join(name);
            TileTable::check_path(&path).unwrap();
            table.write(&path).unwrap();
            std::fs::read(path).unwrap()
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let places = ["\"a,b.png\",,0,7,40,30", "c.png,x,25,7,40,30"];
        assert_eq!(
            text(write("t.csv")),
            format!(
                "{COLUMNS},f0,f1,f2\n{},0.5,1.0,-2.0\n{},0.25,3.0,4.0\n",
                places[0], places[1]
            )
        );
        let array = write("t.npy");
        assert!(array.ends_with(&4.0_f32.to_le_bytes()) && array.len() == 128 + 24);
        let beside = text(std::fs::read(folder.join("t.tiles.csv")).unwrap());
        assert_eq!(beside, format!("{COLUMNS}\n{}\n{}\n", places[0], places[1]));
        let bytes = write("t.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("tile_features").unwrap().shape(), [2, 3]);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let tiles = &metadata.metadata().as_ref().unwrap()["tiles"];
        assert_eq!(tiles, "[[0,7,40,30],[25,7,40,30]]");
        write("t.parquet");
        let reader = File::open(folder.join("t.parquet")).unwrap();
        let reader = SerializedFileReader::new(reader).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        let rows: Vec<String> = rows.map(|row| row.unwrap().to_string()).collect();
        assert_eq!(rows.len(), 2);
        for part in [
            "path: \"c.png\"",
            "label: \"x\"",
            "x: 25",
            "y: 7",
            "width: 40",
            "0.25, 3",
        ] {
            assert!(rows[1].contains(part), "{part} is not in {}", rows[1]);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
