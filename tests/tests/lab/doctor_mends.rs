//! Each check of `vpnat doctor` on a machine with that one thing wrong: it says so, with the severity that its exit status
//! has, and what it prints as the cure, run as printed, cures.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde_json::Value;
use tests::agent::{Agent, Xdp, binary};
use tests::process;
use tests::sockets::udp_connect;
use tests::topology::{EGRESS, NAT, Shape, Topology, VENDOR};
use tests::vendor::ECHO;

use crate::setting::Setting;

/// One line of the doctor's.
#[derive(Clone, Debug)]
struct Finding {
    check: String,
    level: String,
    found: String,
    why: String,
    fix: Option<String>,
}

/// A configuration in a file, and the tools that the doctor finds.
struct Doctor<'a> {
    lab: &'a Topology<'a>,
    config: String,
    tools: Option<String>,
}

impl<'a> Doctor<'a> {
    fn new(lab: &'a Topology<'a>) -> Self {
        Self { lab, config: lab.config(Xdp::Off).toml(), tools: None }
    }

    /// With another configuration.
    fn told(&self, old: &str, new: &str) -> Self {
        assert!(self.config.contains(old), "no {old} in\n{}", self.config);
        Self { lab: self.lab, config: self.config.replacen(old, new, 1), tools: self.tools.clone() }
    }

    fn examine(&self) -> (Vec<Finding>, i32) {
        let dir = self.lab.site().sandbox.dir();
        let file = dir.join("doctor.toml");
        std::fs::write(&file, &self.config).expect("a configuration");
        let mut command = self.lab.nat.command(&binary().to_string_lossy());
        command.args(["doctor", "--json", "--config"]).arg(&file);
        if let Some(tools) = &self.tools {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{tools}:{path}:/usr/sbin:/sbin"));
        }
        let output = process::output(command);
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let findings = answer["findings"].as_array().expect("findings").iter();
        let text = |finding: &Value, field: &str| finding[field].as_str().map(str::to_owned);
        let findings = findings.map(|finding| Finding {
            check: text(finding, "check").expect("a check"),
            level: text(finding, "level").expect("a level"),
            found: text(finding, "found").expect("words"),
            why: text(finding, "why").expect("words"),
            fix: text(finding, "fix"),
        });
        (findings.collect(), output.status.code().expect("an end"))
    }

    /// Says that all is well with `check`.
    fn well(&self, check: &str) {
        let (findings, _) = self.examine();
        let mine: Vec<_> = findings.iter().filter(|finding| finding.check == check).collect();
        assert!(!mine.is_empty() && mine.iter().all(|finding| finding.level == "ok"), "{check}: {mine:#?}");
    }

    /// What is wrong with `check`; the exit status says how bad the worst is.
    fn ill(&self, check: &str, level: &str, words: &str) -> Finding {
        let (findings, status) = self.examine();
        let worst = [("error", 4), ("warning", 3), ("ok", 0)];
        let worst = worst.iter().find(|(level, _)| findings.iter().any(|finding| finding.level == *level));
        assert_eq!(Some(status), worst.map(|(_, status)| *status), "{findings:#?}");
        let found = findings.iter().find(|finding| finding.check == check && finding.level != "ok");
        let found = found.unwrap_or_else(|| panic!("all is well with {check}: {findings:#?}"));
        assert!(found.level == level && found.found.contains(words), "{found:#?}");
        assert!(!found.why.is_empty(), "{found:#?}");
        found.clone()
    }

    /// The same, and the command that it prints mends it.
    fn ill_until_mended(&self, check: &str, level: &str, words: &str) {
        let finding = self.ill(check, level, words);
        let fix = finding.fix.clone().expect("a fix");
        let mut shell = self.lab.nat.command("sh");
        shell.args(["-c", &fix]);
        let output = process::output(shell);
        assert!(output.status.success(), "{finding:#?}: {}", String::from_utf8_lossy(&output.stderr));
        self.well(check);
    }
}

fn machine(shape: Shape, work: impl FnOnce(&Topology<'_>, &mut Agent<'_>)) {
    Setting::tc(shape).run(|lab, agent| work(lab, agent));
}

#[test]
fn forwarding_off() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("forwarding");
        lab.nat.sysctl("net.ipv4.ip_forward", "0");
        doctor.ill_until_mended("forwarding", "error", "ip_forward is 0");
    });
}

/// A tunnel that is down, one that is not there, and an MTU that is seen.
#[test]
fn devices() {
    machine(Shape::Tun, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("device");
        let (findings, _) = doctor.examine();
        assert!(findings.iter().any(|finding| finding.found == "tun0 is up, MTU 1400"), "{findings:#?}");
        lab.nat.ip("link set tun0 down");
        doctor.ill_until_mended("device", "error", "tun0 is down");
        // Its route went with it.
        doctor.ill_until_mended("route", "error", "192.0.2.0/24 (vendor-a) is routed through eth0");
        let missing = doctor.told("\"tun0\"", "\"tun9\"");
        let finding = missing.ill("device", "error", "tun9 is not there");
        assert!(finding.fix.is_some_and(|fix| fix.contains("tun9")));
    });
}

