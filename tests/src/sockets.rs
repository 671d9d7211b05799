//! Client sockets that leave from a chosen port, in the namespace of the calling thread.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::patience::patient;

/// How long a client waits for an answer that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Connects from `port` (0: any), giving up after `patience` ([`patient`]).
pub fn tcp_connect(port: u16, to: SocketAddrV4, patience: Duration) -> io::Result<TcpStream> {
    let patience = patient(patience);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.connect_timeout(&to.into(), patience)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket on `port` (0: any), connected to `to`: it hears that address only, and ICMP errors, and no
/// longer than `patience` ([`patient`]) at a time.
pub fn udp_connect(port: u16, to: SocketAddrV4, patience: Duration) -> io::Result<UdpSocket> {
    let patience = patient(patience);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.connect(&to.into())?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// What the kernel knows of a connection; `struct tcp_info`, which is longer than libc's, as words.
fn tcp_info(stream: &TcpStream) -> [u32; 128] {
    let mut info = [0; 128];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the socket is open; pointer and length describe `info`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "TCP_INFO: {}", io::Error::last_os_error());
    info
}

/// Segments of this connection that were lost: sent again, less those that the other side reports as
/// received twice (a busy machine sends again what was only late).
pub fn lost_segments(stream: &TcpStream) -> u32 {
    /// Offsets in the structure.
    const TOTAL_RETRANS: usize = 100;
    const DSACK_DUPS: usize = 216;
    let info = tcp_info(stream);
    info[TOTAL_RETRANS / 4].saturating_sub(info[DSACK_DUPS / 4])
}

/// Waits until all that was sent is acknowledged, and for the reports of what was received twice: when the connection is closed,
/// nobody listens to them any more. False if segments stay unacknowledged.
pub fn all_acknowledged(stream: &TcpStream) -> bool {
    const UNACKED: usize = 24;
    let until = |done: &dyn Fn() -> bool, patience: Duration| {
        let end = Instant::now() + patience;
        while !done() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        done()
    };
    let acknowledged = until(&|| tcp_info(stream)[UNACKED / 4] == 0, patient(PATIENCE));
    until(&|| lost_segments(stream) == 0, Duration::from_secs(1));
    acknowledged
}

/// Connections of the calling thread's namespace that were reset while they stood (EstabResets, RFC 4022).
pub fn resets() -> u64 {
    crate::amiss::counted()["Tcp.EstabResets"]
}

/// Waits until there is something to read or accept, or an error to fetch; false after `patience`.
pub fn readable(socket: &impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// Room for a burst of datagrams, whatever the machine's limit: one that came through XDP takes a page or more of it, however
/// short it is, and the default holds some 50 of them until a busy machine comes to read.
pub fn make_room(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::RcvBufForce, &(4 << 20))?)
}

/// A raw ICMP socket: it receives every ICMP message for this namespace.
pub fn icmp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    make_room(&socket)?;
    Ok(socket)
}
