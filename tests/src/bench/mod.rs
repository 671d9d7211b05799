//! The bench: vpnat beside other ways through the same path, in one run, on one machine.
//!
//! Packets are made by `BPF_PROG_TEST_RUN` in the pods' (or vendor's) namespace and counted by an XDP program
//! in the other; one processor does everything between, and what is measured is that processor's time. A
//! packet that does not arrive counts as cost without gain.

pub mod asm;
pub mod bpf;
pub mod bulk;
pub mod contender;
pub mod end;
pub mod latency;
pub mod looking;
pub mod machine;
pub mod memory;
pub mod opening;
pub mod path;
pub mod plot;
pub mod program_time;
pub mod programs;
pub mod report;
pub mod start;
pub mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;

use self::contender::Contender;
use self::path::Path;
use self::report::Report;
use crate::sandbox::Sandbox;

/// What the bench is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Minutes rather than a quarter of an hour.
    pub quick: bool,
    /// Where the figures go.
    pub json: Option<PathBuf>,
    /// Where the plot goes.
    pub plot: Option<PathBuf>,
    /// The document that the tables go into.
    pub tables: Option<PathBuf>,
    /// Further contenders: names and commands.
    pub contenders: Vec<(String, String)>,
    /// Only these contenders, if any are named.
    pub only: Vec<String>,
    /// Only these measurements, if any are named.
    pub measure: Vec<String>,
    /// Only these numbers of flows, if any are named.
    pub flows: Vec<String>,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds, each with every contender.
    pub rounds: u32,
    /// Processor time of a burst, seconds.
    pub seconds: f64,
}

/// Says what is being done, on standard error.
pub fn progress(text: &str) {
    eprintln!("… {text}");
}

/// Runs the bench.
pub fn run(options: &Options) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("The bench makes network namespaces: run it as root (sudo).");
        return ExitCode::FAILURE;
    }
    let effort =
        if options.quick { Effort { rounds: 3, seconds: 0.3 } } else { Effort { rounds: 5, seconds: 0.7 } };
    let sandbox = Sandbox::enter();
    let mut contenders: Vec<Contender> = Contender::KNOWN.to_vec();
    contenders
        .extend(options.contenders.iter().map(|(name, line)| Contender::Other(name.clone(), line.clone())));
    if !options.only.is_empty() {
        for name in &options.only {
            if !contenders.iter().any(|contender| contender.name() == name) {
                let known: Vec<&str> = contenders.iter().map(Contender::name).collect();
                eprintln!("There is no contender {name}; there are {}.", known.join(", "));
                return ExitCode::FAILURE;
            }
        }
        contenders.retain(|contender| options.only.iter().any(|name| name == contender.name()));
    }
    let mut report = Report::default();
    let machine = machine::describe();
    let wanted =
        |name: &str| options.measure.is_empty() || options.measure.iter().any(|wanted| wanted == name);

    if wanted("throughput") || wanted("latency") {
        let mut paths: Vec<Path<'_>> =
            contenders.iter().filter_map(|contender| Path::new(&sandbox, contender, &mut report)).collect();
        if wanted("throughput") {
            throughput::measure(&mut paths, &options.flows, &effort, &mut report);
        }
        if wanted("latency") {
            latency::measure(&mut paths, &effort, &mut report);
        }
    }
    if wanted("opening") {
        opening::measure(&sandbox, &contenders, &effort, &mut report);
    }
    if wanted("programs") {
        program_time::measure(&sandbox, &contenders, &effort, &mut report);
    }
    if wanted("memory") {
        memory::measure(&sandbox, &contenders, options.quick, &mut report);
    }
    if wanted("looking") {
        looking::measure(&sandbox, &contenders, &mut report);
    }
    let refused: Vec<String> = report.warnings.clone();
    contenders.retain(|contender| {
        let left_out = format!("{} is left out", contender.name());
        !refused.iter().any(|warning| warning.starts_with(&left_out))
    });
    if wanted("bulk") {
        bulk::measure(&sandbox, &contenders, &effort, &mut report);
    }
    if wanted("start") {
        start::measure(&sandbox, &contenders, &effort, &mut report);
    }
    report.judge_noise();
    let names: Vec<String> = contenders.iter().map(|contender| contender.name().to_string()).collect();
    let text = text(&report, &names, &machine);
    println!("{text}");
    let options_json =
        serde_json::json!({"quick": options.quick, "rounds": effort.rounds, "seconds": effort.seconds});
    let json = report.json(&machine, &options_json);
    let write = |file: &Option<PathBuf>, text: &dyn Fn() -> String| {
        let Some(file) = file else { return true };
        // The lab's own mounts hide parts of the host's file system.
        let text = text();
        let done = sandbox.on_host(|| std::fs::write(file, text));
        if let Err(error) = &done {
            eprintln!("error: {}: {error}", file.display());
        }
        done.is_ok()
    };
    let written = write(&options.json, &|| format!("{json:#}\n"))
        & write(&options.plot, &|| plot::svg(&report, &names))
        & write(&options.tables, &|| into_document(options.tables.as_deref(), &text));
    if written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tables, ratios, and what to think of them.
fn text(report: &Report, names: &[String], machine: &serde_json::Value) -> String {
    let mut text = format!("Machine: {}\n{}", machine::line(machine), report.table(names));
    for name in names.iter().filter(|name| name.starts_with("vpnat-")) {
        let ratios = report.ratios(name);
        if !ratios.is_empty() {
            text.push_str(&format!("\n**{name} in proportion to the others**\n\n{ratios}"));
        }
    }
    for (title, lines) in [("To know", &report.remarks), ("Doubtful", &report.warnings)] {
        if !lines.is_empty() {
            text.push_str(&format!("\n**{title}**\n\n"));
            text.extend(lines.iter().map(|line| format!("- {line}\n")));
        }
    }
    text
}

const BEGIN: &str = "<!-- bench: what follows is written by `cargo xtask bench --docs` -->";
const END: &str = "<!-- bench: end -->";

/// The document with the part between its marks replaced.
fn into_document(file: Option<&std::path::Path>, text: &str) -> String {
    let old = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    match (old.split_once(BEGIN), old.split_once(END)) {
        (Some((head, _)), Some((_, tail))) => format!("{head}{BEGIN}\n\n{text}\n{END}{tail}"),
        _ => format!("{old}{BEGIN}\n\n{text}\n{END}\n"),
    }
}
