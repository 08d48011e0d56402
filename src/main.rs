//! The `flowgauge` program: parses the command line, runs it, prints its error and sets the exit
//! status.

use std::process::ExitCode;

use flowgauge::cli::{self, Cli};

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLOWGAUGE_LOG")
        .unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match cli::execute(Cli::from_command_line()) {
        Ok(exit) => ExitCode::from(exit.status()),
        Err(error) => {
            cli::print_error(&error);
            ExitCode::from(cli::error_status(&error))
        }
    }
}
