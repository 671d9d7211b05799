//! The control socket: how `vpnat reload` reaches the running agent. One line of JSON each way.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use crate::trace;
use crate::trace::wire::{self, Asked};

/// Longest line that is read, bytes.
const LONGEST: u64 = 1 << 20;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer may take: programs may have to be loaded, and a table of millions of flows walked.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// What the agent is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Say what would change, and change nothing.
    pub dry_run: bool,
    /// Open the prefixes that were closed when their vendor was removed.
    pub open_removed: bool,
}

/// The agent's verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The configuration file that the agent has read.
    pub file: PathBuf,
    /// What changes, or would.
    pub changes: Vec<String>,
    /// What comes with it: flows that ended, warnings.
    pub notes: Vec<String>,
    /// Why nothing was changed; empty if all went well.
    pub errors: Vec<String>,
}

/// A request and where its answer is awaited.
#[derive(Debug)]
pub enum Call {
    /// For a reload.
    Reload(Request, oneshot::Sender<Answer>),
    /// For a trace.
    Trace(trace::Call),
}

/// Where the socket lies.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// Makes the run directory, for its owner only.
pub fn create_run_dir(run_dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir)
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    calls: mpsc::Receiver<Call>,
}

impl Server {
    /// Listens, in place of an agent that is gone: the caller holds the lock that only one agent can. Needs a local task
    /// set.
    pub fn listen(run_dir: &Path) -> io::Result<Self> {
        create_run_dir(run_dir)?;
        let path = socket(run_dir);
        if UnixStream::connect(&path).is_ok() {
            return Err(io::Error::other("another agent listens there: set another [agent] run_dir"));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let (sender, calls) = mpsc::channel(1);
        tokio::task::spawn_local(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::task::spawn_local(serve(stream, sender.clone()));
                    }
                    Err(error) => {
                        log::warn!("the control socket: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Ok(Self { path, calls })
    }

    /// The next call. Cancel-safe.
    pub async fn next(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            // The task that holds the sender never ends.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(stream: tokio::net::UnixStream, calls: mpsc::Sender<Call>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader).take(LONGEST);
    if !matches!(tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await, Ok(Ok(1..))) {
        return;
    }
    if let Ok(Asked { trace }) = serde_json::from_str(&line) {
        if let Err(error) = wire::serve(reader, writer, trace, &calls).await {
            log::debug!("who asked for a trace: {error}");
        }
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (sender, answer) = oneshot::channel();
            if calls.send(Call::Reload(request, sender)).await.is_err() {
                return;
            }
            match answer.await {
                Ok(answer) => answer,
                Err(_) => return,
            }
        }
        Err(error) => Answer {
            errors: vec![format!(
                "not understood ({error}): the running agent: use the `vpnat` that it was started from"
            )],
            ..Answer::default()
        },
    };
    if let Ok(mut text) = serde_json::to_string(&answer) {
        text.push('\n');
        let _ = writer.write_all(text.as_bytes()).await;
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("no agent is running ({error}): {}: start it (`systemctl start vpnat`); it reads its configuration then", path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The socket is somebody else's.
    #[error("may not be used: {}: run as root", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// The agent ended, or does not answer.
    #[error("the agent gave no answer ({error}): {}: look at its log, then try again", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What came instead.
        error: io::Error,
    },
}

/// A connection to the running agent, and where.
pub fn connect(run_dir: &Path) -> Result<(PathBuf, UnixStream), CallError> {
    let path = socket(run_dir);
    match UnixStream::connect(&path) {
        Ok(stream) => Ok((path, stream)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(CallError::Forbidden { path }),
        Err(error) => Err(CallError::NoAgent { path, error }),
    }
}

/// Asks the running agent for a reload.
pub fn call(run_dir: &Path, request: &Request) -> Result<Answer, CallError> {
    let (path, mut stream) = connect(run_dir)?;
    let mut exchange = || -> io::Result<Answer> {
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        writeln!(stream, "{}", serde_json::to_string(request)?)?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    };
    exchange().map_err(|error| CallError::NoAnswer { path, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_and_the_socket_goes() {
        let run_dir = std::env::temp_dir().join(format!("vpnat-control-{}", std::process::id()));
        let missing =
            call(&run_dir, &Request { dry_run: true, open_removed: false }).unwrap_err().to_string();
        assert!(missing.starts_with("no agent is running ("), "{missing}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = Request { dry_run: false, open_removed: true };
        let asked = request.clone();
        let answer = tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut server = Server::listen(&run_dir).unwrap();
            let mode = std::fs::metadata(socket(&run_dir)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let directory = run_dir.clone();
            let client = std::thread::spawn(move || call(&directory, &asked));
            let Call::Reload(received, reply) = server.next().await else { panic!("no reload") };
            assert_eq!(received, request);
            reply.send(Answer { changes: vec!["+ x".into()], ..Answer::default() }).unwrap();
            while !client.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            client.join().unwrap().unwrap()
        });
        assert_eq!(answer.changes, ["+ x"]);
        assert!(!socket(&run_dir).exists());
        std::fs::remove_dir(&run_dir).unwrap();
    }
}
