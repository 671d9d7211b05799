//! Live decisions for one who asks: `vpnat trace`.
//!
//! The agent puts the traced forms of the programs on the devices, hands the asker's process the descriptors of the event
//! buffer and of the counts, and puts the programs that run otherwise back when its socket closes or its time is up. It
//! reads no event itself. If the agent is killed meanwhile, the traced programs go on as those before them, look no
//! packet up once the time is up, and are replaced by the next start.

pub mod event;
pub mod request;
pub mod wire;

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::datapath::clock::{self, PROBE_CLOCK};
use crate::datapath::hooks::tracing::Readable;
use crate::datapath::maps::read_vendors;
use crate::supervisor::Supervisor;
use request::Request;

/// A request, and the ways between the agent and its asker.
#[derive(Debug)]
pub struct Call {
    /// What is asked for.
    pub request: Request,
    /// What is to be read, or why nothing.
    pub answer: oneshot::Sender<Result<Readable, String>>,
    /// Ends when the asker does.
    pub gone: oneshot::Receiver<()>,
    /// Why the trace ends, if the asker is still there.
    pub end: oneshot::Sender<&'static str>,
}

#[derive(Debug)]
struct Session {
    gone: oneshot::Receiver<()>,
    end: oneshot::Sender<&'static str>,
    until: Instant,
}

/// The one trace that there can be at a time.
#[derive(Debug, Default)]
pub struct Tracing {
    session: Option<Session>,
    count: u32,
}

impl Tracing {
    /// Begins a trace, unless there is one.
    pub fn begin(&mut self, supervisor: &mut Supervisor, call: Call) {
        let begun = self.try_begin(supervisor, &call.request);
        let seconds = call.request.seconds;
        let readable = match begun {
            Ok(readable) => readable,
            Err(reason) => {
                log::warn!("not traced: {reason}");
                // Whoever asked and went away needs no answer.
                let _ = call.answer.send(Err(reason));
                return;
            }
        };
        log::info!("packets are traced, for {seconds} s at most");
        let until = Instant::now() + Duration::from_secs(seconds.into());
        self.session = Some(Session { gone: call.gone, end: call.end, until });
        // If the asker has gone, its end is seen next.
        let _ = call.answer.send(Ok(readable));
    }

    fn try_begin(&mut self, supervisor: &mut Supervisor, request: &Request) -> Result<Readable, String> {
        if self.session.is_some() {
            return Err("another trace is running: this agent: wait for its end, or end it".into());
        }
        let text = |error: crate::datapath::Error| error.to_string();
        let vendors = read_vendors(&supervisor.maps().vendors).map_err(text)?;
        // So that what is still in the buffer of an earlier trace is known for that.
        self.count = self.count.wrapping_add(1);
        let now = clock::now(&supervisor.pins().program(PROBE_CLOCK)).map_err(text)?;
        let filter = request.filter(&vendors, self.count, now.after(request.seconds))?;
        let run_dir = supervisor.config().run_dir.clone();
        supervisor.begin_trace(filter).map_err(|error| error.with_log_in(&run_dir).to_string())
    }

    /// Whether a trace runs.
    pub fn is_running(&self) -> bool {
        self.session.is_some()
    }

    /// Why the trace that runs shall end, as soon as it shall. Cancel-safe.
    pub async fn over(&mut self) -> &'static str {
        match &mut self.session {
            None => std::future::pending().await,
            Some(session) => tokio::select! {
                _ = &mut session.gone => "its asker has gone",
                () = tokio::time::sleep_until(session.until) => "its time is up",
            },
        }
    }

    /// Ends the trace, if there is one; what ends when its asker has been told.
    pub fn end(&mut self, supervisor: &mut Supervisor, why: &'static str) -> Option<oneshot::Receiver<()>> {
        let session = self.session.take()?;
        match supervisor.end_trace() {
            Ok(()) => log::info!("packets are traced no more: {why}"),
            Err(error) => log::error!(
                "packets are traced no more ({why}), but not every hook is as it was; it is tried again every few seconds: {error}"
            ),
        }
        session.end.send(why).ok().map(|()| session.gone)
    }
}
