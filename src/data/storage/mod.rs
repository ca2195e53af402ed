//! Where the bytes of images come from: files of disks and objects of servers, alone or in tar archives and Parquet tables.
//!
//! - `stored`: a file of a disk or an object of a server; `shards`: files in tar archives and Parquet tables; `names`: which those are
//! - `opened`: a file, opened once; `bytes`: what it holds; `stamp`: whether it changed; `limits`: how large it may be
//! - `failure`: whether what failed may be read later; `reading`: how long threads wait for bytes; `cache_folder`: where what can be made anew is kept

pub(in crate::data) mod bytes;
pub(in crate::data) mod cache_folder;
pub(in crate::data) mod failure;
pub(in crate::data) mod limits;
pub(in crate::data) mod names;
pub(in crate::data) mod opened;
pub(in crate::data) mod reading;
pub(in crate::data) mod shards;
pub(in crate::data) mod stamp;
pub(in crate::data) mod stored;
