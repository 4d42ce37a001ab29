//! How the local control plane runs instances, from flags and `local.toml`; `image build`.
//!
//! Guarantees: a flag wins over the file; a flag that would do nothing is refused.

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
        return match flag_for_machines(&arguments) {
            Some(flag) => Err(Failure::usage(format_args!(
                "`{flag}` is for virtual machines: add `--driver qemu`"
            ))),
            // A file may have settings for both.
            None => Ok(DriverChoice::Process),
        };
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

/// A flag that says something about virtual machines.
fn flag_for_machines(arguments: &DriverArguments) -> Option<&'static str> {
    let DriverArguments {
        driver: _,
        image:
            ImageArguments {
                kernel,
                modules,
                initrd,
            },
        qemu,
        accelerator,
        egress,
        bridged,
        prestart,
    } = arguments;
    let flags = [
        ("--kernel", kernel.is_some()),
        ("--modules", modules.is_some()),
        ("--initrd", initrd.is_some()),
        ("--qemu", qemu.is_some()),
        ("--accelerator", accelerator.is_some()),
        ("--egress", *egress),
        ("--bridged", *bridged),
        ("--prestart", prestart.is_some()),
    ];
    let mut given = flags.into_iter().filter(|(_, is_given)| *is_given);
    given.next().map(|(flag, _)| flag)
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        driver: DriverArguments,
    }

    fn choose(flags: &str, file: &str) -> Result<DriverChoice, Failure> {
        let words = std::iter::once("x").chain(flags.split_whitespace());
        let arguments = Arguments::try_parse_from(words).unwrap();
        choose_driver(arguments.driver, toml::from_str(file).unwrap())
    }

    #[test]
    fn a_flag_for_virtual_machines_is_refused_where_there_are_none() {
        for flag in [
            "--kernel k",
            "--modules m",
            "--initrd i",
            "--qemu q",
            "--accelerator tcg",
            "--egress",
            "--bridged",
            "--prestart 1",
        ] {
            for file in ["", "driver = \"process\""] {
                let refused = choose(flag, file).unwrap_err();
                assert_eq!(refused.code, 2, "{flag}");
                let name = flag.split(' ').next().unwrap();
                assert!(refused.message.contains(name), "{flag}: {refused}");
            }
            for (flags, file) in [
                (format!("--driver qemu {flag}"), ""),
                (flag.to_owned(), "driver = \"qemu\""),
            ] {
                let choice = choose(&flags, file).unwrap();
                assert!(matches!(choice, DriverChoice::Qemu(_)), "{flags}");
            }
        }
        // A file may have settings for both, of which a flag chooses one.
        let both = "driver = \"qemu\"\nbridged = true\nkernel = \"k\"";
        let choice = choose("--driver process", both).unwrap();
        assert!(matches!(choice, DriverChoice::Process));
    }
}
