//! What is run in a guest, in parts that fail separately.

use std::time::Duration;

use clap::ValueEnum;

use super::guest::{self, DIR, quoted};
use super::lab_core;
use super::programs::{AGENT, BPF, LAB, NEXT_AGENT, OBJECT};

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

/// What the lab's waits are multiplied by: without KVM everything takes ten times as long or more.
const PATIENCE: u32 = 10;

/// How long the fuzzer runs in a guest, seconds.
const FUZZ_SECONDS: u32 = 60;

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
            Self::Load => 1800,
            Self::Bpf => 2 * 3600,
            Self::Lab => 4 * 3600,
        })
    }

    /// The name of its script in the guest.
    pub fn script(self) -> String {
        format!("{}.sh", self.name())
    }

    /// What the guest's shell is to do: the tests that `filter` names, or all of the tier.
    pub fn commands(self, filter: &[String]) -> String {
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
            Self::Bpf => {
                let bounds = format!("fuzzed for {FUZZ_SECONDS} s, one spoiled entry in eight");
                let note = if filter.is_empty() { guest::note(&bounds) } else { String::new() };
                let set = format!("export VPNAT_FUZZ_SECONDS={FUZZ_SECONDS} VPNAT_LAB_PATIENCE={PATIENCE}");
                format!("{set}\n{note}\n{}", harness(BPF, filter.to_vec()))
            }
            Self::Lab => {
                let mut args = filter.to_vec();
                if filter.is_empty() {
                    args = lab_core::names();
                    args.push("--exact".to_owned());
                }
                // What the host's kernel may not have, the guests have.
                args.push("--include-ignored".to_owned());
                format!(
                    "export VPNAT_BIN=/{DIR}/{AGENT} VPNAT_NEXT_BIN=/{DIR}/{NEXT_AGENT} VPNAT_LAB_PATIENCE={PATIENCE}\n{}",
                    harness(LAB, args)
                )
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
        let core = Tier::Lab.commands(&[]);
        assert!(core.contains("'config::not_root'") && core.contains("'--exact'"), "{core}");
        assert!(core.contains("VPNAT_BIN=/vm/vpnat ") && core.contains("VPNAT_LAB_PATIENCE=10"), "{core}");
        let named = Tier::Lab.commands(&["mtu".to_owned()]);
        assert!(named.ends_with("/vm/lab 'mtu' '--include-ignored' '--test-threads=1'\n"), "{named}");
        let bpf = Tier::Bpf.commands(&[]);
        assert!(
            bpf.contains("VPNAT_FUZZ_SECONDS=60 ") && bpf.ends_with("/vm/bpf '--test-threads=1'\n"),
            "{bpf}"
        );
    }
}
