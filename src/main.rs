//! Who am I, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    crio_setup::cli::main(std::env::args_os())
}
