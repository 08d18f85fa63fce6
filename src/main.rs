//! The program `tidemill`.

fn main() -> std::process::ExitCode {
    tidemill::cli::main()
}
