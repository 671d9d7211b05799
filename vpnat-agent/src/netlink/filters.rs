//! clsact filters: which there are, and removing them. aya attaches and replaces them.

use std::io;

use aya::programs::TcAttachType;
use netlink_packet_core::{DecodeError, Emitable as _, NLM_F_ACK, Parseable as _, parse_string};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage};

use super::{attributes, list, request, unreadable};

// linux/pkt_cls.h.
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;

/// A BPF filter on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Priority; lower ones run first.
    pub priority: u16,
    /// Handle, which names the filter within its priority.
    pub handle: u32,
    /// The name it was attached with.
    pub name: String,
    /// The program; 0 if the kernel does not say.
    pub program_id: u32,
    /// Whether the program's return value is the verdict.
    pub direct_action: bool,
    info: u32,
}

impl Filter {
    /// Reads an `RTM_NEWTFILTER` body; `None` for filters of another kind, unnamed ones, and chain heads.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let header = TcHeader::parse(body)?;
        let mut filter = Self {
            priority: (header.info >> 16) as u16,
            handle: header.handle.into(),
            name: String::new(),
            program_id: 0,
            direct_action: false,
            info: header.info,
        };
        let mut is_bpf = false;
        for attribute in attributes(&body[header.buffer_len()..], &[libc::TCA_KIND, libc::TCA_OPTIONS]) {
            let attribute = attribute?;
            if attribute.kind() == libc::TCA_KIND {
                is_bpf = parse_string(attribute.value())? == TcFilterBpf::KIND;
            } else if is_bpf {
                for option in attributes(attribute.value(), &[TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID]) {
                    // A filter that is only half understood is not taken for one of ours that is in order.
                    match TcFilterBpfOption::parse(&option?) {
                        Ok(TcFilterBpfOption::ProgName(name)) => filter.name = name,
                        Ok(TcFilterBpfOption::ProgId(id)) => filter.program_id = id,
                        Ok(TcFilterBpfOption::Flags(flags)) => {
                            filter.direct_action = flags.contains(TcBpfFlags::DirectAction);
                        }
                        Ok(_) => {}
                        Err(error) => log::debug!("a TC filter's option cannot be read: {error}"),
                    }
                }
            }
        }
        Ok((is_bpf && filter.handle != 0 && !filter.name.is_empty()).then_some(filter))
    }
}

fn message(device: u32, direction: TcAttachType, handle: u32, info: u32) -> TcMessage {
    let clsact = |minor| TcHandle { minor, ..TcHandle::CLSACT };
    let mut message = TcMessage::with_index(device as i32);
    message.header.parent = match direction {
        TcAttachType::Ingress => clsact(TcHandle::MIN_INGRESS),
        TcAttachType::Egress => clsact(TcHandle::MIN_EGRESS),
        TcAttachType::Custom(parent) => parent.into(),
    };
    message.header.handle = handle.into();
    message.header.info = info;
    message
}

/// The BPF filters of `device` in the order in which they run. None if it has no clsact qdisc.
pub fn dump(device: u32, direction: TcAttachType) -> io::Result<Vec<Filter>> {
    let answers = match list(RouteNetlinkMessage::GetTrafficFilter(message(device, direction, 0, 0))) {
        Ok(answers) => answers,
        // No clsact qdisc, or none at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let answers = answers.iter().filter(|answer| answer.kind == libc::RTM_NEWTFILTER);
    answers.filter_map(|answer| Filter::parse(&answer.body).map_err(unreadable).transpose()).collect()
}

/// Removes `filter` from `device`.
pub fn remove(device: u32, direction: TcAttachType, filter: &Filter) -> io::Result<()> {
    let message = message(device, direction, filter.handle, filter.info);
    request(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::tests::attribute;
    use super::*;

    fn body(kind: &[u8], options: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![0; 4];
        for word in [3u32, 0x7670, 0xffff_fff3, 50 << 16] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(attribute(libc::TCA_KIND, kind));
        body.extend(attribute(libc::TCA_OPTIONS, &options.concat()));
        body
    }

    fn options() -> Vec<Vec<u8>> {
        vec![
            attribute(TCA_BPF_NAME, b"egress_outside_l2\0"),
            attribute(TCA_BPF_FLAGS, &1u32.to_ne_bytes()),
            attribute(TCA_BPF_ID, &77u32.to_ne_bytes()),
        ]
    }

    #[test]
    fn a_filter_is_read() {
        let expected = Filter {
            priority: 50,
            handle: 0x7670,
            name: "egress_outside_l2".into(),
            program_id: 77,
            direct_action: true,
            info: 50 << 16,
        };
        assert_eq!(Filter::parse(&body(b"bpf\0", &options())).unwrap(), Some(expected.clone()));
        // Whatever a newer kernel adds or makes longer.
        let mut longer = options();
        longer
            .extend((0..64).filter(|kind| ![7, 8, 11].contains(kind)).map(|kind| attribute(kind, &[9; 37])));
        assert_eq!(Filter::parse(&body(b"bpf\0", &longer)).unwrap(), Some(expected));
        assert_eq!(Filter::parse(&body(b"flower\0", &options())).unwrap(), None);
    }

    #[test]
    fn half_a_filter_is_not_in_order() {
        let mut half = options();
        half[2] = attribute(TCA_BPF_ID, &[0; 8]);
        let filter = Filter::parse(&body(b"bpf\0", &half)).unwrap().unwrap();
        assert_eq!((filter.name.as_str(), filter.program_id), ("egress_outside_l2", 0));
    }

    #[test]
    fn the_place_is_the_kernels_own_number() {
        for (direction, parent) in [(TcAttachType::Ingress, 0xffff_fff2), (TcAttachType::Egress, 0xffff_fff3)]
        {
            assert_eq!(u32::from(message(3, direction, 0, 0).header.parent), parent);
        }
    }
}
