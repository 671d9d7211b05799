//! The older text format of Prometheus, version 0.0.4, which tools without OpenMetrics read.

/// Content type of OpenMetrics.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Content type of the older format.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a client that says `accept` reads OpenMetrics.
pub fn wants_openmetrics(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| accept.contains("application/openmetrics-text"))
}

/// `openmetrics` in the older format: there a counter's family has the name of its samples, and there is no end mark.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 1024);
    // HELP comes before TYPE, which says whether it is a counter's.
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            let words = help.strip_prefix(name).unwrap_or_default().trim();
            // prometheus-client ends every help text with a full stop.
            text += &format!("# HELP {name}{suffix} {words}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text += line;
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_help_and_type() {
        let open = "# HELP vpnat_packets Packets translated.\n# TYPE vpnat_packets counter\n\
                    vpnat_packets_total{vendor=\"a\"} 3\n# HELP vpnat_ready Ready.\n# TYPE vpnat_ready gauge\n\
                    vpnat_ready 1\n# EOF\n";
        let old = "# HELP vpnat_packets_total Packets translated.\n# TYPE vpnat_packets_total counter\n\
                   vpnat_packets_total{vendor=\"a\"} 3\n# HELP vpnat_ready Ready.\n# TYPE vpnat_ready gauge\n\
                   vpnat_ready 1\n";
        assert_eq!(classic(open), old);
    }

    #[test]
    fn prometheus_itself_gets_openmetrics() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5";
        assert!(wants_openmetrics(Some(prometheus)));
        assert!(!wants_openmetrics(Some("*/*")) && !wants_openmetrics(None));
    }
}
