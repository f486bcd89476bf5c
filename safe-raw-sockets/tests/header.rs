//! The header for programs in C.

use std::path::Path;
use std::process::Command;

use safe_raw_sockets::port;

/// What it makes behaves outside of slices as the kernel alone does.
#[test]
fn the_header_is_strict_c_and_says_what_the_library_says() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header");
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    command.arg("-I").arg(home.join("include"));
    command.arg(home.join("tests/header.c"));
    command.arg("-o").arg(&program);
    let made = command.status().unwrap();
    assert!(made.success(), "{command:?}");
    let ran = Command::new(&program).status().unwrap();
    assert!(ran.success(), "{ran}");
    let text = std::fs::read_to_string(home.join("include/safe_raw_sockets.h")).unwrap();
    assert!(text.contains(&format!("#define SOL_SLICE {:#x}\n", port::SOL_SLICE)));
    assert!(text.contains(&format!("#define SLICE_RAW_PORT {}\n", port::RAW_PORT)));
}
