//! Embeds the BPF programs: the agent is one file.

fn main() -> std::process::ExitCode {
    xtask::bpf::embed_for_build_script()
}
