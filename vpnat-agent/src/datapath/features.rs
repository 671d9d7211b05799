//! What the kernel must offer, asked from it one by one before anything is touched.

use std::fs;
use std::path::PathBuf;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

use super::Error;
use super::kernel::release;

/// Something that the programs or the agent use.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// The first release that has it.
    pub since: &'static str,
    /// What vpnat uses it for.
    pub for_what: &'static str,
    ask: Ask,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ask {
    Program(ProgramType),
    Map(MapType),
    Helper(ProgramType, BpfHelper),
}

const fn feature(name: &'static str, since: &'static str, for_what: &'static str, ask: Ask) -> Feature {
    Feature { name, since, for_what, ask }
}

const TC: ProgramType = ProgramType::SchedClassifier;
const XDP: ProgramType = ProgramType::Xdp;

/// Everything that a vpnat cannot do without. The newest decides: Linux 6.1 is what all of it was tested with.
const NEEDED: [Feature; 9] = [
    feature("TC programs", "4.1", "translating, guarding", Ask::Program(TC)),
    feature("LRU hash maps", "4.10", "fragments", Ask::Map(MapType::LruHash)),
    feature("longest-prefix maps", "4.11", "vendors' prefixes", Ask::Map(MapType::LpmTrie)),
    feature("device maps", "4.14", "the fast path", Ask::Map(MapType::DevMap)),
    feature(
        "bpf_fib_lookup",
        "4.18",
        "where packets are routed",
        Ask::Helper(TC, BpfHelper::BPF_FUNC_fib_lookup),
    ),
    feature("bpf_jiffies64", "5.6", "timers", Ask::Helper(TC, BpfHelper::BPF_FUNC_jiffies64)),
    feature("ring buffers", "5.8", "flow events", Ask::Map(MapType::RingBuf)),
    feature(
        "bpf_redirect_neigh",
        "5.10",
        "answers to refused packets",
        Ask::Helper(TC, BpfHelper::BPF_FUNC_redirect_neigh),
    ),
    feature(
        "bpf_loop",
        "5.17",
        "searching ports, reading options",
        Ask::Helper(TC, BpfHelper::BPF_FUNC_loop),
    ),
];

/// What only some configurations need.
const FOR_XDP: [Feature; 2] = [
    feature("XDP programs", "4.8", "the fast path", Ask::Program(XDP)),
    feature(
        "bpf_xdp_load_bytes",
        "5.18",
        "the fast path",
        Ask::Helper(XDP, BpfHelper::BPF_FUNC_xdp_load_bytes),
    ),
];

impl Feature {
    /// Whether the kernel has it. A question that it does not understand is no answer: loading will tell.
    fn is_there(&self) -> bool {
        match self.ask {
            Ask::Program(kind) => is_program_supported(kind).unwrap_or(true),
            Ask::Map(kind) => is_map_supported(kind).unwrap_or(true),
            Ask::Helper(kind, helper) => is_helper_supported(kind, helper).unwrap_or(true),
        }
    }
}

/// Names everything that is missing, at once.
pub fn check(with_xdp: bool) -> Result<(), Error> {
    refuse(missing(with_xdp))
}

/// Everything that is missing.
pub fn missing(with_xdp: bool) -> Vec<Feature> {
    let needed = NEEDED.iter().chain(FOR_XDP.iter().filter(|_| with_xdp));
    needed.filter(|feature| !feature.is_there()).copied().collect()
}

fn refuse(missing: Vec<Feature>) -> Result<(), Error> {
    if missing.is_empty() { Ok(()) } else { Err(Error::Features { kernel: release(), missing }) }
}

/// Says what works, but not as well as it could.
pub fn warn() {
    // Only the first network namespace has it.
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    if jit.is_ok_and(|value| value.trim() == "0") {
        log::warn!(
            "the kernel interprets BPF programs, which is several times slower: set net.core.bpf_jit_enable = 1 before vpnat \
             starts"
        );
    }
}

/// Kernel memory of an entry of the flow table with its share of the rest, bytes.
const ENTRY: u64 = 136;

/// The maps fit into the memory that this process's control group may have.
pub fn check_memory(flow_entries: u32) -> Result<(), Error> {
    let needed = u64::from(flow_entries) * ENTRY;
    match memory_limit() {
        Some((path, limit)) if needed > limit => {
            Err(Error::MemoryLimit { path, needed: needed >> 20, limit: limit >> 20 })
        }
        _ => Ok(()),
    }
}

/// The tightest limit on this process's control group and those around it (memory.max of control groups v2).
fn memory_limit() -> Option<(PathBuf, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = PathBuf::from("/sys/fs/cgroup").join(own);
    let limits = own.ancestors().take_while(|path| path.starts_with("/sys/fs/cgroup")).filter_map(|path| {
        let file = path.join("memory.max");
        let limit = fs::read_to_string(&file).ok()?.trim().parse::<u64>().ok()?;
        Some((file, limit))
    });
    limits.min_by_key(|(_, limit)| *limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_with_its_release() {
        let text = refuse(vec![NEEDED[8], NEEDED[3]]).unwrap_err().to_string();
        assert!(text.contains("bpf_loop (Linux 5.17: searching ports"), "{text}");
        assert!(text.contains("device maps (Linux 4.14: the fast path)"), "{text}");
        assert!(text.ends_with("run Linux 6.1 or newer, or one that is built with them"), "{text}");
        refuse(Vec::new()).unwrap();
    }
}
