//! Between the agent and who asks it for a trace: JSON lines on the control socket, and with the first of the agent's the
//! descriptors of what is to be read (SCM_RIGHTS, unix(7)). So nothing has to be pinned, and nothing is left over.

use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

use super::Call;
use super::request::Request;
use crate::control::{self, ANSWER_WITHIN, CallError};
use crate::datapath::hooks::tracing::Readable;

/// Longest first answer, bytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// A request as it is sent, told from others by its one field.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// The request.
    pub trace: Request,
}

/// The agent's first line.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    /// Why nothing is traced; empty if the descriptors come with it.
    errors: Vec<String>,
    /// What the events of this trace are marked with.
    session: u32,
}

/// The agent's last line.
#[derive(Debug, Serialize, Deserialize)]
struct Ended {
    ended: String,
}

fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The agent's side: asks for the trace and stays until one of both ends it.
pub async fn serve(
    mut reader: impl tokio::io::AsyncRead + Unpin,
    mut writer: OwnedWriteHalf,
    request: Request,
    calls: &mpsc::Sender<control::Call>,
) -> io::Result<()> {
    let (answer, answered) = oneshot::channel();
    // Dropped when this ends.
    let (_here, gone) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let call = control::Call::Trace(Call { request, answer, gone, end });
    if calls.send(call).await.is_err() {
        return Ok(());
    }
    let Ok(readable) = answered.await else { return Ok(()) };
    match readable {
        Err(reason) => writer.write_all(&line(&Answer { errors: vec![reason], session: 0 })?).await,
        Ok(readable) => {
            let first = line(&Answer { errors: Vec::new(), session: readable.session })?;
            send(writer.as_ref().as_fd(), &first, &readable)?;
            drop(readable);
            let mut byte = [0];
            tokio::select! {
                // It says nothing more: whatever comes is its end.
                _ = reader.read(&mut byte) => Ok(()),
                Ok(why) = ended => writer.write_all(&line(&Ended { ended: why.into() })?).await,
            }
        }
    }
}

/// A line that fits the socket's buffer, which is empty.
fn send(socket: BorrowedFd<'_>, line: &[u8], readable: &Readable) -> io::Result<()> {
    let fds = [readable.events.as_raw_fd(), readable.counts.as_raw_fd()];
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(line)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The asker's side: a trace that runs as long as this lives.
#[derive(Debug)]
pub struct Running {
    stream: BufReader<UnixStream>,
}

/// What came of asking.
pub type Begun = Result<(Running, Readable), Vec<String>>;

/// Asks the agent for a trace.
pub fn begin(run_dir: &Path, request: &Request) -> Result<Begun, CallError> {
    let (path, mut stream) = control::connect(run_dir)?;
    let mut exchange = || -> io::Result<Begun> {
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(&line(&Asked { trace: request.clone() })?)?;
        let (answer, fds) = receive(stream.as_fd())?;
        let answer: Answer = serde_json::from_slice(&answer)?;
        if !answer.errors.is_empty() {
            return Ok(Err(answer.errors));
        }
        let [events, counts] = <[OwnedFd; 2]>::try_from(fds)
            .map_err(|fds| io::Error::other(format!("{} descriptors came, not 2", fds.len())))?;
        Ok(Ok((
            Running { stream: BufReader::new(stream.try_clone()?) },
            Readable { events, counts, session: answer.session },
        )))
    };
    exchange().map_err(|error| CallError::NoAnswer { path, error })
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; LONGEST_ANSWER];
    let mut room = cmsg_space!([RawFd; 2]);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(came) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            fds.extend(came.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(length);
    Ok((bytes, fds))
}

impl Running {
    /// Why the agent has ended it; an error if the agent itself has gone. To be asked when there is something to read.
    pub fn why_ended(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str::<Ended>(&line)?.ended)
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}
