//! The flows as the packets show them: what was given to whom, whatever the product's own table says.

use std::collections::HashMap;

use super::headers::{End, Tuple};

#[derive(Clone, Copy)]
struct Seen {
    /// The other tuple's end: public for a pod's, the pod's for a public one.
    end: End,
    /// When it was last seen; changes with the clock.
    epoch: u32,
    /// A reset or a FIN has been seen: its port may be given away.
    closing: bool,
}

/// The flows of one round.
#[derive(Default)]
pub struct Shadow {
    /// By the pod's packets.
    out: HashMap<Tuple, Seen>,
    /// By the vendor's packets.
    back: HashMap<Tuple, Seen>,
    /// What first parts of datagrams became, address and identification: source, destination, protocol, identification.
    parts: HashMap<(u32, u32, u8, u16), (u32, u16)>,
    pub epoch: u32,
}

impl Shadow {
    pub fn clear(&mut self) {
        self.out.clear();
        self.back.clear();
        self.parts.clear();
        self.epoch = 0;
    }

    /// What the pod's flow looks like from outside.
    pub fn public_of(&self, pod: &Tuple) -> Option<End> {
        self.out.get(pod).map(|seen| seen.end)
    }

    /// To whom an answer belongs.
    pub fn pod_of(&self, answer: &Tuple) -> Option<End> {
        self.back.get(answer).map(|seen| seen.end)
    }

    /// A pod's packet left as `public`. Complains if the flow had another name, or the name another owner.
    pub fn left(&mut self, pod: Tuple, public: End, closes: bool) -> Result<(), String> {
        let epoch = self.epoch;
        let answer = Tuple { source: public, ..pod }.turned();
        if let Some(known) = self.out.get(&pod)
            && known.end != public
        {
            if known.epoch == epoch && !known.closing {
                return Err(format!("{pod:?} was {:?} a moment ago and is {public:?} now", known.end));
            }
            self.back.remove(&Tuple { source: known.end, ..pod }.turned());
        }
        if let Some(holder) = self.back.get(&answer)
            && holder.end != pod.source
        {
            if holder.epoch == epoch && !holder.closing {
                return Err(format!("{public:?} is given to {pod:?} and belongs to {:?}", holder.end));
            }
            self.out.remove(&Tuple { source: holder.end, ..pod });
        }
        let closing = closes || self.out.get(&pod).is_some_and(|seen| seen.closing);
        self.out.insert(pod, Seen { end: public, epoch, closing });
        self.back.insert(answer, Seen { end: pod.source, epoch, closing });
        Ok(())
    }

    /// An answer came that ends its connection.
    pub fn closes(&mut self, answer: &Tuple) {
        let Some(seen) = self.back.get_mut(answer) else { return };
        seen.closing = true;
        let pod = Tuple { source: seen.end, ..answer.turned() };
        if let Some(seen) = self.out.get_mut(&pod) {
            seen.closing = true;
        }
    }

    /// The first part of a datagram became this.
    pub fn first_part(&mut self, datagram: (u32, u32, u8, u16), became: (u32, u16)) {
        self.parts.insert(datagram, became);
    }

    /// What the first part became.
    pub fn part(&self, datagram: (u32, u32, u8, u16)) -> Option<(u32, u16)> {
        self.parts.get(&datagram).copied()
    }
}
