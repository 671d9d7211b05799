//! `[flow_log]`: where records of flows go.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;
use vpnat_common::layout::event::EVENT_BUFFER;

use super::check::Issues;
use super::issue::Issue;
use super::limits::{self, Number};

/// `[flow_log]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// A file's absolute path, `"stdout"` or `"journal"`.
    pub json: Option<Spanned<String>>,
    /// Largest size of the file, megabytes.
    pub max_size_mb: Option<Spanned<u32>>,
    /// Rotated files that are kept.
    pub keep: Option<Spanned<u32>>,
    /// Collector of IPFIX over UDP.
    pub ipfix: Option<SocketAddrV4>,
    /// Observation domain.
    pub ipfix_domain: Option<u32>,
    /// Size of the event buffer, KiB.
    pub buffer_kib: Option<Spanned<u32>>,
}

/// Where lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlowLogTarget {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// The journal.
    Journal,
}

/// The flow log, found sound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowLog {
    /// Where JSON lines go.
    pub json: Option<FlowLogTarget>,
    /// The file is rotated before it grows above so many bytes.
    pub max_bytes: u64,
    /// Rotated files that are kept.
    pub keep: u32,
    /// Collector of IPFIX over UDP.
    pub ipfix: Option<SocketAddrV4>,
    /// Observation domain (RFC 7011 section 3.1).
    pub ipfix_domain: u32,
    /// Size of the event buffer, bytes: a power of two.
    pub buffer: u32,
}

impl fmt::Display for FlowLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(target) = &self.json {
            match target {
                FlowLogTarget::File(path) => {
                    let megabytes = self.max_bytes / MEGABYTE;
                    write!(f, "JSON to {} ({megabytes} MB, {} kept)", path.display(), self.keep)?;
                }
                FlowLogTarget::Stdout => f.write_str("JSON to standard output")?,
                FlowLogTarget::Journal => f.write_str("JSON to the journal")?,
            }
            separator = ", ";
        }
        if let Some(collector) = self.ipfix {
            write!(f, "{separator}IPFIX to {collector} (domain {})", self.ipfix_domain)?;
        }
        Ok(())
    }
}

const MEGABYTE: u64 = 1_000_000;

/// The rules.
pub fn check(section: Spanned<Section>, issues: &mut Issues) -> FlowLog {
    let offset = section.span().start;
    let section = section.into_inner();
    if section.json.is_none() && section.ipfix.is_none() {
        issues.push((offset, Issue::FlowLogNowhere));
    }
    let json = section.json.and_then(|text| {
        let place = text.span().start;
        match text.into_inner().as_str() {
            "stdout" => Some(FlowLogTarget::Stdout),
            "journal" => Some(FlowLogTarget::Journal),
            path if path.starts_with('/') && !path.ends_with('/') => Some(FlowLogTarget::File(path.into())),
            text => {
                issues.push((place, Issue::BadFlowLogTarget { text: text.to_owned() }));
                None
            }
        }
    });
    let mut number = |number: &Number, value: Option<Spanned<u32>>| {
        let Number { name, least, most, default } = *number;
        let Some(entry) = value else { return default };
        let value = *entry.get_ref();
        if !number.takes(value) {
            issues.push((entry.span().start, Issue::FlowLogOutOfRange { name, value, least, most }));
        }
        value
    };
    let max_size_mb = number(&limits::MAX_SIZE_MB, section.max_size_mb);
    let keep = number(&limits::KEEP, section.keep);
    let buffer = match section.buffer_kib {
        None => EVENT_BUFFER,
        Some(entry) => {
            let value = *entry.get_ref();
            // The kernel's rule: a power of two, and whole pages of whatever size.
            if !value.is_power_of_two() || !limits::BUFFER_KIB.takes(value) {
                issues.push((entry.span().start, Issue::BadEventBuffer { value }));
            }
            value.saturating_mul(1024)
        }
    };
    FlowLog {
        json,
        max_bytes: u64::from(max_size_mb) * MEGABYTE,
        keep,
        ipfix: section.ipfix,
        ipfix_domain: section.ipfix_domain.unwrap_or(limits::IPFIX_DOMAIN.default),
        buffer,
    }
}
