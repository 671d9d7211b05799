//! clsact filters: which there are, and removing them. aya attaches and replaces them.

use std::io;

use aya::programs::TcAttachType;

use super::{attributes, request, text, u16_at, u32_at};

// linux/rtnetlink.h, linux/pkt_cls.h, linux/pkt_sched.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// Length of `struct tcmsg`.
const TCMSG: usize = 20;

/// A BPF filter on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Priority; lower ones run first.
    pub priority: u16,
    /// Handle, which names the filter within its priority.
    pub handle: u32,
    /// The name it was attached with.
    pub name: String,
    /// The program.
    pub program_id: u32,
    /// Whether the program's return value is the verdict.
    pub direct_action: bool,
    info: u32,
}

impl Filter {
    /// Reads an `RTM_NEWTFILTER` body; `None` for filters of another kind and chain heads.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut filter = Self {
            handle: u32_at(body, 8)?,
            info: u32_at(body, 16)?,
            priority: (u32_at(body, 16)? >> 16) as u16,
            name: String::new(),
            program_id: 0,
            direct_action: false,
        };
        let mut is_bpf = false;
        for (kind, value) in attributes(body.get(TCMSG..)?) {
            match kind {
                TCA_KIND => is_bpf = text(value) == "bpf",
                TCA_OPTIONS => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            TCA_BPF_NAME => filter.name = text(value),
                            TCA_BPF_ID => filter.program_id = u32_at(value, 0)?,
                            TCA_BPF_FLAGS => {
                                filter.direct_action = u32_at(value, 0)? & TCA_BPF_FLAG_ACT_DIRECT != 0;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        (is_bpf && filter.handle != 0 && !filter.name.is_empty()).then_some(filter)
    }
}

fn tcmsg(device: u32, direction: TcAttachType, handle: u32, info: u32) -> Vec<u8> {
    let parent = match direction {
        TcAttachType::Ingress => CLSACT_INGRESS,
        TcAttachType::Egress => CLSACT_EGRESS,
        TcAttachType::Custom(parent) => parent,
    };
    let mut body = vec![0; 4];
    for word in [device, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// The BPF filters of `device` in the order in which they run. None if it has no clsact qdisc.
pub fn dump(device: u32, direction: TcAttachType) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    let body = tcmsg(device, direction, 0, 0);
    let result = request(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, &body, |message| {
        if message.kind == libc::RTM_NEWTFILTER && u16_at(message.body, 0).is_some() {
            filters.extend(Filter::parse(message.body));
        }
    });
    match result {
        Ok(()) => Ok(filters),
        // No clsact qdisc, or none at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes `filter` from `device`.
pub fn remove(device: u32, direction: TcAttachType, filter: &Filter) -> io::Result<()> {
    let body = tcmsg(device, direction, filter.handle, filter.info);
    request(libc::RTM_DELTFILTER, libc::NLM_F_ACK, &body, |_| {})
}
