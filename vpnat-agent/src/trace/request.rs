//! What a tracer asks the agent for.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use vpnat_common::addr::Port;
use vpnat_common::layout::clock::Moment;
use vpnat_common::layout::outcome::{Fate, Hook, Outcome};
use vpnat_common::layout::trace::{MOST_EVENTS_PER_S, TraceEnd, TraceFilter};

use crate::datapath::maps::VendorSlot;
use crate::metrics::fate_name;

/// Longest trace, seconds.
pub const LONGEST_S: u32 = 3600;

/// Which packets, for how long, and how many. Everything that is set has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A vendor's name.
    pub vendor: Option<String>,
    /// Source, before or after translation.
    pub from: Option<End>,
    /// Destination, before or after translation.
    pub to: Option<End>,
    /// Either of them.
    pub host: Option<End>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Hooks; none: all.
    pub hooks: Vec<HookName>,
    /// Outcomes; none: all but [`Outcome::NotOurs`].
    pub outcomes: Vec<Wanted>,
    /// Most packets that are told of in a second.
    pub per_second: u32,
    /// When the agent ends it by itself.
    pub seconds: u32,
}

impl Request {
    /// What the programs are told. `session` marks the events, `until` ends them.
    ///
    /// # Errors
    /// For people: what cannot be.
    pub fn filter(&self, vendors: &[VendorSlot], session: u32, until: Moment) -> Result<TraceFilter, String> {
        if !(1..=MOST_EVENTS_PER_S).contains(&self.per_second) {
            return Err(format!(
                "--rate {}: from 1 to {MOST_EVENTS_PER_S} packets a second",
                self.per_second
            ));
        }
        if !(1..=LONGEST_S).contains(&self.seconds) {
            return Err(format!("--seconds {}: from 1 to {LONGEST_S}", self.seconds));
        }
        let vendor = match &self.vendor {
            None => 0,
            Some(name) => {
                vendors.iter().find(|vendor| vendor.name == *name).map(|vendor| vendor.slot).ok_or_else(
                    || {
                        let known: Vec<&str> = vendors.iter().map(|vendor| vendor.name.as_str()).collect();
                        format!("no such vendor: --vendor {name}: there are {}", known.join(", "))
                    },
                )?
            }
        };
        let end = |end: Option<End>| end.map_or_else(TraceEnd::default, End::filter);
        Ok(TraceFilter {
            outcomes: if self.outcomes.is_empty() {
                !bit(Outcome::NotOurs)
            } else {
                self.outcomes.iter().fold(0, |bits, wanted| bits | wanted.0)
            },
            from: end(self.from),
            to: end(self.to),
            host: end(self.host),
            session,
            until,
            per_second: self.per_second,
            hooks: if self.hooks.is_empty() {
                u8::MAX
            } else {
                self.hooks.iter().fold(0, |bits, hook| bits | 1 << hook.0 as u32)
            },
            protocol: self.protocol.unwrap_or(0),
            vendor,
            _pad: 0,
        })
    }
}

fn bit(outcome: Outcome) -> u64 {
    1 << outcome as u32
}

/// An end of a packet: a prefix, a port, or both, as `10.0.2.7`, `10.0.2.0/24`, `10.0.2.7:40000` or `:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct End {
    /// Its address is in here.
    pub prefix: Ipv4Net,
    /// Port or query identifier.
    pub port: Option<u16>,
}

impl End {
    fn filter(self) -> TraceEnd {
        TraceEnd {
            address: self.prefix.network().into(),
            mask: self.prefix.netmask().into(),
            port: Port::new(self.port.unwrap_or(0)),
            _pad: 0,
        }
    }
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, port) = match text.split_once(':') {
            Some((prefix, port)) => (prefix, Some(port)),
            None => (text, None),
        };
        let port = port.map(|port| match port.parse() {
            Ok(0) | Err(_) => Err(format!("`{port}` is no port from 1 to 65535")),
            Ok(port) => Ok(port),
        });
        let address = || prefix.parse::<Ipv4Addr>().map(Ipv4Net::from);
        let prefix = match prefix {
            "" if port.is_some() => Ipv4Net::default(),
            prefix => prefix.parse().or_else(|_| address()).map_err(|_| {
                format!("`{prefix}` is no IPv4 address or prefix; write 10.0.2.7, 10.0.2.0/24, 10.0.2.7:40000 or :443")
            })?,
        };
        if prefix.addr() != prefix.network() {
            return Err(format!("{prefix} has bits beyond its length; {} is meant?", prefix.trunc()));
        }
        Ok(Self { prefix, port: port.transpose()? })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A hook by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HookName(pub Hook);

impl FromStr for HookName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Hook::ALL.into_iter().find(|hook| hook.name() == text).map(Self).ok_or_else(|| {
            format!("no such hook: {text}; there are {}", Hook::ALL.map(Hook::name).join(", "))
        })
    }
}

impl fmt::Display for HookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

/// Outcomes, as bits by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted(pub u64);

