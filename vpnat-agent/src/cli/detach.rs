//! `vpnat detach`.

use std::process::ExitCode;

use clap::Args;

use super::{PinOptions, say};
use crate::datapath::{Error, kernel};
use crate::netlink::rules;
use crate::waiting::Waiting;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    pins: PinOptions,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let pins = options.pins.pins()?;
    kernel::check_privileges()?;
    // An agent that runs would put its hooks back.
    let lock = match pins.root().exists().then(|| pins.lock()) {
        Some(Err(Error::Locked { path })) => return Err(Error::Locked { path }.into()),
        Some(Ok(lock)) => Some(lock),
        _ => None,
    };
    let waiting = Waiting::of("taking the datapath away");
    // Before the hooks: where forwarding was off, nothing is forwarded untranslated afterwards.
    let put_back = crate::forwarding::put_back(&options.pins.run_dir()?);
    let mut removed = crate::detach::detach(&pins)?;
    removed.extend(rules::open()?.iter().map(|prefix| format!("rule that closes {prefix}")));
    drop(lock);
    drop(waiting);
    for line in &removed {
        say(format_args!("removed {line}"))?;
    }
    for line in &put_back {
        say(format_args!("set {line}"))?;
    }
    if !removed.is_empty() && crate::forwarding::is_on() {
        say(format_args!(
            "note: net.ipv4.ip_forward is still 1, so what pods send to a vendor now leaves untranslated wherever a \
             route takes it; `sysctl -w net.ipv4.ip_forward=0` stops that"
        ))?;
    }
    if removed.is_empty() {
        say(format_args!(
            "nothing to remove: no pins in {} and no filters on any device",
            pins.root().display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
