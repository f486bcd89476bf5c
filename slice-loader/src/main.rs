//! The command `slice`.

fn main() -> std::process::ExitCode {
    slice_loader::cli::main()
}