/// Every outcome of a verdict, but for packets that vpnat has nothing to do with: `translated`, `passed`, `dropped` or `held`.
pub fn verdict(text: &str) -> Result<Wanted, String> {
    const FATES: [Fate; 4] = [Fate::Translated, Fate::Passed, Fate::Dropped, Fate::Held];
    let Some(fate) = FATES.into_iter().find(|fate| fate_name(*fate) == text) else {
        return Err(format!("no such verdict: {text}; there are {}", FATES.map(fate_name).join(", ")));
    };
    let of_it = Outcome::ALL.iter().filter(|outcome| outcome.fate() == fate && **outcome != Outcome::NotOurs);
    Ok(Wanted(of_it.fold(0, |bits, outcome| bits | bit(*outcome))))
}

/// The outcome with this name.
pub fn reason(text: &str) -> Result<Wanted, String> {
    let found = Outcome::ALL.iter().find(|outcome| outcome.name() == text);
    found.map(|outcome| Wanted(bit(*outcome))).ok_or_else(|| {
        let names: Vec<&str> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
        format!("no such reason: {text}; there are {}", names.join(", "))
    })
}

macro_rules! as_text {
    ($($type:ty),+) => { $(
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )+ };
}

as_text!(End, HookName);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vpnat_common::layout::vendor::VendorPolicy;

    pub(crate) fn everything() -> Request {
        Request {
            vendor: None,
            from: None,
            to: None,
            host: None,
            protocol: None,
            hooks: Vec::new(),
            outcomes: Vec::new(),
            per_second: 1000,
            seconds: 60,
        }
    }

    fn filter(request: &Request) -> Result<TraceFilter, String> {
        let vendors = [VendorSlot { slot: 3, name: "vendor-a".into(), policy: VendorPolicy::FREE }];
        request.filter(&vendors, 7, Moment::new(100))
    }

    #[test]
    fn ends_are_prefixes_and_ports() {
        let end = |text: &str| text.parse::<End>();
        for text in ["10.0.2.7/32", "10.0.2.0/24", "10.0.2.7/32:40000", "0.0.0.0/0:443"] {
            assert_eq!(end(text).unwrap().to_string(), text);
        }
        assert_eq!(end("10.0.2.7").unwrap().prefix.prefix_len(), 32);
        assert_eq!(end(":443").unwrap(), end("0.0.0.0/0:443").unwrap());
        for (text, says) in [
            ("10.0.2", "no IPv4 address"),
            ("", "no IPv4 address"),
            ("10.0.2.7/33", "no IPv4 address"),
            ("10.0.2.7/24", "10.0.2.0/24 is meant?"),
            ("10.0.2.7:", "is no port"),
            ("10.0.2.7:0", "is no port"),
            ("10.0.2.7:65536", "is no port"),
            ("fe80::1", "no IPv4 address"),
        ] {
            let error = end(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_asked_is_what_the_programs_are_told() {
        let all = filter(&everything()).unwrap();
        assert_eq!(all.outcomes & bit(Outcome::NotOurs), 0, "nobody's packets are not asked for");
        assert_eq!(all.outcomes.count_ones(), 63);
        assert_eq!((all.hooks, all.vendor, all.protocol, all.session), (0xff, 0, 0, 7));
        assert_eq!((all.from, all.until.seconds), (TraceEnd::default(), 100));
        let asked = Request {
            vendor: Some("vendor-a".into()),
            to: Some("192.0.2.0/24:443".parse().unwrap()),
            protocol: Some(17),
            hooks: vec!["xdp".parse().unwrap(), "tc-egress".parse().unwrap()],
            outcomes: vec![verdict("dropped").unwrap(), reason("not-ours").unwrap()],
            ..everything()
        };
        let told = filter(&asked).unwrap();
        assert_eq!((told.vendor, told.hooks, told.protocol), (3, 0b101, 17));
        assert_eq!(told.to.port.number, 443);
        assert_eq!(told.to.mask.octets, [255, 255, 255, 0]);
        for outcome in Outcome::ALL {
            let wanted = outcome.fate() == Fate::Dropped || *outcome == Outcome::NotOurs;
            assert_eq!(told.outcomes & bit(*outcome) != 0, wanted, "{outcome:?}");
        }
        let text = serde_json::to_string(&asked).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), asked);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let unknown = filter(&Request { vendor: Some("vendor-x".into()), ..everything() }).unwrap_err();
        assert_eq!(unknown, "no such vendor: --vendor vendor-x: there are vendor-a");
        for request in [
            Request { per_second: 0, ..everything() },
            Request { per_second: MOST_EVENTS_PER_S + 1, ..everything() },
            Request { seconds: 0, ..everything() },
            Request { seconds: LONGEST_S + 1, ..everything() },
        ] {
            assert!(filter(&request).unwrap_err().contains("from 1 to"));
        }
        assert!(verdict("allowed").unwrap_err().contains("translated, passed, dropped, held"));
        assert!(reason("vanished").unwrap_err().contains("unsolicited"));
        assert!("egress".parse::<HookName>().unwrap_err().contains("tc-egress"));
    }
}
