//! The container image: built from its definition without any network, and run as its definition says.
//!
//! Built and run by buildah with its `chroot` isolation, which needs neither a daemon nor a registry nor a container runtime:
//! the root, mounts and capabilities are the image's; its network is the NAT instance's, as with `--network host`. That isolation
//! makes everything below `/sys` read-only, so that the BPF file system stands elsewhere in the container.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::agent::{Agent, Xdp};
use tests::long::Conversation;
use tests::process;
use tests::sandbox::Sandbox;
use tests::topology::{EGRESS, Offload, Shape, Site, Topology, VENDOR};

use crate::given::package;

const DEFINITION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/container/Dockerfile");

/// Where the BPF file system stands in the container.
const BPFFS: &str = "/bpf";

/// Images and containers of this test's own.
struct Store {
    dir: PathBuf,
}

impl Store {
    fn new(sandbox: &Sandbox) -> Self {
        Self { dir: sandbox.dir().join("images") }
    }

    fn words(&self) -> Vec<String> {
        let (root, run) = (self.dir.join("root"), self.dir.join("run"));
        let words = ["buildah".into(), "--storage-driver=vfs".into()];
        words
            .into_iter()
            .chain([format!("--root={}", root.display()), format!("--runroot={}", run.display())])
            .collect()
    }

    fn run(&self, line: &str) -> String {
        let words = self.words();
        let mut command = process::command(&words[0], None);
        command.args(&words[1..]).args(line.split_whitespace());
        process::checked(command).trim().to_owned()
    }

    /// Builds the image `vpnat` from the archive as the definition's own words say; returns its configuration.
    fn build(&self) -> Value {
        let folder = self.dir.join("context");
        std::fs::create_dir_all(&folder).expect("a folder for the build");
        let mut unpack = Command::new("tar");
        unpack.arg("-C").arg(&folder).args(["--strip-components=1", "--wildcards", "-xzf"]);
        process::checked({
            unpack.arg(package("-linux.tar.gz")).arg("*/vpnat");
            unpack
        });
        self.run(&format!(
            "build-using-dockerfile --isolation=chroot -f {DEFINITION} -t vpnat {}",
            folder.display()
        ));
        let described: Value = serde_json::from_str(&self.run("inspect --type image vpnat")).expect("JSON");
        described["OCIv1"]["config"].clone()
    }
}

/// What a container has by itself, of which buildah's `--cap-drop=all` would leave no addition either.
const GIVEN_BY_DEFAULT: &str = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP \
                                SETGID SETPCAP SETUID SYS_CHROOT";

/// A filter of system calls that leaves bpf(2) to nobody.
const NO_BPF: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;

/// What the definition tells to give `docker run`: capabilities to add, all others dropped, and mounts.
fn documented_options() -> (Vec<String>, Vec<String>) {
    let text = std::fs::read_to_string(DEFINITION).expect("the definition");
    let words: Vec<&str> = text.split_whitespace().filter(|word| !["#", "\\"].contains(word)).collect();
    let values = |option: &str| -> Vec<String> {
        let pairs = words.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].to_owned()).collect()
    };
    assert_eq!(values("--cap-drop"), ["ALL"]);
    (values("--cap-add"), values("-v"))
}

/// The paths in the image.
fn paths(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).expect("the image's root").flatten();
    entries.map(|entry| entry.path().strip_prefix(root).expect("below the root").to_path_buf()).collect()
}

