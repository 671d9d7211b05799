//! Names the configuration that [`driver`](src/driver.rs) is built with when the compiler counts.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(vpnat_coverage)");
    println!("cargo::rerun-if-changed=build.rs");
}
