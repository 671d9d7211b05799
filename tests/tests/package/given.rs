//! What `cargo xtask test --tier package` has made and names in the environment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tests::machine::Machine;
use tests::netns::Namespace;
use tests::sandbox::Sandbox;

/// A folder or file that the caller has prepared.
fn given(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test --tier package`")).into()
}

/// The package whose name ends so.
pub fn package(ending: &str) -> PathBuf {
    let folder = given("VPNAT_PACKAGES");
    let mut found: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the packages")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("no package *{ending} in {}", folder.display()))
}

/// Its path in the machine.
pub fn inside(ending: &str) -> String {
    let path = package(ending);
    format!("/packages/{}", path.file_name().expect("a file").to_string_lossy())
}

/// A clean machine in `network`.
pub fn machine(sandbox: &Sandbox, network: &Namespace) -> Machine {
    Machine::boot(sandbox, network, &given("VPNAT_DEBIAN_TREE"), &given("VPNAT_PACKAGES"))
}

/// The tree that every package carries.
pub fn tree() -> PathBuf {
    given("VPNAT_PACKAGES").join("tree")
}

/// Every file of the tree, as the path that it is installed at.
pub fn carried() -> Vec<String> {
    let tree = tree();
    let mut files = Vec::new();
    let mut folders = vec![tree.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the packages' tree").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = path.strip_prefix(&tree).expect("below the tree");
                files.push(format!("/{}", inside.display()));
            }
        }
    }
    files.sort();
    files
}

/// Says of every file of the tree that the machine has it, byte for byte, with its permissions.
pub fn assert_installed(machine: &Machine) {
    let tree = tree();
    for file in carried() {
        let (packed, installed) = (tree.join(&file[1..]), machine.path(&file));
        assert!(installed.exists(), "{file} is not installed");
        assert!(read(&packed) == read(&installed), "{file} is another file than in the tree");
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode();
        assert_eq!(mode(&installed), mode(&packed), "the permissions of {file}");
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every path of the machine below the folders that packages write to.
pub fn everything(machine: &Machine) -> Vec<String> {
    let mut paths: Vec<String> = machine.run("find /etc /usr -xdev").lines().map(str::to_owned).collect();
    paths.sort();
    paths
}
