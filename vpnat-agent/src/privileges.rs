//! Keeping only the capabilities that the agent works with (capabilities(7)).

use caps::{CapSet, Capability, CapsHashSet};

/// What the running agent keeps.
const KEPT: [Capability; 3] = [
    // Programs, maps, links.
    Capability::CAP_BPF,
    // Attaching to devices, netlink, the sysctls of forwarding.
    Capability::CAP_NET_ADMIN,
    // The verifier lets only its holders compare pointers and read what they point to.
    Capability::CAP_PERFMON,
];

/// Gives up everything but what the agent works with, for this thread and those that it starts, for good: a program that
/// it would run gets no more either. Mounting and reading another layout's types, at the start, need CAP_SYS_ADMIN.
pub fn reduce() -> Result<(), String> {
    let text = |error: caps::errors::CapsError| error.to_string();
    let permitted = caps::read(None, CapSet::Permitted).map_err(text)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|capability| permitted.contains(capability)).collect();
    // The bounding set first: lowering it takes CAP_SETPCAP itself.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).map_err(text)?;
        for capability in bounding.into_iter().filter(|capability| !KEPT.contains(capability)) {
            caps::drop(None, CapSet::Bounding, capability).map_err(text)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(text)?;
    caps::set(None, CapSet::Effective, &kept).map_err(text)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(text)?;
    caps::clear(None, CapSet::Inheritable).map_err(text)?;
    nix::sys::prctl::set_no_new_privs().map_err(|error| error.to_string())
}
