//! Weights with NaN or infinity, from a damaged file or diverged training.

use std::path::Path;

use crate::error::{Result, counted, printable};
use crate::files::header::weights_error;
use crate::files::state_dict::NamedTensor;

/// Whether all values of these tensors of the file at `path` are finite, as a model needs them.
///
/// # Errors
/// [`crate::Error::Weights`] that names the first tensor with NaN or infinity, and counts the others.
pub(crate) fn check_finite<'a, K: AsRef<str>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (K, &'a NamedTensor)>,
) -> Result<()> {
    let count = |values: &[f32]| values.iter().filter(|value| !value.is_finite()).count();
    let counts = tensors
        .into_iter()
        .map(|(key, tensor)| (key, count(&tensor.values), tensor.values.len()));
    let mut broken = counts.filter(|(_, count, _)| *count > 0);
    let Some((key, count, entries)) = broken.next() else {
        return Ok(());
    };
    let more = match broken.count() {
        0 => String::new(),
        more => format!(", as in {}", counted(more, "other tensor")),
    };
    let reason = format!(
        "{count} of the {entries} values of {} are NaN or infinite{more}: the file is damaged, or training diverged; use \
         another file or an earlier checkpoint",
        printable(key.as_ref())
    );
    Err(weights_error(path, reason))
}
