//! The lab: network namespaces, devices, tunnels and vendor servers as guard types that clean up after
//! themselves, and what is needed to look at every packet that passes between them.
//!
//! Everything happens in namespaces that the lab makes and holds by file descriptor, in a mount namespace of
//! its own. A process that is killed leaves nothing behind: the kernel takes it all away.
//!
//! A lab panics with a sentence that says what went wrong rather than returning errors: a test that cannot be
//! set up is a failed test.

pub mod agent;
pub mod amiss;
pub mod bench;
pub mod capture;
pub mod cloud;
pub mod crowd;
pub mod demo;
pub mod flag;
pub mod hostile;
pub mod ipsec;
pub mod link;
pub mod long;
pub mod machine;
pub mod netns;
pub mod overlay;
pub mod packet;
pub mod pages;
pub mod patience;
pub mod pod;
pub mod process;
pub mod raw;
pub mod sandbox;
pub mod short;
pub mod sockets;
pub mod steps;
pub mod topology;
pub mod tun;
pub mod vendor;
pub mod watch;
pub mod wireguard;
pub mod xdp_pass;
