//! What coturn's `turnutils_natdiscovery` (RFC 5780) says of the NAT is what the configuration asked for.

use std::time::Duration;

use tests::pod::Pod;
use tests::process::{Background, wait_until};
use tests::sockets::udp_connect;
use tests::topology::{Shape, Topology, VENDOR};

use crate::setting::Setting;

/// STUN's port, and the other one that the server answers on.
const PORTS: [u16; 2] = [3478, 3479];
/// The server's other address.
const OTHER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 11);

/// A STUN server of the vendor's, with two addresses and two ports.
fn stun_server(lab: &Topology<'_>) -> Background {
    let vendor = &lab.site().vendors[0];
    vendor.ip(&format!("addr add {OTHER}/24 dev eth0"));
    let dir = lab.site().sandbox.dir();
    // Without a file it would read the machine's own.
    let config = dir.join("turnserver.conf");
    std::fs::write(&config, "").expect("an empty configuration");
    let mut command = vendor.command("turnserver");
    command.arg("-c").arg(&config).arg("--pidfile").arg(dir.join("turnserver.pid"));
    command.arg("--userdb").arg(dir.join("turndb"));
    command.args(["--listening-ip", &VENDOR.to_string(), "--listening-ip", &OTHER.to_string()]);
    command.args(["--listening-port", "3478", "--alt-listening-port", "3479", "--log-file", "stdout"]);
    command.args([
        "--stun-only",
        "--no-auth",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "--no-tcp",
        "--relay-threads",
        "1",
    ]);
    let mut server = Background::start("turnserver", command);
    wait_until("the STUN server", Duration::from_secs(20), || {
        assert!(server.ended().is_none(), "the STUN server does not start:\n{}", server.last_words());
        let sockets = vendor.run("ss --no-header --udp --listening --numeric");
        [VENDOR, OTHER]
            .iter()
            .all(|address| PORTS.iter().all(|port| sockets.contains(&format!("{address}:{port} "))))
    });
    server
}

/// What natdiscovery says of the pod, from this port of its.
fn discovery(pod: &Pod, mode: &str, port: u16) -> String {
    let line = format!("turnutils_natdiscovery {mode} -L {} -l {port} {VENDOR}", pod.address);
    let output = pod.ns.try_run(&line);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A neighbour has the port towards all four of the server's ends, so that keeping the port is not to be had: what
/// is left shows the kind of mapping.
fn take(pod: &Pod, port: u16) {
    for address in [VENDOR, OTHER] {
        for to in PORTS {
            pod.ns.enter(|| {
                let to = std::net::SocketAddrV4::new(address, to);
                let socket = udp_connect(port, to, Duration::from_secs(1)).expect("a socket");
                // A binding request, with an answer.
                let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
                socket.send(&request).expect("send");
                socket.recv(&mut [0; 256]).expect("the STUN server's answer");
            });
        }
    }
}

/// One port to all of the server's ends, not the pod's own, and answers from the end that was asked only.
#[test]
fn rfc4787_req1_row_8_1_endpoint_independent_mapping_and_dependent_filtering() {
    for setting in [Setting::tc(Shape::TwoArm), Setting::xdp(Shape::TwoArm)] {
        setting.run_before_start(|lab, agent| {
            let text = std::fs::read_to_string(agent.file()).expect("the configuration");
            let text = text.replace(
                "name = \"vendor-a\"\n",
                "name = \"vendor-a\"\nmapping = \"endpoint-independent\"\n",
            );
            std::fs::write(agent.file(), text).expect("write the configuration");
            agent.start();
            let _server = stun_server(lab);
            take(&lab.pods[1], 50000);
            let mapping = discovery(&lab.pods[0], "-m", 50000);
            assert!(mapping.contains("NAT with Endpoint Independent Mapping"), "{mapping}");
            let filtering = discovery(&lab.pods[0], "-f", 50001);
            assert!(filtering.contains("NAT with Address and Port Dependent Filtering"), "{filtering}");
            let status = agent.vpnat_json("status");
            assert_eq!(status["vendors"][0]["mapping"], "endpoint-independent");
        });
    }
}

#[test]
fn endpoint_dependent_mapping_and_filtering() {
    for setting in [Setting::tc(Shape::TwoArm), Setting::xdp(Shape::TwoArm)] {
        setting.run(|lab, _| {
            let _server = stun_server(lab);
            take(&lab.pods[1], 50000);
            let mapping = discovery(&lab.pods[0], "-m", 50000);
            assert!(mapping.contains("NAT with Address and Port Dependent Mapping"), "{mapping}");
            let filtering = discovery(&lab.pods[0], "-f", 50001);
            assert!(filtering.contains("NAT with Address and Port Dependent Filtering"), "{filtering}");
        });
    }
}
