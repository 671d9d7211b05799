//! Where lines go: a file, standard output or the journal.

use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::file::{LogFile, Rotation};
use super::line;
use super::record::Record;
use crate::config::{FlowLog as Options, FlowLogTarget};
use crate::datapath::Error;

/// The journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// How the journal knows these lines: `journalctl -t vpnat-flow`.
const IDENTIFIER: &str = "vpnat-flow";

/// A journal that does not answer for so long loses the record.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// A file.
    File(Box<LogFile>),
    /// Standard output.
    Stdout,
    /// The journal.
    Journal(UnixDatagram),
}

impl Sink {
    /// Opens `target`.
    pub fn open(target: &FlowLogTarget, options: &Options) -> Result<Self, Error> {
        match target {
            FlowLogTarget::File(path) => {
                let rotation = Rotation { max_bytes: options.max_bytes, keep: options.keep };
                let file =
                    LogFile::open(path, rotation).map_err(Error::file("opening the flow log", path))?;
                Ok(Self::File(Box::new(file)))
            }
            FlowLogTarget::Stdout => Ok(Self::Stdout),
            FlowLogTarget::Journal => connect(JOURNAL)
                .map(Self::Journal)
                .map_err(Error::file("opening the journal for the flow log", JOURNAL)),
        }
    }

    /// Writes `records`; how many were written, and what went wrong.
    pub fn write(&mut self, records: &[Record]) -> (u64, Option<io::Error>) {
        if let Self::Journal(socket) = self {
            let mut written = 0;
            for record in records {
                match tell_journal(socket, record) {
                    Ok(()) => written += 1,
                    Err(error) => return (written, Some(error)),
                }
            }
            return (written, None);
        }
        let mut lines = Vec::with_capacity(records.len() * 400);
        records.iter().for_each(|record| line(record, &mut lines));
        let result = match self {
            Self::File(file) => file.write(&lines),
            _ => {
                let mut out = io::stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            }
        };
        match result {
            Ok(()) => (records.len() as u64, None),
            // Some of them may be there.
            Err(error) => (0, Some(error)),
        }
    }

    /// Puts on the disk what has waited for long enough, or all of it.
    pub fn sync(&mut self, all: bool) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync(all),
            Self::Stdout | Self::Journal(_) => Ok(()),
        }
    }
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn tell_journal(socket: &mut UnixDatagram, record: &Record) -> io::Result<()> {
    let mut message = b"PRIORITY=6\nSYSLOG_IDENTIFIER=".to_vec();
    message.extend(IDENTIFIER.bytes());
    message.extend(b"\nMESSAGE=");
    // JSON holds no line breaks.
    line(record, &mut message);
    match socket.send(&message) {
        Ok(_) => Ok(()),
        // The journal was started anew.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOTCONN)) => {
            *socket = connect(JOURNAL)?;
            socket.send(&message).map(drop)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_gets_fields_and_the_line() {
        let path = std::env::temp_dir().join(format!("vpnat-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut socket = connect(path.to_str().unwrap()).unwrap();
        tell_journal(&mut socket, &Record::lost(3)).unwrap();
        let mut bytes = [0; 1024];
        let length = journal.recv(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let message = text.lines().find_map(|line| line.strip_prefix("MESSAGE=")).unwrap();
        assert_eq!(serde_json::from_str::<Record>(message).unwrap().records, Some(3));
        assert!(text.lines().any(|line| line == "SYSLOG_IDENTIFIER=vpnat-flow"), "{text}");
        let _ = std::fs::remove_file(&path);
    }
}
