//! The `faasnet-sim` binary: many nodes on one machine, to be seen, measured and tortured.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