#[test]
fn the_image_builds_offline_and_translates() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let store = Store::new(&site.sandbox);
    let config = store.build();
    let strings = |field: &str| -> Vec<String> {
        let values = config[field].as_array().into_iter().flatten();
        values.map(|value| value.as_str().expect("a word").to_owned()).collect()
    };
    let (entry, default) = (strings("Entrypoint"), strings("Cmd"));
    assert_eq!(entry, ["/vpnat"]);
    let container = store.run("from vpnat");
    let root = PathBuf::from(store.run(&format!("mount {container}")));
    assert_eq!(paths(&root), [PathBuf::from("vpnat")], "nothing but the binary");

    // The image's own command, with the options that the definition gives `docker run`.
    let folder = site.sandbox.dir().join("etc");
    std::fs::create_dir_all(&folder).expect("a folder for the configuration");
    let text = lab.config(Xdp::Off).toml().replace("/sys/fs/bpf", BPFFS);
    std::fs::write(folder.join("vpnat.toml"), text).expect("the configuration");
    let here = format!("{}:/etc/vpnat:ro", folder.display());
    let (capabilities, mounts) = documented_options();
    let mut words = store.words();
    words.extend(["run", "--isolation=chroot"].map(str::to_owned));
    words.extend(GIVEN_BY_DEFAULT.split_whitespace().map(|name| format!("--cap-drop=CAP_{name}")));
    words.extend(capabilities.iter().map(|name| format!("--cap-add=CAP_{name}")));
    assert!(mounts.iter().any(|mount| mount == "/sys/fs/bpf:/sys/fs/bpf"), "{mounts:?}");
    let mounts = mounts.into_iter().map(|mount| match mount.split_once(':') {
        Some(("/etc/vpnat", _)) => here.clone(),
        Some(("/sys/fs/bpf", _)) => format!("/sys/fs/bpf:{BPFFS}"),
        _ => mount,
    });
    words.extend(mounts.map(|mount| format!("--volume={mount}")));
    let under = |container: &str| -> Vec<String> {
        words.iter().map(String::as_str).chain([container, "--"]).map(str::to_owned).collect()
    };
    let mut agent = lab.agent(Xdp::Off);

    // With a profile such as the definition warns of, the agent says what is missing.
    let profile = store.dir.join("seccomp.json");
    std::fs::write(&profile, NO_BPF).expect("a profile");
    let barred = store.run(&format!("from --security-opt seccomp={} vpnat", profile.display()));
    let mut command = site.nat.command(&words[0]);
    command.args(&under(&barred)[1..]).arg(&entry[0]).args(["check", "--config", "/etc/vpnat/vpnat.toml"]);
    let said = String::from_utf8_lossy(&process::output(command).stderr).into_owned();
    assert!(said.contains("bpf(2) is refused") && said.contains("seccomp=unconfined"), "{said}");

    let free = store.run("from --security-opt seccomp=unconfined vpnat");
    let words = under(&free);
    agent.run_under(&words.iter().map(String::as_str).collect::<Vec<_>>());
    agent.use_binary(PathBuf::from(&entry[0]));
    agent.use_file(PathBuf::from("/etc/vpnat/vpnat.toml"));
    assert_eq!(default, ["run", "--config", "/etc/vpnat/vpnat.toml"], "as the test starts it");

    agent.start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", inner(&agent))).expect("its status");
    let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).expect("its capabilities");
    assert_eq!(held.trim(), "000000c000001000", "BPF, NET_ADMIN and PERFMON");
    let reply = lab.pods[0].http_get(41000, VENDOR, "/").expect("an answer");
    assert_eq!(*reply.seen.ip(), EGRESS);
    let talk =
        Conversation::start(&lab.pods[1], 40000, VENDOR, Duration::from_millis(5)).expect("a connection");
    assert!(talk.wait_for(50), "before");
    // A container that ends leaves the datapath, and the next one takes over.
    end(&mut agent);
    assert!(!agent.ready() && !agent.attached().is_empty());
    assert!(talk.wait_for(50), "without a container");
    agent.start();
    assert!(talk.wait_for(50), "with the next one");
    let talk = talk.stop();
    assert!(talk.broken.is_none() && talk.lost == 0, "{talk:?}");
    end(&mut agent);
}

/// The process in the container: buildah's descendant.
fn inner(agent: &Agent<'_>) -> u32 {
    let mut processes = vec![agent.pid().expect("buildah runs")];
    while let Some(pid) = processes.pop() {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if read("comm").trim() == "vpnat" {
            return pid;
        }
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children =
            threads.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
        processes.extend(children.flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        }));
    }
    panic!("no vpnat below buildah")
}

/// Ends the container as `docker stop` does: its first process is told to.
fn end(agent: &mut Agent<'_>) {
    let outer = agent.pid().expect("buildah runs");
    kill(Pid::from_raw(inner(agent) as i32), Signal::SIGTERM).expect("a signal");
    process::wait_until("the container's end", Duration::from_secs(10), || {
        std::fs::read_to_string(format!("/proc/{outer}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
    agent.stop();
}