#[test]
fn a_route_that_is_missing_or_leads_elsewhere() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("route");
        for kind in ["unreachable", "blackhole"] {
            lab.nat.ip(&format!("route add {kind} 192.0.2.0/24 metric 1"));
            doctor.ill_until_mended("route", "error", "no way to 192.0.2.0/24 (vendor-a)");
            lab.nat
                .ip(&format!("route del {kind} 192.0.2.0/24 metric 1\nroute del 192.0.2.0/24 via 10.0.1.1"));
        }
        lab.nat.ip("route replace 192.0.2.0/24 dev eth1");
        doctor.ill_until_mended("route", "error", "is routed through eth1, which is not in outside");
        let reply = lab.pods[0].http_get(0, VENDOR, "/").expect("the route is of use");
        assert_eq!(*reply.seen.ip(), EGRESS);
    });
}

#[test]
fn a_strict_reverse_path_filter() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        lab.nat.sysctl("net.ipv4.conf.eth0.rp_filter", "1");
        // Strict alone drops nothing.
        doctor.well("rp_filter");
        lab.nat.ip("route replace 198.51.100.0/24 dev eth1");
        doctor.ill_until_mended("rp_filter", "warning", "eth0 has a strict reverse-path filter");
    });
}

#[test]
fn an_egress_address_that_is_absent() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("egress");
        let device = "eth0";
        lab.nat.ip(&format!("address del {EGRESS}/32 dev {device}"));
        doctor.ill_until_mended(
            "egress",
            "warning",
            "10.0.1.10 (vendor-a) is not an address of this machine",
        );
        let reply =
            lab.pods[0].http_get(0, VENDOR, "/").expect("replies come, whatever device has the address");
        assert_eq!(*reply.seen.ip(), EGRESS);
    });
}

#[test]
fn an_mss_that_does_not_fit() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("mss");
        let name = "name = \"vendor-a\"";
        let with = |mss: &str| doctor.told(name, &format!("{name}\ntcp_mss = {mss}"));
        with("1460").well("mss");
        lab.nat.ip("route add 192.0.2.0/24 via 10.0.1.1 dev eth0 mtu lock 1300");
        let finding = with("1400").ill("mss", "warning", "tcp_mss = 1400, and the way takes 1300 bytes");
        assert_eq!(finding.fix.as_deref(), Some("tcp_mss = \"auto\" or 1260 in [[vendor]] vendor-a"));
        with("\"off\"").ill("mss", "warning", "pods may send 1500 bytes, and the way takes 1300");
        with("1260").well("mss");
        with("\"auto\"").well("mss");
    });
}

#[test]
fn rules_that_rewrite_sources() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("firewall");
        lab.nat.run("nft add table ip other");
        lab.nat.run("nft add chain ip other post { type nat hook postrouting priority 100 ; }");
        doctor.well("firewall");
        // What a NAT instance does for everybody else.
        lab.nat.run("nft add rule ip other post ip daddr != { 192.0.2.0/24, 198.51.100.0/24 } masquerade");
        doctor.well("firewall");
        lab.nat.run("nft add rule ip other post oifname eth0 masquerade");
        doctor.ill_until_mended("firewall", "warning", "oifname \"eth0\" masquerade");
        // As iptables writes them, whichever kind it is here.
        lab.nat.run("iptables -t nat -A POSTROUTING -d 192.0.2.0/24 -j RETURN");
        lab.nat.run("iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE");
        doctor.ill_until_mended("firewall", "warning", "eth0");
    });
}

#[test]
fn sockets_on_the_pods_ports() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        let bound =
            |port| lab.nat.enter(move || std::net::UdpSocket::bind((EGRESS, port))).expect("a socket");
        let socket = bound(500);
        doctor.well("sockets");
        drop(socket);
        let _socket = bound(4500);
        let finding =
            doctor.ill("sockets", "warning", "10.0.1.10:4500, and ports 1024-65535 are given to pods");
        assert!(finding.fix.is_some_and(|fix| fix.contains("[[vendor]] ports")));
        let name = "name = \"vendor-a\"";
        doctor.told(name, &format!("{name}\nports = \"8192-65535\"")).well("sockets");
    });
}

