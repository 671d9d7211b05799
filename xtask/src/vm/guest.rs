//! What runs inside a guest: the first process, and the command that it is given.

use super::status::{FAILURE, SUCCESS};

/// Starts the lines by which a guest speaks to this program.
const MARK: &str = "vpnat-vm: ";

/// Where the guest keeps what is brought along for it.
pub const DIR: &str = "vm";

/// Modules that nothing asks for by itself.
const LOADED: &[&str] = &["tun", "xfrm_user", "esp4"];

/// What a guest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// It is up and about to run its command.
    Booted,
    /// A note for the table of results.
    Note(String),
}

impl Message {
    /// Reads a line of the console.
    pub fn parse(line: &str) -> Option<Self> {
        let text = line.strip_prefix(MARK)?;
        if text == "booted" {
            Some(Self::Booted)
        } else {
            Some(Self::Note(text.strip_prefix("note ")?.to_owned()))
        }
    }
}

/// The shell command that prints a note. `text` is expanded by the guest's shell.
pub fn note(text: &str) -> String {
    format!("echo \"{MARK}note {text}\"")
}

/// Names of the programs that end the guest.
pub fn exit_program(value: u8) -> String {
    format!("exit-{value}")
}

/// The first process.
pub fn init() -> String {
    let mut modules = String::new();
    for module in LOADED {
        // What this kernel does not have, a test that needs it will miss.
        modules += &format!("modprobe -q {module}\n");
    }
    let (good, bad) = (exit_program(SUCCESS), exit_program(FAILURE));
    format!(
        r#"#!/bin/sh
export PATH=/usr/bin:/usr/sbin HOME=/ RUST_BACKTRACE=1
mount() {{ busybox mount "$@"; }}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t bpf -o mode=700 bpf /sys/fs/bpf
{modules}ip link set lo up
for word in $(busybox cat /proc/cmdline); do
    case $word in vpnat.run=*) script=${{word#vpnat.run=}} ;; esac
done
echo "{MARK}booted"
if sh "/{DIR}/$script"; then exec /{DIR}/{good}; fi
exec /{DIR}/{bad}
"#
    )
}

/// The kernel's command line that makes [`init`] run a script in [`DIR`].
pub fn command_line(script: &str) -> String {
    format!(
        "console=ttyS0 panic=-1 quiet no_timer_check mitigations=off rcupdate.rcu_expedited=1 vpnat.run={script}"
    )
}

/// Words for a shell, each as it is.
pub fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        let words = ["a b", "it's", "$x"].map(str::to_owned);
        assert_eq!(quoted(&words), r"'a b' 'it'\''s' '$x'");
    }

    #[test]
    fn messages_are_told_from_other_lines() {
        assert_eq!(Message::parse("vpnat-vm: booted"), Some(Message::Booted));
        assert_eq!(Message::parse("vpnat-vm: note 15 programs"), Some(Message::Note("15 programs".into())));
        assert_eq!(Message::parse("booted"), None);
        assert!(init().contains("echo \"vpnat-vm: booted\""));
        assert!(command_line("load.sh").ends_with(" vpnat.run=load.sh"));
        assert_eq!(note("$n programs"), "echo \"vpnat-vm: note $n programs\"");
    }
}
