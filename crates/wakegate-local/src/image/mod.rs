//! What a VM of the qemu driver boots: a kernel and its first file system.
//!
//! Guarantees: an image is made of what this machine has, or of what the user names, and never of
//! something from the network.

mod build;
mod cpio;
mod elf;
mod error;
mod parts;

pub use build::Image;
pub use error::ImageError;
pub use parts::ImageSource;