/// What the machine itself sends to a vendor's prefix: from a socket, and through a tunnel that ends there.
#[test]
fn far_ends_in_a_vendors_prefix() {
    machine(Shape::TwoArm, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("peers");
        // What the fix says, done.
        let exempted = |finding: &Finding| {
            let fix = finding.fix.as_deref().expect("a fix");
            let (_, rest) = fix.split_once("exempt = ").expect("an exemption");
            let (list, _) = rest.split_once(" in ").expect("where");
            let name = "name = \"vendor-a\"";
            doctor.told(name, &format!("{name}\nexempt = {list}")).well("peers");
        };
        let other = SocketAddrV4::new(VENDOR, ECHO);
        let socket = lab.nat.enter(|| udp_connect(4500, other, Duration::from_secs(1))).expect("a socket");
        exempted(&doctor.ill(
            "peers",
            "warning",
            "a socket (udp 10.0.1.5:4500 to port 7) speaks to 192.0.2.10",
        ));
        drop(socket);
        doctor.well("peers");
        lab.nat
            .ip(&format!("link add vx9 type vxlan id 9 dstport 4789 dev eth0 local {NAT} remote 192.0.2.1"));
        exempted(&doctor.ill("peers", "error", "the tunnel vx9 speaks to 192.0.2.1"));
        lab.nat.ip("link del vx9");
        doctor.well("peers");
    });
}

/// One source with a thousand flows speaks for many pods.
#[test]
fn a_source_that_looks_like_a_node() {
    machine(Shape::TwoArm, |lab, agent| {
        let doctor = Doctor::new(lab);
        doctor.well("sources");
        let pod = &lab.pods[0];
        pod.ns.enter(|| {
            let sockets = (0..1000u16).map(|n| {
                let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 20000 + n)).expect("a socket");
                socket.send_to(b"question", (VENDOR, ECHO)).expect("sent");
            });
            sockets.for_each(drop);
        });
        process::wait_until("a thousand flows", Duration::from_secs(10), || {
            agent.vpnat_json("status")["flows"].as_u64() >= Some(1000)
        });
        let finding = doctor.ill("sources", "warning", "few sources with very many flows: 10.0.2.7 (1000)");
        let fix = finding.fix.expect("a fix");
        assert!(fix.ends_with("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=192.0.2.0/24,198.51.100.0/24"), "{fix}");
        agent.vpnat_ok("flows kill --inside 10.0.2.7 --yes");
        doctor.well("sources");
    });
}

/// A table that does not fit, where none is yet: on a machine of one gigabyte, which the lab's own mounts pretend.
#[test]
fn too_little_memory() {
    machine(Shape::TwoArm, |lab, _| {
        let here = "max_flows = 65536";
        let large = "max_flows = 8388608";
        let meminfo = lab.site().sandbox.dir().join("meminfo");
        std::fs::write(&meminfo, "MemTotal: 1048576 kB\nMemFree: 9 kB\nMemAvailable: 524288 kB\n")
            .expect("a file");
        lab.nat.run(&format!("mount --bind {} /proc/meminfo", meminfo.display()));
        let fresh = Doctor::new(lab).told("/vpnat\"", "/elsewhere\"");
        fresh.well("memory");
        let finding = fresh.told(here, large).ill("memory", "warning", "the flow table takes 2129920 KiB");
        assert!(finding.fix.is_some_and(|fix| fix.contains("max_flows")));
        // The one that is there has its memory already.
        Doctor::new(lab).told(here, large).well("memory");
        lab.nat.run("umount /proc/meminfo");
    });
}

#[test]
fn xdp_that_cannot_be() {
    machine(Shape::Tun, |lab, _| {
        let doctor = Doctor::new(lab);
        doctor.well("xdp");
        let tunnels = doctor.told("inside = [\"eth1\"]", "inside = [\"tun0\"]").told("\"off\"", "\"native\"");
        let finding = tunnels.ill("xdp", "error", "no Ethernet device");
        assert!(finding.fix.is_some_and(|fix| fix.contains("xdp = \"off\" or \"auto\"")));
        tunnels.told("\"native\"", "\"auto\"").well("xdp");
    });
}

/// What a driver says: veth has neither of these, so that a tool in ethtool's place tells of one that has.
#[test]
fn what_the_driver_says() {
    machine(Shape::TwoArm, |lab, _| {
        let mut doctor = Doctor::new(lab);
        doctor.well("allowances");
        doctor.well("offloads");
        let tools = lab.site().sandbox.dir().join("tools");
        let lro = tools.join("lro-is-off");
        std::fs::create_dir_all(&tools).expect("a folder");
        let script = format!(
            "#!/bin/sh\n\
             case \"$*\" in\n\
             '-S eth0') echo 'NIC statistics:'; echo '     pps_allowance_exceeded: 7'; echo '     bw_in_allowance_exceeded: 0';;\n\
             '-k eth0') echo \"large-receive-offload: $(test -e {lro} && echo off || echo on)\";;\n\
             '-K eth0 lro off') touch {lro};;\n\
             esac\n",
            lro = lro.display()
        );
        let ethtool = tools.join("ethtool");
        std::fs::write(&ethtool, script).expect("a tool");
        std::fs::set_permissions(&ethtool, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("a tool");
        doctor.tools = Some(tools.display().to_string());
        doctor.ill("allowances", "warning", "eth0: pps_allowance_exceeded is 7");
        let finding = doctor.ill("offloads", "error", "eth0 merges packets as they arrive");
        let fix = finding.fix.expect("a fix");
        lab.nat.run(&format!("{}/{fix}", tools.display()));
        doctor.well("offloads");
    });
}
