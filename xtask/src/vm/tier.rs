//! What is run in a guest, in parts that fail separately.

use std::time::Duration;

use clap::ValueEnum;

use super::guest::{self, DIR, quoted};
use super::programs::{AGENT, BPF, LAB, OBJECT};

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// Whether the kernel's verifier takes all programs
    Load,
    /// The BPF programs on single packets
    Bpf,
    /// The core of the whole paths in network namespaces
    Lab,
}

/// All parts, the quickest first.
pub const ALL: [Tier; 3] = [Tier::Load, Tier::Bpf, Tier::Lab];

/// Tests of the lab that are run where none are named: each shape and hook once, and each kind of promise
/// once.
const CORE: &[&str] = &[
    "three_pods_from_one_port",
    "stranger::two_arm",
    "unsolicited::two_arm",
    "closed_port::two_arm",
    "path_mtu::two_arm",
    "kill_and_start_again::two_arm",
    "detach::",
    "cli::",
    "config::",
];

impl Tier {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Bpf => "bpf",
            Self::Lab => "lab",
        }
    }

    /// What it is about.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Load => "all programs through the verifier",
            Self::Bpf => "single packets through the programs",
            Self::Lab => "whole paths in network namespaces",
        }
    }

    /// How long it may take: five times what it was seen to take, and a minute at least.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Load => 120,
            Self::Bpf => 600,
            Self::Lab => 1800,
        })
    }

    /// What the guest's shell is to do.
    pub fn script(self, filter: &[String]) -> String {
        match self {
            Self::Load => {
                let pins = "/sys/fs/bpf/load";
                let count = guest::note(&format!("$(busybox ls {pins} | busybox wc -l) programs loaded"));
                // A refusal's reason stands at the end of the verifier's log.
                format!(
                    "bpftool prog loadall /{DIR}/{OBJECT} {pins} > /tmp/log 2>&1 \
                     || {{ busybox tail -n 50 /tmp/log; exit 1; }}\n{count}\n"
                )
            }
            Self::Bpf => harness(BPF, filter.to_vec()),
            Self::Lab => {
                let core = || CORE.iter().map(|&name| name.to_owned()).collect();
                let filter = if filter.is_empty() { core() } else { filter.to_vec() };
                format!("export VPNAT_BIN=/{DIR}/{AGENT}\n{}", harness(LAB, filter))
            }
        }
    }
}

fn harness(program: &str, mut args: Vec<String>) -> String {
    if !args.iter().any(|arg| arg.starts_with("--test-threads")) {
        args.push("--test-threads=1".to_owned());
    }
    format!("/{DIR}/{program} {}\n", quoted(&args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_tests_take_the_place_of_the_core() {
        let core = Tier::Lab.script(&[]);
        assert!(core.contains("'cli::'") && core.contains("VPNAT_BIN=/vm/vpnat"), "{core}");
        let named = Tier::Lab.script(&["mtu".to_owned()]);
        assert!(named.ends_with("/vm/lab 'mtu' '--test-threads=1'\n"), "{named}");
        assert_eq!(Tier::Bpf.script(&[]), "/vm/bpf '--test-threads=1'\n");
    }

    #[test]
    fn commands_fit_on_the_kernels_command_line() {
        for tier in ALL {
            // COMMAND_LINE_SIZE of x86.
            assert!(guest::command_line(&tier.script(&[])).len() < 2048, "{tier:?}");
        }
    }
}
