//! Gives the bare-metal image its linker script. Hosted builds of the same package need none.

fn main() {
    println!("cargo:rerun-if-changed=src/boot/kernel.ld");
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if target == "x86_64-unknown-none" {
        println!("cargo:rustc-link-arg-bins=-T{here}/src/boot/kernel.ld");
        // The target links position-independent images by default; loaders of a kernel apply no relocations.
        println!("cargo:rustc-link-arg-bins=--no-pie");
        println!("cargo:rustc-link-arg-bins=--no-dynamic-linker");
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
        println!("cargo:rustc-link-arg-bins=-znoexecstack");
    }
}
