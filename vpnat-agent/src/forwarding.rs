//! The sysctls that forwarding needs. Each value that is changed is logged; nothing is changed back, since
//! the datapath stays.

use std::fs;
use std::path::PathBuf;

use crate::config::Config;
use crate::datapath::Error;

/// Turns forwarding on, and redirects off where one device serves both sides: a redirect would tell the
/// pods' router to send to the vendor directly.
pub fn enable(config: &Config) -> Result<(), Error> {
    set("ip_forward".into(), "1")?;
    let single_arm: Vec<&str> =
        config.devices().into_iter().filter(|name| config.sides_of(name) == (true, true)).collect();
    if !single_arm.is_empty() {
        // The kernel sends redirects if either `all` or the device says so.
        for name in single_arm.into_iter().chain(["all"]) {
            set(format!("conf/{name}/send_redirects"), "0")?;
        }
    }
    Ok(())
}

/// Whether this namespace forwards IPv4.
pub fn is_on() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() != "0")
}

fn set(name: String, value: &'static str) -> Result<(), Error> {
    let path = PathBuf::from("/proc/sys/net/ipv4").join(&name);
    let refused = |error| Error::Sysctl { name: name.clone(), value, error };
    let before = fs::read_to_string(&path).map_err(refused)?;
    if before.trim() != value {
        fs::write(&path, value).map_err(refused)?;
        log::info!("set net.ipv4.{} = {value} (was {})", name.replace('/', "."), before.trim());
    }
    Ok(())
}
