//! A kernel on disk: the image to boot and its modules, downloaded once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object as _, ObjectSection as _};

use super::modules::{self, Info, Selection};
use super::packages;
use super::series::Series;

/// A kernel and its modules.
pub struct Kernel {
    /// The compressed image.
    pub image: PathBuf,
    /// As `uname -r` has it.
    pub release: String,
    /// Files of modules by name.
    files: BTreeMap<String, PathBuf>,
    /// Modules that are part of the image.
    builtin: BTreeSet<String>,
}

/// A module for a guest.
pub struct Loadable {
    /// Name of its file.
    pub file: String,
    /// The file, uncompressed.
    pub data: Vec<u8>,
}

impl Kernel {
    /// The kernel of a series in the folder `cache`, downloaded first if it is not there.
    pub fn get(series: Series, cache: &Path) -> Result<Self> {
        let dir = cache.join(format!("kernel-{series}"));
        if !dir.exists() {
            let unfinished = cache.join(format!("kernel-{series}.part"));
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished)
                    .with_context(|| format!("cannot remove {}", unfinished.display()))?;
            }
            packages::fetch(series, &unfinished)?;
            // A whole kernel or none: what is in the cache under its name is complete.
            fs::rename(&unfinished, &dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Self::read(&dir).with_context(|| format!("{} is no use; remove it and try again", dir.display()))
    }

    fn read(dir: &Path) -> Result<Self> {
        let boot = fs::read_dir(dir.join("boot")).context("no folder boot")?;
        let image = boot
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")));
        let image = image.context("no kernel image")?;
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let release = name.trim_start_matches("vmlinuz-").to_owned();
        let (mut files, mut builtin) = (BTreeMap::new(), BTreeSet::new());
        for folder in packages::module_folders(dir) {
            collect(&folder.join("kernel"), &mut files)?;
            let list = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
            builtin.extend(list.lines().filter_map(module_name));
        }
        if files.is_empty() {
            bail!("no modules");
        }
        Ok(Self { image, release, files, builtin })
    }

    /// The `wanted` modules and what they need, with their files. Says which there are not.
    pub fn modules(&self, wanted: &[&str]) -> Result<(Selection, Vec<Loadable>)> {
        let mut loadable = Vec::new();
        let mut selection = Selection::of(wanted, |name| {
            let Some(path) = self.files.get(name) else { return Ok(None) };
            let data = read_module(path)?;
            let info = info_of(&data).with_context(|| format!("cannot read {}", path.display()))?;
            loadable.push(Loadable { file: modules::file_name(name), data });
            Ok(Some(info))
        })?;
        // A module may need another by what that is also called.
        let aliases = selection.modules.iter().flat_map(|module| &module.info.aliases);
        let present: BTreeSet<_> = aliases.chain(&self.builtin).cloned().collect();
        let wanted: BTreeSet<_> = wanted.iter().map(|name| modules::canonical(name)).collect();
        // What a module only prefers to have, under a name of the kernel's choice, is not worth a word.
        selection.missing.retain(|name| wanted.contains(name) && !present.contains(name));
        Ok((selection, loadable))
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path.to_str().and_then(module_name) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module in a file of the given path, if it is one.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let name = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|end| file.strip_suffix(end))?;
    Some(modules::canonical(name))
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let out = Command::new(tool).arg("-dc").arg(path).output();
    let out = out.with_context(|| format!("cannot run `{tool}`, which {} needs", path.display()))?;
    if !out.status.success() {
        bail!("`{tool}` cannot unpack {}", path.display());
    }
    Ok(out.stdout)
}

fn info_of(data: &[u8]) -> Result<Info> {
    let file = object::File::parse(data)?;
    let section = file.section_by_name(".modinfo").context("no section .modinfo")?;
    Ok(Info::parse(section.data()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_known_by_their_files() {
        let name = |path| module_name(path).unwrap_or_default();
        assert_eq!(name("kernel/drivers/net/veth.ko"), "veth");
        assert_eq!(name("kernel/crypto/sha512-generic.ko.xz"), "sha512_generic");
        assert_eq!(name("modules.order"), "");
    }
}
