//! Client sockets that leave from a chosen port, in the namespace of the calling thread.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

/// How long a client waits for an answer that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Connects from `port` (0: any).
pub fn tcp_connect(port: u16, to: SocketAddrV4, patience: Duration) -> io::Result<TcpStream> {
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

/// A UDP socket on `port` (0: any), connected to `to`: it hears that address only, and ICMP errors.
pub fn udp_connect(port: u16, to: SocketAddrV4, patience: Duration) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.connect(&to.into())?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// Segments that the kernel has sent again on this connection.
pub fn retransmits(stream: &TcpStream) -> u32 {
    // SAFETY: tcp_info is plain data, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
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
    info.tcpi_total_retrans
}

/// Waits until there is something to read or accept, or an error to fetch; false after `patience`.
pub fn readable(socket: &impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// A raw ICMP socket: it receives every ICMP message for this namespace.
pub fn icmp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.set_recv_buffer_size(4 << 20)?;
    Ok(socket)
}
