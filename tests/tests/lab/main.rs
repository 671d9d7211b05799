//! Whole paths: pods, the NAT instance, tunnels and vendors in network namespaces.
//!
//! Every scenario runs under the watch of captures beside the vendors and the NAT instance; a packet with a
//! source that is not its egress address, or with a wrong checksum, fails the scenario.

mod standin;
