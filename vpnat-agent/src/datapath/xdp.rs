//! Whether a device gets XDP, decided before anything is attached, and always with a reason.

use crate::config::XdpChoice;
use crate::netlink::ethtool::{self, Channels};
use crate::netlink::links::{Link, XdpAttached};

use super::Error;
use super::error::{chain, number};

/// What the decision rests on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The device's name.
    pub name: String,
    /// Whether it has Ethernet framing and is no tunnel.
    pub plain: bool,
    /// Its driver, empty if it has none.
    pub driver: String,
    /// Largest IP packet.
    pub mtu: u32,
    /// Queues, if the driver says.
    pub channels: Option<Channels>,
}

impl Facts {
    /// Asks the driver of `link`.
    pub fn of(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            plain: link.is_plain(),
            driver: ethtool::driver(&link.name).unwrap_or_default(),
            mtu: link.mtu,
            channels: ethtool::channels(&link.name).ok(),
        }
    }
}

/// What is attached to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing.
    Off,
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

impl Mode {
    /// How the kernel reports it.
    pub fn as_attached(self) -> Option<XdpAttached> {
        match self {
            Self::Off => None,
            Self::Native => Some(XdpAttached::Native),
            Self::Generic => Some(XdpAttached::Generic),
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The decision for the inside and outside devices together: XDP forwards from one to another, so one that
/// is unfit makes it pointless on the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// For Ethernet devices; tunnels never get XDP.
    pub mode: Mode,
    /// Why.
    pub reason: String,
}

/// Drivers that are known to receive and to transmit for XDP, with the largest MTU for which a frame fits
/// their buffer. veth is not among them: it loses frames unless its peer runs NAPI, which cannot be seen.
const FIT_DRIVERS: [(&str, u32); 5] =
    [("ena", 3498), ("i40e", 1500), ("ice", 1500), ("ixgbe", 1500), ("mlx5_core", 1500)];

/// Decides for `devices`, all inside and outside devices.
pub fn decide(choice: XdpChoice, devices: &[Facts]) -> Result<Decision, Error> {
    let decision = |mode, reason: String| Ok(Decision { mode, reason });
    match choice {
        XdpChoice::Off => decision(Mode::Off, "xdp = \"off\"".into()),
        XdpChoice::Generic => decision(Mode::Generic, "xdp = \"generic\"".into()),
        XdpChoice::Native if !devices.iter().any(|device| device.plain) => Err(Error::XdpUnfit {
            device: devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", "),
            reason: "xdp = \"native\" and no Ethernet device".into(),
            remedy: "set xdp = \"auto\" or \"off\"".into(),
        }),
        XdpChoice::Native => decision(Mode::Native, "xdp = \"native\"".into()),
        XdpChoice::Auto => match devices.iter().find_map(|device| unfit(device).map(|why| (device, why))) {
            Some((device, why)) => decision(Mode::Off, format!("{} {why}", device.name)),
            None => {
                decision(Mode::Native, "driver, MTU and queues of every device are known to be fit".into())
            }
        },
    }
}

/// Why XDP would not serve on `device`, if so.
fn unfit(device: &Facts) -> Option<String> {
    if !device.plain {
        return Some("is a tunnel, for which there is no XDP transmit".into());
    }
    let Some((driver, most)) = FIT_DRIVERS.into_iter().find(|(driver, _)| *driver == device.driver) else {
        return Some(format!("has driver `{}`, not known to be fit", device.driver));
    };
    if device.mtu > most {
        return Some(format!("has MTU {}, above the {most} that XDP in {driver} takes", device.mtu));
    }
    match device.channels {
        // ena needs as many queues again to transmit for XDP.
        Some(channels) if driver == "ena" && channels.current > channels.maximum / 2 => Some(format!(
            "has {} of {} queues in use, and XDP needs half of them free",
            channels.current, channels.maximum
        )),
        None if driver == "ena" => Some("does not say how many queues it has".into()),
        _ => None,
    }
}

/// Why a device refused `mode`, for people.
pub fn refusal(facts: &Facts, mode: Mode, error: &(dyn std::error::Error + 'static)) -> Error {
    let reason = chain(error);
    let remedy = match facts.driver.as_str() {
        _ if number(error) == Some(libc::EOPNOTSUPP) => {
            "this driver has none: set xdp = \"auto\" or \"off\"".into()
        }
        _ if matches!(number(error), Some(libc::EBUSY | libc::EEXIST)) => {
            format!("remove what is attached (`ip link set dev {} xdp off`)", facts.name)
        }
        "ena" => "set the MTU to 3498 or less (`ip link set dev DEVICE mtu 3498`) and halve the queues \
                  (`ethtool -L DEVICE combined N`), or set xdp = \"auto\""
            .replace("DEVICE", &facts.name),
        _ => format!("lower its MTU (now {}), or set xdp = \"auto\" or \"off\"", facts.mtu),
    };
    Error::XdpUnfit {
        device: facts.name.clone(),
        reason: format!("driver `{}` refuses {} XDP ({reason})", facts.driver, mode.name()),
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(driver: &str, mtu: u32, channels: Option<(u32, u32)>) -> Facts {
        Facts {
            name: "eth0".into(),
            plain: true,
            driver: driver.into(),
            mtu,
            channels: channels.map(|(current, maximum)| Channels { current, maximum }),
        }
    }

    fn auto(devices: &[Facts]) -> Decision {
        decide(XdpChoice::Auto, devices).unwrap()
    }

    #[test]
    fn auto_needs_every_device_fit() {
        let good = facts("ena", 3498, Some((2, 4)));
        assert_eq!(auto(std::slice::from_ref(&good)).mode, Mode::Native);
        for (bad, says) in [
            (facts("ena", 9001, Some((2, 4))), "has MTU 9001, above the 3498"),
            (facts("ena", 1500, Some((3, 4))), "has 3 of 4 queues in use"),
            (facts("ena", 1500, None), "does not say how many queues"),
            (facts("veth", 1500, None), "has driver `veth`, not known to be fit"),
            (facts("", 1500, None), "has driver ``, not known"),
            (Facts { plain: false, ..facts("tun", 1400, None) }, "is a tunnel"),
        ] {
            let decision = auto(&[good.clone(), bad]);
            assert_eq!(decision.mode, Mode::Off);
            assert!(decision.reason.contains(says), "{}", decision.reason);
        }
    }

    #[test]
    fn what_is_asked_for_is_done_or_refused() {
        let veth = facts("veth", 9000, None);
        let mode = |choice| decide(choice, std::slice::from_ref(&veth)).unwrap().mode;
        assert_eq!(mode(XdpChoice::Off), Mode::Off);
        assert_eq!(mode(XdpChoice::Generic), Mode::Generic);
        assert_eq!(mode(XdpChoice::Native), Mode::Native);
        let tunnel = Facts { plain: false, ..veth.clone() };
        let error = decide(XdpChoice::Native, &[tunnel]).unwrap_err().to_string();
        assert_eq!(error, "xdp = \"native\" and no Ethernet device: eth0: set xdp = \"auto\" or \"off\"");
    }

    #[test]
    fn a_refusal_names_device_driver_reason_and_remedy() {
        let text = |number| {
            let error = std::io::Error::from_raw_os_error(number);
            refusal(&facts("ena", 9001, None), Mode::Native, &error).to_string()
        };
        let large = text(libc::EINVAL);
        assert!(
            large.starts_with("driver `ena` refuses native XDP (Invalid argument (os error 22)): "),
            "{large}"
        );
        assert!(large.contains(": eth0: set the MTU to 3498"), "{large}");
        assert!(text(libc::EOPNOTSUPP).ends_with("this driver has none: set xdp = \"auto\" or \"off\""));
    }
}
