//! How the local control plane runs instances, from flags and `local.toml`; `image build`.
//!
//! Guarantees: a flag wins over the file.

use std::path::Path;

use super::args::{AcceleratorName, DriverArguments, DriverName, ImageArguments};
use super::failure::Failure;
use super::file::LocalFile;
use crate::driver::Accelerator;
use crate::image::{Image, ImageSource};
use crate::server::{DriverChoice, QemuOptions};

/// The driver that flags and the file name; flags win.
pub fn choose_driver(arguments: DriverArguments, file: LocalFile) -> Result<DriverChoice, Failure> {
    let named = match (arguments.driver, file.driver.as_deref()) {
        (Some(name), _) => name,
        (None, None | Some("process")) => DriverName::Process,
        (None, Some("qemu")) => DriverName::Qemu,
        (None, Some(other)) => {
            let text = format_args!("`driver`: `{other}` is not \"process\" or \"qemu\"");
            return Err(Failure::bad_config(text));
        }
    };
    if named == DriverName::Process {
        return Ok(DriverChoice::Process);
    }
    let accelerator = arguments.accelerator.map(|name| match name {
        AcceleratorName::Kvm => Accelerator::Kvm,
        AcceleratorName::Tcg => Accelerator::Tcg,
    });
    Ok(DriverChoice::Qemu(QemuOptions {
        qemu: arguments.qemu.or(file.qemu),
        kernel: arguments.image.kernel.or(file.kernel),
        modules: arguments.image.modules.or(file.modules),
        initrd: arguments.image.initrd.or(file.initrd),
        accelerator: accelerator.or(file.accelerator),
        egress: arguments.egress || file.egress,
        bridged: arguments.bridged || file.bridged,
        prestart: arguments.prestart.or(file.prestart).unwrap_or(0),
    }))
}

/// Builds what virtual machines boot, into `dir`, and prints where it is.
pub fn build_image(dir: &Path, image: ImageArguments, out: fn(&str)) -> Result<(), Failure> {
    let source = ImageSource {
        program: std::env::current_exe().map_err(Failure::failed)?,
        kernel: image.kernel,
        modules: image.modules,
        initrd: image.initrd,
    };
    let Image { kernel, initrd } = Image::build(dir, &source).map_err(Failure::failed)?;
    out(&format!("{}\n{}\n", kernel.display(), initrd.display()));
    Ok(())
}
