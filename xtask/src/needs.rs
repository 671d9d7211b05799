//! What the lab and the build need on a machine, and which Debian package brings it.

use std::path::Path;

use xtask::lookup;

/// One thing that has to be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    /// A program's name, or the absolute path of a file.
    pub what: &'static str,
    /// Package that brings it.
    pub package: &'static str,
    /// What for.
    pub purpose: &'static str,
}

const fn need(what: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need { what, package, purpose }
}

/// For building the agent and its tools; the compilers themselves are a matter of their own.
pub const BUILD: &[Need] = &[
    need("cc", "gcc", "linking"),
    need("/usr/include/stdio.h", "libc6-dev", "linking"),
    need("git", "git", "lists of source files"),
];

/// For the lab and the demo.
pub const LAB: &[Need] = &[
    need("ip", "iproute2", "namespaces, devices, routes"),
    need("ping", "iputils-ping", "reachability"),
    need("ethtool", "ethtool", "device offloads"),
    need("bpftool", "bpftool", "looking into maps and programs"),
    need("tcpdump", "tcpdump", "captures"),
    need("curl", "curl", "HTTP through the NAT"),
    need("nft", "nftables", "measuring against netfilter"),
    need("iptables", "iptables", "measuring against netfilter"),
    need("turnserver", "coturn", "a STUN server, and what it says of the NAT"),
    need("ss", "iproute2", "listening sockets"),
    need("charon-systemd", "charon-systemd", "IPsec tunnels"),
    need("swanctl", "strongswan-swanctl", "IPsec tunnels"),
    need(
        "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so",
        "libcharon-extra-plugins",
        "IPsec on kernels without ESP",
    ),
    need(
        "/usr/lib/ipsec/plugins/libstrongswan-openssl.so",
        "libstrongswan-standard-plugins",
        "IPsec ciphers",
    ),
    need("wireguard-go", "wireguard-go", "WireGuard tunnels"),
    need("wg", "wireguard-tools", "WireGuard tunnels"),
    need("promtool", "prometheus", "checking metrics and alert rules"),
    need("tshark", "tshark", "reading IPFIX with somebody else's decoder"),
];

/// For running the documentation's commands.
pub const PAGES: &[Need] = &[
    need("aws", "awscli", "the documentation's commands for AWS, against a stand-in"),
    need("kubectl", "kubernetes-client", "the documentation's commands for a cluster, against a stand-in"),
];

/// For making packages and for trying them in a Debian tree of their own.
pub const PACKAGE: &[Need] = &[
    need("dpkg-deb", "dpkg", "the Debian package"),
    need("rpmbuild", "rpm", "the RPM package"),
    need("mmdebstrap", "mmdebstrap", "a clean Debian tree to install packages in"),
    need("buildah", "buildah", "the container image"),
    need("mandoc", "mandoc", "reading the man pages as somebody else does"),
    need("systemd-nspawn", "systemd-container", "a machine of its own to boot that tree as"),
];

impl Need {
    /// Whether the machine has it.
    pub fn is_met(&self) -> bool {
        if self.what.starts_with('/') {
            return Path::new(self.what).exists();
        }
        lookup::command(self.what).is_some()
    }
}

/// Those of `needs` that `is_met` denies.
pub fn missing<'a>(
    needs: impl IntoIterator<Item = &'a Need>,
    is_met: impl Fn(&Need) -> bool,
) -> Vec<&'a Need> {
    needs.into_iter().filter(|need| !is_met(need)).collect()
}

/// The packages that bring `needs`, each once.
pub fn packages(needs: &[&Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = needs.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_missing_things_are_chosen() {
        let lacking = |name: &'static str| move |need: &Need| need.what != name;
        assert_eq!(packages(&missing(LAB, |_| true)), Vec::<&str>::new());
        assert_eq!(packages(&missing(LAB, lacking("swanctl"))), ["strongswan-swanctl"]);
        let all: std::collections::BTreeSet<_> = LAB.iter().map(|need| need.package).collect();
        assert_eq!(packages(&missing(LAB, |_| false)), all.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_package_is_named_once() {
        let needs = [need("wg", "wireguard-tools", ""), need("wg-quick", "wireguard-tools", "")];
        assert_eq!(packages(&missing(&needs, |_| false)), ["wireguard-tools"]);
    }

    #[test]
    fn programs_and_files_are_looked_up_alike() {
        assert!(need("sh", "", "").is_met() && need("/proc/self", "", "").is_met());
        assert!(!need("no-such-program-anywhere", "", "").is_met());
        assert!(!need("/no/such/file", "", "").is_met());
    }
}
