//! The IPv4 routes of the agent's own network namespace, as far as they limit what a packet may be.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::DecodeError;
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{attributes, list};

/// Length of `struct rtmsg`.
pub(super) const HEADER: usize = 12;

/// The MTU among a route's metrics (`include/uapi/linux/rtnetlink.h`).
pub(super) const RTAX_MTU: u16 = 2;

/// A unicast route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its destinations.
    pub prefix: Ipv4Net,
    /// The devices that it leads to, by index.
    pub devices: Vec<u32>,
    /// Largest packet, bytes, if the route says so.
    pub mtu: Option<u32>,
}

impl Route {
    /// Reads an `RTM_NEWROUTE` body; `None` if it is no unicast route.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let header = RouteHeader::parse(body)?;
        if header.kind != RouteType::Unicast || header.address_family != AddressFamily::Inet {
            return Ok(None);
        }
        let mut address = Ipv4Addr::UNSPECIFIED;
        let mut devices = Vec::new();
        let mut mtu = None;
        let used = [libc::RTA_DST, libc::RTA_OIF, libc::RTA_METRICS, libc::RTA_MULTIPATH];
        for attribute in attributes(body.get(HEADER..).unwrap_or_default(), &used) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                libc::RTA_DST => address = octets(value).map(Ipv4Addr::from).ok_or("a route's address")?,
                libc::RTA_OIF => devices.extend(number(value)),
                libc::RTA_METRICS => {
                    for metric in attributes(value, &[RTAX_MTU]) {
                        mtu = number(metric?.value());
                    }
                }
                _ => devices.extend(next_hops(value)),
            }
        }
        let prefix =
            Ipv4Net::new(address, header.destination_prefix_length).map_err(|_| "a route's prefix length")?;
        Ok(Some(Self { prefix, devices, mtu }))
    }
}

/// The devices of an `RTA_MULTIPATH` attribute: a list of `struct rtnexthop`, each with its own length.
fn next_hops(mut list: &[u8]) -> Vec<u32> {
    let mut devices = Vec::new();
    while let Some(length) = list.get(..2).map(|bytes| usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])))
    {
        devices.extend(list.get(4..8).and_then(number));
        if length < 8 {
            break;
        }
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    devices
}

pub(super) fn octets(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.try_into().ok()
}

pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    octets(bytes).map(u32::from_ne_bytes)
}

/// All unicast routes, of all tables. One that cannot be read is left out: it limits nothing.
pub fn dump() -> io::Result<Vec<Route>> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    let answers = list(RouteNetlinkMessage::GetRoute(request))?;
    let answers = answers.iter().filter(|answer| answer.kind == libc::RTM_NEWROUTE);
    Ok(answers.filter_map(|answer| Route::parse(&answer.body).ok().flatten()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::attribute;
    use super::*;

    fn body(length: u8, kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, length, 0, 0, 254, 3, 0, kind, 0, 0, 0, 0];
        body.extend(attributes.concat());
        body
    }

    #[test]
    fn a_route_tells_its_devices_and_its_mtu() {
        let metrics = attribute(RTAX_MTU, &1380u32.to_ne_bytes());
        let bytes = body(
            24,
            libc::RTN_UNICAST,
            &[
                attribute(libc::RTA_DST, &[192, 0, 2, 0]),
                attribute(libc::RTA_OIF, &7u32.to_ne_bytes()),
                attribute(libc::RTA_METRICS, &metrics),
            ],
        );
        let prefix = "192.0.2.0/24".parse().unwrap();
        assert_eq!(Route::parse(&bytes).unwrap(), Some(Route { prefix, devices: vec![7], mtu: Some(1380) }));
    }

    #[test]
    fn every_next_hop_counts() {
        let hop = |index: u32| [&8u16.to_ne_bytes()[..], &[0, 0], &index.to_ne_bytes()].concat();
        let bytes = body(0, libc::RTN_UNICAST, &[attribute(libc::RTA_MULTIPATH, &[hop(3), hop(4)].concat())]);
        assert_eq!(Route::parse(&bytes).unwrap().unwrap().devices, [3, 4]);
    }

    #[test]
    fn what_is_no_way_out_is_left_out() {
        assert_eq!(Route::parse(&body(8, libc::RTN_BLACKHOLE, &[])).unwrap(), None);
    }
}
