//! The images of a table as they are now: features of an image that was replaced are not its own.

use rayon::prelude::*;

use crate::data::ValueRange;
use crate::embedding::stamp::FileStamp;
use crate::embedding::table::EmbeddingTable;
use crate::path_text::{is_remote, path_of_text};

/// Rows of a table by what became of their images, each rising.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// The image is as it was, or the table does not say how it was.
    pub same: Vec<usize>,
    /// Its file has another size or time.
    pub changed: Vec<usize>,
    /// There is no such file, or it cannot be asked.
    pub gone: Vec<usize>,
}

enum State {
    Same,
    Changed,
    Gone,
}

impl EmbeddingTable {
    /// Looks at the file of each row. Servers are not asked: images on these count as they were.
    pub fn on_disk(&self) -> OnDisk {
        let range = self.range();
        let state = |at: usize| {
            let path = path_of_text(&self.paths[at]);
            if is_remote(&path) {
                return State::Same;
            }
            match (FileStamp::of(&path), self.stamp(at)) {
                (None, _) => State::Gone,
                // with the range where it has more than 8 bits, which the path alone does not tell; twice, it is none
                (Some(now), Some(then))
                    if !now.is_like(then) && !now.is_like(then.with_range(range)) =>
                {
                    State::Changed
                }
                _ => State::Same,
            }
        };
        let states: Vec<State> = (0..self.len()).into_par_iter().map(state).collect();
        let mut found = OnDisk::default();
        for (at, state) in states.iter().enumerate() {
            match state {
                State::Same => found.same.push(at),
                State::Changed => found.changed.push(at),
                State::Gone => found.gone.push(at),
            }
        }
        found
    }

    /// The range of values that images of more than 8 bits were read with, as [`crate::embedding::Embedder::input`] says it.
    fn range(&self) -> ValueRange {
        let input = self.input.as_deref().unwrap_or_default();
        let said = input.split_once(", range ").map_or("", |(_, said)| said);
        let mut said = serde_json::Deserializer::from_str(said).into_iter();
        said.next().and_then(Result::ok).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_that_of_the_input() {
        let range = |input: &str| {
            let input = Some(input.to_owned());
            let table = EmbeddingTable {
                input,
                ..EmbeddingTable::default()
            };
            table.range()
        };
        let between = ValueRange::Between([0.0, 4095.0]);
        let said = serde_json::to_string(&between).unwrap();
        assert_eq!(range(&format!("ibot 1, f32, range {said}, {{}}")), between);
        assert_eq!(range("ibot 1, f32, range \"full\", {}"), ValueRange::Full);
        assert_eq!(range("else"), ValueRange::Auto);
    }
}
