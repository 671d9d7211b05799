//! Where the kernel would send one packet.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{DecodeError, NLM_F_ACK};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::routes::{HEADER, RTAX_MTU, number, octets};
use super::{attributes, request, unreadable};

/// A packet to be routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Source address, if it matters.
    pub from: Option<Ipv4Addr>,
    /// Destination address.
    pub to: Ipv4Addr,
    /// Index of the device that it arrives on; `None` if this host sends it.
    pub arriving: Option<u32>,
}

/// The kernel's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Index of the device that it leaves by, 0 if there is none.
    pub device: u32,
    /// The next hop, if it is not the destination.
    pub gateway: Option<Ipv4Addr>,
    /// Largest packet, bytes, if the route or what was learned of the path says so.
    pub mtu: Option<u32>,
    /// It ends on this host.
    pub local: bool,
}

impl Way {
    /// Reads an `RTM_NEWROUTE` body; `None` if no packet goes that way.
    fn parse(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let header = RouteHeader::parse(body)?;
        let local = match header.kind {
            RouteType::Unicast => false,
            RouteType::Local => true,
            _ => return Ok(None),
        };
        let mut way = Self { device: 0, gateway: None, mtu: None, local };
        let used = [libc::RTA_OIF, libc::RTA_GATEWAY, libc::RTA_METRICS];
        for attribute in attributes(body.get(HEADER..).unwrap_or_default(), &used) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                libc::RTA_OIF => way.device = number(value).unwrap_or(0),
                libc::RTA_GATEWAY => way.gateway = octets(value).map(Ipv4Addr::from),
                _ => {
                    for metric in attributes(value, &[RTAX_MTU]) {
                        way.mtu = number(metric?.value());
                    }
                }
            }
        }
        Ok(Some(way))
    }
}

/// Asks the kernel; the error says why it would not forward the packet, `None` that a route throws it away.
pub fn way(query: &Query) -> io::Result<Option<Way>> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    let address = |address: Ipv4Addr| RouteAddress::from(IpAddr::V4(address));
    message.attributes.push(RouteAttribute::Destination(address(query.to)));
    if let Some(from) = query.from {
        message.header.source_prefix_length = 32;
        message.attributes.push(RouteAttribute::Source(address(from)));
    }
    if let Some(device) = query.arriving {
        message.attributes.push(RouteAttribute::Iif(device));
    }
    let answers = request(RouteNetlinkMessage::GetRoute(message), NLM_F_ACK)?;
    let answer = answers.iter().find(|answer| answer.kind == libc::RTM_NEWROUTE);
    answer.map_or(Ok(None), |answer| Way::parse(&answer.body).map_err(unreadable))
}

#[cfg(test)]
mod tests {
    use super::super::tests::attribute;
    use super::*;

    fn body(kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 32, 0, 0, 254, 3, 0, kind, 0, 0, 0, 0];
        body.extend(attributes.concat());
        body
    }

    #[test]
    fn an_answer_names_device_next_hop_and_mtu() {
        let bytes = body(
            libc::RTN_UNICAST,
            &[
                attribute(libc::RTA_OIF, &3u32.to_ne_bytes()),
                attribute(libc::RTA_GATEWAY, &[10, 0, 1, 1]),
                attribute(libc::RTA_METRICS, &attribute(RTAX_MTU, &1400u32.to_ne_bytes())),
            ],
        );
        let gateway = Some(Ipv4Addr::new(10, 0, 1, 1));
        assert_eq!(
            Way::parse(&bytes).unwrap(),
            Some(Way { device: 3, gateway, mtu: Some(1400), local: false })
        );
        assert_eq!(Way::parse(&body(libc::RTN_BLACKHOLE, &[])).unwrap(), None);
        assert!(Way::parse(&body(libc::RTN_LOCAL, &[])).unwrap().unwrap().local);
    }
}
