//! Many TCP connections at once, all open and mostly idle, that can be asked whether they are still there.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::netns::Namespace;
use crate::pod::Pod;
use crate::sockets::{lost_segments, tcp_connect};

/// How long a byte may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections from pods to a port of the vendor's, until dropped.
pub struct Crowd {
    clients: Vec<TcpStream>,
    ask: Sender<()>,
    heard: Receiver<io::Result<()>>,
    server: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Opens `count` connections from the pods in turn to `port` of the vendor's host.
    pub fn connect(pods: &[Pod], vendor: &Namespace, to: SocketAddrV4, count: usize) -> Self {
        more_descriptors(count as u64 * 2 + 1024);
        let listener = vendor
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, to.port())))
            .unwrap_or_else(|error| panic!("the vendor's port {}: {error}", to.port()));
        let ((ask, asked), (say, heard)) = (channel(), channel());
        let server = std::thread::spawn(move || serve(&listener, count, &asked, &say));
        let mut clients = Vec::with_capacity(count);
        for pod in pods {
            let share = count.div_ceil(pods.len()).min(count - clients.len());
            clients.extend(pod.ns.enter(|| {
                let connect = |_| tcp_connect(0, to, PATIENCE);
                (0..share)
                    .map(connect)
                    .collect::<Result<Vec<_>, _>>()
                    .unwrap_or_else(|error| panic!("one of {share} connections of {}: {error}", pod.name()))
            }));
        }
        Self { clients, ask, heard, server: Some(server) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Sends a byte over each connection and back; how many connections answered.
    pub fn answering(&mut self) -> usize {
        self.ask.send(()).expect("the crowd's server");
        let mut sent: Vec<bool> =
            self.clients.iter_mut().map(|client| client.write_all(b"?").is_ok()).collect();
        let heard = self.heard.recv_timeout(PATIENCE * 6);
        if let Ok(Err(error)) = &heard {
            eprintln!("the vendor's side: {error}");
        }
        for (client, alive) in self.clients.iter_mut().zip(&mut sent) {
            *alive &= client.read_exact(&mut [0]).is_ok();
        }
        sent.into_iter().filter(|alive| *alive).count()
    }

    /// Segments of the pods that were lost and sent again.
    pub fn lost(&self) -> u32 {
        self.clients.iter().map(lost_segments).sum()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // The server ends with its questions.
        (self.ask, _) = channel();
        self.clients.clear();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Accepts all, and answers a byte on each whenever asked to.
fn serve(listener: &TcpListener, count: usize, asked: &Receiver<()>, say: &Sender<io::Result<()>>) {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let Ok((stream, _)) = listener.accept() else { return };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_nodelay(true);
        streams.push(stream);
    }
    while asked.recv().is_ok() {
        let mut result = Ok(());
        for stream in &mut streams {
            let mut byte = [0];
            let answered = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
            if answered.is_err() {
                result = answered;
            }
        }
        if say.send(result).is_err() {
            return;
        }
    }
}

fn more_descriptors(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).expect("more descriptors");
    }
}
