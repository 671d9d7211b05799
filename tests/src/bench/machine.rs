//! The machine, as far as figures depend on it.

use serde_json::{Value, json};

/// Processor, kernel, load.
pub fn describe() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let megabytes = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        })
        .map(|kilobytes| kilobytes / 1024);
    json!({
        "processor": model.map_or("unknown", |(_, name)| name),
        "processors": processors.lines().filter(|line| line.starts_with("processor")).count(),
        "memory_mb": megabytes,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_at_start": read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}

/// One line of it.
pub fn line(machine: &Value) -> String {
    format!(
        "{} × {}, {} MB, Linux {}, load {} at the start",
        machine["processors"],
        machine["processor"].as_str().unwrap_or("unknown"),
        machine["memory_mb"],
        machine["kernel"].as_str().unwrap_or("unknown"),
        machine["load_at_start"],
    )
}
