//! The sysctls that forwarding needs. Each value that is changed is logged and remembered, and `vpnat detach` puts back
//! what nobody has changed since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::control;
use crate::datapath::Error;

const ROOT: &str = "/proc/sys/net/ipv4";

/// What was changed: a line each, `name before after`.
const FILE: &str = "sysctls";

/// Turns forwarding on, and redirects off where one device serves both sides: a redirect would tell the
/// pods' router to send to the vendor directly.
pub fn enable(config: &Config) -> Result<(), Error> {
    set(&config.run_dir, "ip_forward".into(), "1")?;
    let single_arm: Vec<&str> =
        config.devices().into_iter().filter(|name| config.sides_of(name) == (true, true)).collect();
    if !single_arm.is_empty() {
        // The kernel sends redirects if either `all` or the device says so.
        for name in single_arm.into_iter().chain(["all"]) {
            set(&config.run_dir, format!("conf/{name}/send_redirects"), "0")?;
        }
    }
    Ok(())
}

/// Whether this namespace forwards IPv4.
pub fn is_on() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.trim() != "0")
}

fn set(run_dir: &Path, name: String, value: &'static str) -> Result<(), Error> {
    let path = PathBuf::from(ROOT).join(&name);
    let refused = |error| Error::Sysctl { name: name.clone(), value, error };
    let before = fs::read_to_string(&path).map_err(refused)?;
    if before.trim() != value {
        // Remembered first: what is changed can always be put back.
        remember(run_dir, &name, before.trim(), value)?;
        fs::write(&path, value).map_err(refused)?;
        log::info!("set net.ipv4.{} = {value} (was {})", name.replace('/', "."), before.trim());
    }
    Ok(())
}

/// The first value before counts: the operator's.
fn remember(run_dir: &Path, name: &str, before: &str, after: &str) -> Result<(), Error> {
    let file = run_dir.join(FILE);
    let failed = |error| Error::file("remembering a sysctl", &file)(error);
    control::create_run_dir(run_dir).map_err(failed)?;
    let mut text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    if !text.lines().any(|line| line.split(' ').next() == Some(name)) {
        text += &format!("{name} {before} {after}\n");
        let new = run_dir.join(format!("{FILE}.new"));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &file)).map_err(failed)?;
    }
    Ok(())
}

/// Puts back what [`enable`] has changed and nobody else since; what it was.
pub fn put_back(run_dir: &Path) -> Vec<String> {
    let file = run_dir.join(FILE);
    let mut done = Vec::new();
    for line in fs::read_to_string(&file).unwrap_or_default().lines() {
        let [name, before, after] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let path = PathBuf::from(ROOT).join(name);
        let is_ours = fs::read_to_string(&path).is_ok_and(|now| now.trim() == after);
        if is_ours && fs::write(&path, before).is_ok() {
            done.push(format!("net.ipv4.{} = {before}, as it was", name.replace('/', ".")));
        }
    }
    let _ = fs::remove_file(&file);
    let _ = fs::remove_dir(run_dir);
    done
}
