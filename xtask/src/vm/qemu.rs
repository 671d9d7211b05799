//! Runs a guest in QEMU, without KVM: where there is none, and the same everywhere.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::emulator::Emulator;
use super::guest::Message;
use super::status::{Ending, PORT};

/// How long a guest may take to say that it is up.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// How long QEMU may take to end once its console has.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How often a guest is started if it does not come up. What it runs is never repeated.
const BOOTS: u32 = 2;

/// What a guest is started with.
pub struct Machine<'a> {
    /// What it runs in.
    pub emulator: &'a Emulator,
    /// The kernel.
    pub kernel: &'a Path,
    /// The archive with the root file system.
    pub image: &'a Path,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Where the console is written to.
    pub log: &'a Path,
    /// How long it may run after it is up.
    pub limit: Duration,
}

/// What became of a guest.
pub struct Ran {
    /// How it ended.
    pub ending: Ending,
    /// All lines of its console.
    pub lines: Vec<String>,
    /// Time from the start to [`Message::Booted`].
    pub boot: Duration,
    /// Time from then to the end.
    pub run: Duration,
}

impl Machine<'_> {
    /// Runs the guest to its end. `show` is given each line of its console.
    pub fn run(&self, mut show: impl FnMut(&str)) -> Result<Ran> {
        let mut attempt = 1;
        loop {
            let (ran, booted) = self.attempt(&mut show)?;
            if booted || attempt == BOOTS {
                return Ok(ran);
            }
            eprintln!("vm: the guest did not come up within {BOOT_LIMIT:?}: starting it again");
            attempt += 1;
        }
    }

    fn attempt(&self, show: &mut impl FnMut(&str)) -> Result<(Ran, bool)> {
        let mut log =
            File::create(self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let start = Instant::now();
        let mut qemu = Guard(self.command().spawn().context("cannot run QEMU")?);
        let console = lines_of(&mut qemu.0);
        let (mut lines, mut up) = (Vec::new(), None);
        let mut late = false;
        loop {
            let until = up.map_or(start + BOOT_LIMIT, |up: Instant| up + self.limit);
            match console.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    writeln!(log, "{line}").context("cannot write the guest's log")?;
                    if Message::parse(&line) == Some(Message::Booted) {
                        up.get_or_insert_with(Instant::now);
                    }
                    show(&line);
                    lines.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    late = true;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let code = if late { None } else { qemu.code(END_LIMIT)? };
        let ending = match up {
            Some(_) if late => Ending::Machine(format!("not done within {} s", self.limit.as_secs())),
            _ => Ending::of(code, up.is_some()),
        };
        let boot = up.map_or(start.elapsed(), |up| up - start);
        let run = up.map_or(Duration::ZERO, |up| up.elapsed());
        Ok((Ran { ending, lines, boot, run }, up.is_some()))
    }

    fn command(&self) -> Command {
        let mut command = self.emulator.command();
        command
            .args([
                "-accel",
                "tcg,thread=multi",
                "-smp",
                self.emulator.processors(),
                "-cpu",
                "max",
                "-m",
                "1024",
            ])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
            .args(["-device", &format!("isa-debug-exit,iobase={PORT:#x},iosize=0x04")])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.image)
            .args(["-append", self.command_line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }
}

fn lines_of(qemu: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = qemu.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// QEMU, killed if nobody waits for its end.
struct Guard(Child);

impl Guard {
    fn code(&mut self, limit: Duration) -> Result<Option<i32>> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().context("cannot wait for QEMU")? {
                return Ok(status.code());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails if it has ended, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
