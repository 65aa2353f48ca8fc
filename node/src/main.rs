//! The faasnet binary: one program for the node, for those who ask it, and for the demo.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
