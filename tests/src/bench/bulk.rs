//! One TCP stream with segmentation offload, everything on one processor: what the stack's own path carries.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::contender::{Contender, Host};
use super::end::{SoftirqThread, pin, thread_time};
use super::path::wire;
use super::report::{Better, Report};
use super::{Effort, progress};
use crate::netns::Namespace;
use crate::sandbox::Sandbox;

const POD: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 1);
const VENDOR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 10), 443);

/// Measures every contender that leaves packets to the stack.
pub fn measure(sandbox: &Sandbox, contenders: &[Contender], effort: &Effort, report: &mut Report) {
    let able: Vec<&Contender> = contenders
        .iter()
        .filter(|one| !matches!(one, Contender::Straight | Contender::Redirect | Contender::VpnatXdp))
        .collect();
    for round in 0..effort.rounds {
        progress(&format!("TCP in bulk, round {} of {}", round + 1, effort.rounds));
        for contender in &able {
            let rate = one(sandbox, contender, effort.seconds.max(0.5));
            report.record("bulk", "one stream", "Gbit/s of one core", Better::More, contender.name(), rate);
        }
    }
}

fn one(sandbox: &Sandbox, contender: &Contender, seconds: f64) -> f64 {
    let (pods, nat, vendor) = (Namespace::new("pods"), Namespace::new("nat"), Namespace::new("vendor"));
    wire(&pods, &nat, &vendor);
    pods.ip(&format!("addr add {POD}/32 dev pods0\nroute replace default via 10.0.2.1 src {POD}"));
    vendor.ip(&format!("addr add {}/32 dev vendor0\nroute add 10.2.0.0/16 via 10.0.1.10", VENDOR.ip()));
    let _host = Host::start(sandbox, &nat, contender);
    let listener = vendor.enter(|| TcpListener::bind(VENDOR).expect("listen as vendor"));
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin();
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut buffer = vec![0; 1 << 18];
            let (mut bytes, mut started) = (0u64, thread_time());
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if bytes == 0 {
                    started = thread_time();
                }
                bytes += count as u64;
            }
            (bytes, thread_time() - started)
        });
        let client = pods.enter(|| {
            let processor = pin();
            let mut stream = TcpStream::connect(VENDOR).expect("connect to the vendor");
            let data = vec![0x5a; 1 << 18];
            let softirq = SoftirqThread::of(processor);
            let (begun, started) = (Instant::now(), (thread_time(), softirq.time()));
            while begun.elapsed() < Duration::from_secs_f64(seconds) {
                stream.write_all(&data).expect("send to the vendor");
            }
            thread_time() - started.0 + softirq.time().saturating_sub(started.1)
        });
        let (bytes, server) = server.join().expect("the vendor's thread");
        bytes as f64 * 8.0 / 1e9 / (client + server).as_secs_f64()
    })
}
