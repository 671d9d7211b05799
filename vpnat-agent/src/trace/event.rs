//! What is read of a trace.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Map, MapData, MapError, PerCpuArray, RingBuf};
use vpnat_common::layout::outcome::{Hook, OUTCOME_SLOTS, Outcome};
use vpnat_common::layout::trace::{TraceCpu, TraceEvent};

use crate::datapath::hooks::tracing::Readable;

/// A decision, with its numbers understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decided {
    /// As it was written.
    pub raw: TraceEvent,
    /// The vendor's slot, 0 if it is nobody's packet.
    pub vendor: u8,
    /// Where.
    pub hook: Hook,
    /// How the packet ended there.
    pub outcome: Outcome,
}

impl Decided {
    /// Reads what the programs have written; `None` if this build does not understand it.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<TraceEvent>() {
            return None;
        }
        // SAFETY: the length is compared; `TraceEvent` is plain data that takes any bytes, and the read is unaligned.
        let raw = unsafe { bytes.as_ptr().cast::<TraceEvent>().read_unaligned() };
        let (rest, outcome) = (raw.counter / OUTCOME_SLOTS, raw.counter % OUTCOME_SLOTS);
        let hooks = Hook::ALL.len() as u32;
        Some(Self {
            raw,
            vendor: u8::try_from(rest / hooks).ok()?,
            hook: *Hook::ALL.get((rest % hooks) as usize)?,
            outcome: Outcome::ALL.iter().copied().find(|known| *known as u32 == outcome)?,
        })
    }
}

/// Matching packets that there is no event of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Missed {
    /// Above the limit.
    pub suppressed: u64,
    /// The buffer was full.
    pub lost: u64,
}

/// The reading end of a trace.
pub struct Events {
    buffer: RingBuf<MapData>,
    counts: PerCpuArray<MapData, TraceCpu>,
    session: u32,
}

impl Events {
    /// Opens what the agent has handed over.
    pub fn open(readable: Readable) -> Result<Self, MapError> {
        let map = |fd| MapData::from_fd(fd).and_then(Map::from_map_data);
        let buffer = RingBuf::try_from(map(readable.events)?)?;
        let counts = PerCpuArray::try_from(map(readable.counts)?)?;
        Ok(Self { buffer, counts, session: readable.session })
    }

    /// The next event, if there is one.
    pub fn take(&mut self) -> Option<Decided> {
        loop {
            let item = self.buffer.next()?;
            // What an earlier tracer has left is not for this one.
            if let Some(decided) = Decided::read(&item)
                && decided.raw.session == self.session
            {
                return Some(decided);
            }
        }
    }

    /// What was missed since the trace began.
    pub fn missed(&self) -> Result<Missed, MapError> {
        let counts = self.counts.get(&0, 0)?;
        Ok(counts.iter().fold(Missed::default(), |sum, cpu| Missed {
            suppressed: sum.suppressed.wrapping_add(cpu.suppressed),
            lost: sum.lost.wrapping_add(cpu.lost),
        }))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.buffer.as_fd()
    }
}
