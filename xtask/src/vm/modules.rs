//! Kernel modules: what a module says of itself, what it needs, and the files that `modprobe` reads.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;

/// What a module says of itself in its section `.modinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Modules that have to be there before it, be it by symbols (`depends`) or by use (`softdep pre`).
    pub needs: Vec<String>,
    /// What it is asked for as.
    pub aliases: Vec<String>,
}

impl Info {
    /// Reads the section: `key=value` strings, each ended by a zero byte.
    pub fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        for text in section.split(|&byte| byte == 0) {
            let text = String::from_utf8_lossy(text);
            match text.split_once('=') {
                Some(("depends", list)) => {
                    info.needs.extend(list.split(',').filter(|name| !name.is_empty()).map(canonical));
                }
                Some(("softdep", list)) => info.needs.extend(before(list).map(canonical)),
                Some(("alias", alias)) => info.aliases.push(alias.to_owned()),
                _ => {}
            }
        }
        info
    }
}

/// The modules after `pre:` in a text such as `pre: a b post: c`.
fn before(softdep: &str) -> impl Iterator<Item = &str> {
    let words = softdep.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
    words.take_while(|word| !word.ends_with(':'))
}

/// A module's name as the kernel has it: files may be named with hyphens.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// A module that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub info: Info,
}

/// Modules in an order in which they can be loaded, and the names that there is no module for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Each after all that it needs.
    pub modules: Vec<Module>,
    /// Asked for or needed, and not there.
    pub missing: BTreeSet<String>,
}

impl Selection {
    /// The `wanted` modules and all that they need. `find` reads a module; `None` is one that is not there.
    pub fn of(wanted: &[&str], mut find: impl FnMut(&str) -> Result<Option<Info>>) -> Result<Self> {
        let mut selection = Self::default();
        let mut seen = BTreeSet::new();
        for name in wanted {
            selection.add(&canonical(name), &mut seen, &mut find)?;
        }
        Ok(selection)
    }

    fn add(
        &mut self,
        name: &str,
        seen: &mut BTreeSet<String>,
        find: &mut impl FnMut(&str) -> Result<Option<Info>>,
    ) -> Result<()> {
        // Marked before its needs are looked at: soft needs may go in circles.
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(info) = find(name)? else {
            self.missing.insert(name.to_owned());
            return Ok(());
        };
        for need in &info.needs {
            self.add(need, seen, find)?;
        }
        self.modules.push(Module { name: name.to_owned(), info });
        Ok(())
    }

    /// The file `modules.dep`: after each module what it needs, in the **reverse** order of loading.
    pub fn dependencies(&self) -> String {
        let mut text = String::new();
        for module in &self.modules {
            let mut needed = BTreeSet::new();
            self.collect(module, &mut needed);
            let _ = write!(text, "{}:", file_name(&module.name));
            let reversed = self.modules.iter().rev().filter(|other| needed.contains(other.name.as_str()));
            for other in reversed.filter(|other| other.name != module.name) {
                let _ = write!(text, " {}", file_name(&other.name));
            }
            text.push('\n');
        }
        text
    }

    fn collect<'a>(&'a self, module: &'a Module, needed: &mut BTreeSet<&'a str>) {
        for need in &module.info.needs {
            if let Some(other) = self.modules.iter().find(|other| other.name == *need)
                && needed.insert(&other.name)
            {
                self.collect(other, needed);
            }
        }
    }

    /// The file `modules.alias`.
    pub fn aliases(&self) -> String {
        let mut text = String::new();
        for module in &self.modules {
            for alias in &module.info.aliases {
                let _ = writeln!(text, "alias {alias} {}", module.name);
            }
        }
        text
    }
}

/// What a module's file is called, uncompressed and in one folder with all others.
pub fn file_name(name: &str) -> String {
    format!("{name}.ko")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(needs: &[&str]) -> Info {
        Info { needs: needs.iter().map(|&need| need.to_owned()).collect(), aliases: Vec::new() }
    }

    fn known(name: &str) -> Result<Option<Info>> {
        Ok(match name {
            "wireguard" => Some(info(&["udp_tunnel", "chacha"])),
            "udp_tunnel" => Some(info(&["base"])),
            "chacha" => Some(info(&["base"])),
            "base" => Some(info(&[])),
            "one" => Some(info(&["two"])),
            "two" => Some(info(&["one"])),
            "veth" => Some(Info { needs: Vec::new(), aliases: vec!["rtnl-link-veth".into()] }),
            _ => None,
        })
    }

    fn names(selection: &Selection) -> Vec<&str> {
        selection.modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn the_section_is_read() {
        let section = b"license=GPL\0depends=libchacha,udp-tunnel\0alias=rtnl-link-wireguard\0\
            softdep=pre: gcm ccm post: late\0alias=net-pf-16\0depends=\0";
        let expected = Info {
            needs: ["libchacha", "udp_tunnel", "gcm", "ccm"].map(str::to_owned).to_vec(),
            aliases: ["rtnl-link-wireguard", "net-pf-16"].map(str::to_owned).to_vec(),
        };
        assert_eq!(Info::parse(section), expected);
        assert_eq!(Info::parse(b"softdep=post: late\0"), Info::default());
    }

    #[test]
    fn a_module_comes_after_all_that_it_needs() {
        let selection = Selection::of(&["wireguard", "udp-tunnel"], known).expect("a selection");
        assert_eq!(names(&selection), ["base", "udp_tunnel", "chacha", "wireguard"]);
        assert!(selection.missing.is_empty());
    }

    #[test]
    fn circles_end_and_unknown_names_are_reported() {
        let selection = Selection::of(&["one", "gone"], known).expect("a selection");
        assert_eq!(names(&selection), ["two", "one"]);
        assert_eq!(selection.missing.into_iter().collect::<Vec<_>>(), ["gone"]);
    }

    #[test]
    fn dependencies_are_listed_in_reverse_order_of_loading() {
        let selection = Selection::of(&["wireguard"], known).expect("a selection");
        let text = selection.dependencies();
        let expected = "base.ko:\nudp_tunnel.ko: base.ko\nchacha.ko: base.ko\n\
            wireguard.ko: chacha.ko udp_tunnel.ko base.ko\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn aliases_name_their_module() {
        let selection = Selection::of(&["veth"], known).expect("a selection");
        assert_eq!(selection.aliases(), "alias rtnl-link-veth veth\n");
    }
}
