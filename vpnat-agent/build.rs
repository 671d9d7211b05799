//! Embeds the BPF programs: the agent is one file.

fn main() -> anyhow::Result<()> {
    xtask::bpf::embed_for_build_script()
}
