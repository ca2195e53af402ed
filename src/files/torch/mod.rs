//! What `torch.save` wrote, read without running a pickle.

mod archive;
mod objects;
mod pickle;
mod value;

pub use archive::read_pytorch;
pub(super) use archive::tensor_names;
