//! What a packet may be on its way to a vendor and back: the routes' MTU, and the MSS that follows from it.
//!
//! The kernel's forwarding honours a route's MTU; its route lookup for BPF programs tells the device's only. VPNs are
//! smaller than the pods' network and often without path MTU discovery, so the MSS of SYNs is lowered to what fits.

use ipnet::Ipv4Net;

use crate::config::{Mss, Vendor};
use crate::netlink::links::Link;
use crate::netlink::routes::Route;

/// IPv4 and TCP headers without options, bytes (RFC 6691).
const HEADERS: u32 = 40;

/// Smallest MSS that is ever set, bytes: a host must take datagrams of 576 (RFC 1122 section 3.3.3).
const LEAST_MSS: u32 = 536;

/// The limits of the way to one vendor; 0 where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Largest packet by the routes to the vendor, bytes.
    pub path_mtu: u16,
    /// Largest packet by the routes to the pods, bytes.
    pub inside_mtu: u16,
    /// Largest MSS, bytes.
    pub mss: u16,
}

/// The limits of the ways to `vendor` and to its pods, through those of `links` that are inside, and outside, by `sides`.
pub fn limits(
    vendor: &Vendor,
    routes: &[Route],
    links: &[Link],
    sides: impl Fn(&Link) -> (bool, bool),
) -> Limits {
    let (smallest, path_mtu) = by_routes(&vendor.cidrs, routes, links, |link| sides(link).1);
    let (_, inside_mtu) = by_routes(&vendor.allow_from, routes, links, |link| sides(link).0);
    let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let mss = match vendor.mss {
        Mss::Off => 0,
        Mss::Fixed(mss) => mss,
        // An Ethernet of full size is no bottleneck that anybody else has not got as well, but clamping to it is right
        // for jumbo pods.
        Mss::Auto => smallest.map_or(0, |mtu| narrow(mtu.saturating_sub(HEADERS).max(LEAST_MSS))),
    };
    Limits { path_mtu: path_mtu.map_or(0, narrow), inside_mtu: inside_mtu.map_or(0, narrow), mss }
}

/// The smallest MTU of the ways to `prefixes` through those of `links` that are `on_side`, and the smallest by which a route
/// is below its device, if any is.
fn by_routes(
    prefixes: &[Ipv4Net],
    routes: &[Route],
    links: &[Link],
    on_side: impl Fn(&Link) -> bool,
) -> (Option<u32>, Option<u32>) {
    let (mut smallest, mut narrowed) = (None, None);
    for route in prefixes.iter().flat_map(|prefix| serving(*prefix, routes)) {
        let devices = links.iter().filter(|link| route.devices.contains(&link.index) && on_side(link));
        for link in devices {
            let limit = route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
            smallest = least(smallest, limit);
            if limit < link.mtu {
                narrowed = least(narrowed, limit);
            }
        }
    }
    (smallest, narrowed)
}

fn least(so_far: Option<u32>, value: u32) -> Option<u32> {
    Some(so_far.map_or(value, |known| known.min(value)))
}

/// The routes that serve any part of `prefix`: those inside it, and the most specific around it. Which table a rule will
/// ask is not known here, so all tables count.
fn serving(prefix: Ipv4Net, routes: &[Route]) -> impl Iterator<Item = &Route> {
    let around = routes.iter().filter(|route| route.prefix.contains(&prefix));
    let longest = around.map(|route| route.prefix.prefix_len()).max();
    routes.iter().filter(move |route| {
        let inside = prefix.contains(&route.prefix);
        inside || (route.prefix.contains(&prefix) && Some(route.prefix.prefix_len()) == longest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::netlink::links::Layer;

    fn link(index: u32, mtu: u32) -> Link {
        Link { name: format!("d{index}"), layer: Layer::Ip, mtu, ..Link::with_index(index) }
    }

    fn route(prefix: &str, device: u32, mtu: Option<u32>) -> Route {
        Route { prefix: prefix.parse().unwrap(), devices: vec![device], mtu }
    }

    fn vendor(mss: Mss) -> Vendor {
        let example = include_str!("../../vpnat.example.toml");
        Vendor { mss, ..Config::parse(example, "x".as_ref()).unwrap().vendors.remove(0) }
    }

    #[test]
    fn a_tunnel_sets_the_mss() {
        let routes = [route("0.0.0.0/0", 2, None), route("192.0.2.0/24", 5, None)];
        let links = [link(2, 1500), link(5, 1400)];
        let found = limits(&vendor(Mss::Auto), &routes, &links, |link| (false, link.index == 5));
        assert_eq!(found, Limits { mss: 1360, ..Limits::default() });
        let found = limits(&vendor(Mss::Off), &routes, &links, |link| (false, link.index == 5));
        assert_eq!(found, Limits::default());
    }

    #[test]
    fn a_route_may_say_less_than_its_device() {
        let routes = [route("192.0.2.0/25", 2, Some(1300)), route("192.0.2.128/25", 2, None)];
        let found = limits(&vendor(Mss::Auto), &routes, &[link(2, 1500)], |_| (false, true));
        assert_eq!(found, Limits { path_mtu: 1300, inside_mtu: 0, mss: 1260 });
        let found = limits(&vendor(Mss::Fixed(1200)), &routes, &[link(2, 1500)], |_| (false, true));
        assert_eq!(found, Limits { path_mtu: 1300, inside_mtu: 0, mss: 1200 });
    }

    #[test]
    fn a_wider_route_counts_only_where_no_narrower_one_does() {
        let routes = [route("0.0.0.0/0", 2, Some(600)), route("192.0.0.0/16", 2, None)];
        let found = limits(&vendor(Mss::Auto), &routes, &[link(2, 1500)], |_| (false, true));
        assert_eq!(found, Limits { mss: 1460, ..Limits::default() });
    }
    /// The pods' side has limits of its own, which say nothing about MSS.
    #[test]
    fn the_routes_to_the_pods_count_by_themselves() {
        let vendor = vendor(Mss::Auto);
        let pods = vendor.allow_from[0].to_string();
        let routes = [route("0.0.0.0/0", 2, None), route(&pods, 3, Some(1300))];
        let links = [link(2, 1500), link(3, 9001)];
        let found = limits(&vendor, &routes, &links, |link| (link.index == 3, link.index == 2));
        assert_eq!(found, Limits { path_mtu: 0, inside_mtu: 1300, mss: 1460 });
        let found = limits(&vendor, &routes, &links, |link| (link.index == 2, link.index == 2));
        assert_eq!(found, Limits { path_mtu: 0, inside_mtu: 0, mss: 1460 });
    }
}
