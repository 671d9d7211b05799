//! What the kernel lacks is named, in words and not by a verifier's log, and nothing is touched.

use std::ffi::CStr;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use tests::agent::{Agent, Xdp};
use tests::process::wait_until;
use tests::topology::{Offload, Shape, Site, Topology};

use crate::setting::Setting;

/// `run` fails, and says all of `words`; nothing is attached and nothing pinned.
fn refused(agent: &Agent<'_>, words: &[&str]) {
    let output = agent.vpnat("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "vpnat runs");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(agent.attached().is_empty(), "attached: {:?}\n{said}", agent.attached());
    assert!(agent.pins().is_empty(), "pinned: {:?}\n{said}", agent.pins());
}

/// The kernel's release, as far as it is two numbers.
fn release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = text.split(['.', '-']).map_while(|word| word.parse().ok());
    (numbers.next().expect("a number"), numbers.next().expect("a second number"))
}

/// A kernel from before 6.1 is refused with its release and with what it lacks; one from after is not.
#[test]
fn an_old_kernel() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    let mut agent = lab.agent(Xdp::Off);
    if release() >= (6, 1) {
        agent.start();
    } else {
        let (major, minor) = release();
        refused(&agent, &["Linux 6.1", &format!("{major}.{minor}"), "bpf_loop (Linux 5.17: "]);
    }
}

#[test]
fn type_information() {
    let site = Site::new();
    let lab = Topology::new(&site, Shape::TwoArm, Offload::On);
    // In the lab's own mount namespace only.
    let btf = Path::new("/sys/kernel/btf");
    mount(Some("lab"), btf, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("nothing over the types");
    refused(&lab.agent(Xdp::Off), &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
}

/// Before TCX (Linux 6.6) programs hang on the ingress qdisc, which is a module in most kernels.
#[test]
#[ignore = "takes modules from the kernel, as only the guests of `cargo xtask vm` allow"]
fn the_ingress_qdisc() {
    Setting::tc(Shape::TwoArm).run_before_start(|_, agent| {
        let _without = without_modules(&[c"sch_ingress"]);
        if release() >= (6, 6) {
            agent.start();
        } else {
            refused(agent, &["CONFIG_NET_SCH_INGRESS"]);
        }
    });
}

const HELPER: &str = "/proc/sys/kernel/modprobe";

/// Puts the kernel's way to modules back.
struct Without(String);

impl Drop for Without {
    fn drop(&mut self) {
        let _ = std::fs::write(HELPER, &self.0);
    }
}

/// Takes modules away, and the kernel's way to get them back.
fn without_modules(names: &[&CStr]) -> Without {
    let without = Without(std::fs::read_to_string(HELPER).expect("the path of modprobe"));
    std::fs::write(HELPER, "/nowhere").expect("no way to modules");
    for name in names {
        // Namespaces of labs before this one, which use the module, end in the background.
        wait_until("the module goes", Duration::from_secs(10), || {
            // SAFETY: the name ends with a zero byte and outlives the call.
            let result = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
            result == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
        });
    }
    without
}
