//! A machine of its own: a Debian tree booted with systemd, in a namespace of the lab.
//!
//! The tree is unpacked into the lab's private `/run`, so nothing of it is left when the lab ends. What the machine
//! pins lies in the lab's BPF file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::netns::Namespace;
use crate::process::{self, Background, wait_until};
use crate::sandbox::Sandbox;

/// How long systemd may take to come up on a busy machine.
const BOOTED_WITHIN: Duration = Duration::from_secs(90);

/// What the machine's root may do beside nspawn's own list: what vpnat's units ask for.
const CAPABILITIES: &str = "CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN,CAP_SYS_ADMIN,CAP_SYS_RESOURCE";

/// A machine that runs. Dropping it switches it off.
pub struct Machine {
    root: PathBuf,
    leader: u32,
    nspawn: Background,
}

impl Machine {
    /// Boots the tree in the archive `tree` as a machine whose network is `network`; the folder `packages`
    /// appears in it as `/packages`.
    pub fn boot(sandbox: &Sandbox, network: &Namespace, tree: &Path, packages: &Path) -> Self {
        let root = sandbox.dir().join("machine");
        fs::create_dir_all(&root).expect("a folder for the machine");
        let mut unpack = process::command("tar", None);
        unpack.arg("-xf").arg(tree).arg("-C").arg(&root);
        process::checked(unpack);
        let mut command = process::command("systemd-nspawn", None);
        command
            .args(["--quiet", "--register=no", "--keep-unit", "--machine=vpnat-lab", "--link-journal=no"])
            .arg(format!("--directory={}", root.display()))
            .arg(format!("--network-namespace-path={}", network.path().display()))
            .arg(format!("--capability={CAPABILITIES}"))
            .arg("--system-call-filter=bpf")
            .arg(format!("--bind={}", Sandbox::bpffs().display()))
            .arg(format!("--bind-ro={}:/packages", packages.display()))
            .args(["--bind-ro=/sys/kernel/btf", "--boot"])
            // The network's settings are the machine's own to change.
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
        let mut nspawn = Background::start("systemd-nspawn", command);
        let mut leader = None;
        wait_until("the machine's first process", BOOTED_WITHIN, || {
            assert!(nspawn.ended().is_none(), "the machine does not start:\n{}", nspawn.last_words());
            leader = first_process(nspawn.pid());
            leader.is_some()
        });
        let machine = Self { root, leader: leader.expect("a first process"), nspawn };
        wait_until("systemd", BOOTED_WITHIN, || {
            let state = machine.try_run("systemctl is-system-running");
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            // Degraded: some unit of the distribution's does not like a container, none of ours.
            ["running", "degraded"].contains(&state.trim())
        });
        machine
    }

    /// A path of the machine's, as seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Runs a command line in the machine's shell.
    pub fn try_run(&self, line: &str) -> Output {
        let mut command = process::command("nsenter", None);
        command
            .arg(format!("--target={}", self.leader))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid"]);
        command.args(["--cgroup", "--root", "--wd", "/bin/sh", "-c", line]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        process::output(command)
    }

    /// Runs a command line that must succeed; returns what it printed on both outputs.
    pub fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{line}` in the machine ({}): {text}", output.status);
        text
    }

    /// The main process of a service, 0 if it does not run.
    pub fn main_pid(&self, service: &str) -> u32 {
        let shown = self.try_run(&format!("systemctl show --property MainPID --value {service}"));
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        text.trim().parse().unwrap_or_else(|_| panic!("no process id: {shown:?}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Killed from outside its namespace, the first process takes all others along.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.leader as i32),
            nix::sys::signal::Signal::SIGKILL,
        );
        self.nspawn.wait(Duration::from_secs(10));
    }
}

/// The process that `parent` has started: process 1 of the machine.
fn first_process(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let child: u32 = children.split_whitespace().next()?.parse().ok()?;
    // Not yet itself while it is still nspawn.
    let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    (name.trim() == "systemd").then_some(child)
}
