//! Puts the eBPF object into the program, and completes a static link.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    embed_object();
    link_statically();
}

/// `SLICE_EBPF_OBJECT` names the object; without it the program is complete
/// but for `slice up`, which then says how to build it.
fn embed_object() {
    println!("cargo::rerun-if-env-changed=SLICE_EBPF_OBJECT");
    let object = match env::var_os("SLICE_EBPF_OBJECT") {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    println!(
                        "cargo::error=read SLICE_EBPF_OBJECT {}: {error}",
                        path.display()
                    );
                    return;
                }
            }
        }
        None => Vec::new(),
    };
    let place = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .unwrap_or_default()
        .join("slice-ebpf.o");
    if let Err(error) = fs::write(&place, object) {
        println!("cargo::error=write {}: {error}", place.display());
    }
}

/// From elfutils 0.189 libelf.a needs libzstd.a too, which libbpf-sys does not
/// know of; pkg-config does.
fn link_statically() {
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    let Ok(output) = Command::new("pkg-config")
        .args(["--static", "--libs-only-l", "libelf"])
        .output()
    else {
        return;
    };
    if String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .any(|library| library == "-lzstd")
    {
        println!("cargo::rustc-link-arg=-lzstd");
    }
}
