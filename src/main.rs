//! The binary: arguments in, an exit code out.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use wakegate::cli::{Arguments, FAILED, Failure, OK, run};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments.command, out)),
        Err(error) => Err(Failure {
            message: format!("no runtime: {error}"),
            code: FAILED,
        }),
    };
    match result {
        Ok(()) => ExitCode::from(OK),
        Err(failure) => {
            // There is nowhere else to say that standard error is closed.
            let _closed = writeln!(
                std::io::stderr(),
                "wakegate: {}",
                failure.message.trim_end()
            );
            ExitCode::from(failure.code)
        }
    }
}

fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A reader that has gone (`| head`) is no reason to fail.
    let _closed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}
