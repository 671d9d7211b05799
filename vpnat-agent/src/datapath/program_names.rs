//! What the programs on a device are called, for who only reads: by links the kernel tells their numbers.

use std::collections::HashMap;

use aya::programs::loaded_programs;

use super::hooks::XDP_POINT;
use super::object::is_traced;
use super::sys;
use crate::netlink::links::Link;

/// The names of all loaded programs, as far as the kernel keeps and tells them.
#[derive(Debug)]
pub struct ProgramNames(HashMap<u32, String>);

impl ProgramNames {
    /// Asks the kernel, which answers those with CAP_SYS_ADMIN; nobody else gets names.
    pub fn read() -> Self {
        let programs = loaded_programs().flatten();
        let names = programs.filter_map(|info| Some((info.id(), info.name_as_str()?.to_owned())));
        Self(names.collect())
    }

    /// Whether a traced form hangs at `point` of `link` by a link; `None` if the kernel does not say.
    pub fn traced_at(&self, link: &Link, point: &str) -> Option<bool> {
        let ids = if point == XDP_POINT {
            link.xdp.map(|(_, id)| id).into_iter().collect()
        } else {
            sys::tcx_programs(link.index, point == "ingress").ok()?
        };
        let names: Option<Vec<&String>> = ids.iter().map(|id| self.0.get(id)).collect();
        let names = names.filter(|names| !names.is_empty())?;
        Some(names.iter().any(|name| is_traced(name)))
    }
}
