//! Devices between namespaces, and the switches on them that matter to a NAT.

use crate::netns::Namespace;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Makes a pair of veth devices, one end in each namespace, both up.
pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str)) {
    let (a_ns, a_name) = a;
    let (b_ns, b_name) = b;
    a_ns.ip(&format!(
        "link add {a_name} type veth peer name {b_name} netns {}
         link set {a_name} up",
        b_ns.path().display()
    ));
    b_ns.ip(&format!("link set {b_name} up"));
}

/// Makes a bridge in the namespace out of devices that are there.
pub fn bridge(namespace: &Namespace, name: &str, ports: &[&str]) {
    let mut lines = format!("link add {name} type bridge\n");
    for port in ports {
        lines.push_str(&format!("link set {port} master {name}\n"));
    }
    lines.push_str(&format!("link set {name} up\n"));
    namespace.ip(&lines);
}

/// Switches transmit checksum offload. Off, packets leave the device with their checksums complete, which
/// programs on the XDP hook of the other end rely on; it also ends segmentation offload there.
pub fn tx_checksum(namespace: &Namespace, device: &str, on: bool) {
    let state = if on { "on" } else { "off" };
    namespace.run(&format!("ethtool -K {device} tx {state}"));
}

/// Switches receive offload. A veth end takes packets redirected by XDP only if it polls, which it does with
/// an XDP program of its own or with this switched on.
pub fn gro(namespace: &Namespace, device: &str, on: bool) {
    let state = if on { "on" } else { "off" };
    namespace.run(&format!("ethtool -K {device} gro {state}"));
}

/// Sets the largest packet of a device.
pub fn mtu(namespace: &Namespace, device: &str, bytes: u32) {
    namespace.ip(&format!("link set {device} mtu {bytes}"));
}

/// The Ethernet address of a device.
pub fn mac(namespace: &Namespace, device: &str) -> Mac {
    let text = namespace.run(&format!("ip -json link show dev {device}"));
    let links: serde_json::Value = serde_json::from_str(&text).expect("ip -json prints JSON");
    let address = links[0]["address"].as_str().expect("an Ethernet device has an address");
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(digits, 16).expect("an Ethernet address in hexadecimal");
    }
    mac
}
