//! Errors of the instance itself about what it has translated: sent back to the pod from where they would have left.

use super::headers::{Header, address, sum};
use super::rules::{Allowed, Ran, Rules, is_egress, quote};
use crate::plan::INSTANCE_INSIDE;

/// What a redirect to a neighbour takes off again.
const ETHERNET: usize = 14;

impl Rules<'_> {
    /// Whether it may be such an error: made here, for an egress address, about something.
    pub fn is_own_error(&self, ran: &Ran<'_>) -> bool {
        let ip = &ran.input[ran.place.link..];
        let header = Header::read(ip, ran.is_big());
        ran.place.is_egress()
            && ran.place.came_by == 0
            && ran.place.is_ipv4(ran.input)
            && header.is_some_and(|header| header.is_icmp_error(ip) && is_egress(header.destination))
    }

    /// It is its own input but for the quote and the pod's address, and from the instance's address on the pods' side. About
    /// a packet of the instance itself it goes on as it would have, and from whom it was.
    pub fn turned(&mut self, ran: &Ran<'_>, sent: bool) -> Result<(), String> {
        let hold = |condition: bool, message: &str| if condition { Ok(()) } else { Err(message.to_owned()) };
        let link = ran.place.link;
        let room = if sent { ETHERNET } else { link };
        let (old, new) = (&ran.input[link..], &ran.output[room..]);
        hold(old.len() == new.len(), "an error of the instance changed its length")?;
        hold(ran.marks.0 == ran.marks.1, "an error of the instance changed its mark")?;
        if link == room {
            hold(ran.input[..link] == ran.output[..link], "the link layer's header changed")?;
        } else {
            hold(ran.output[..room] == [0; ETHERNET], "something lies where a link layer's header is to be")?;
        }
        let header = Header::read(old, ran.is_big()).ok_or("an error with a bad header was turned")?;
        let (from, to) = (address(new, 12), address(new, 16));
        let mut allowed = Allowed::default();
        allowed.add(10, 2);
        allowed.add(16, 4);
        if sent {
            allowed.add(12, 4);
            hold(from == INSTANCE_INSIDE, "an error that is not from the instance's address")?;
            hold(!is_egress(to), "an error about the instance's own packet was sent to somebody")?;
        } else {
            hold(is_egress(to), "an error for a pod goes on to the instance")?;
        }
        self.owner_of_quote(old, new, &header, false)?;
        quote(&mut allowed, old, new, &header, false)?;
        hold(
            sum(&old[..header.length]) == sum(&new[..header.length]),
            "the header's checksum does not follow its change",
        )?;
        match allowed.broken(old, new) {
            Some(at) => {
                Err(format!("byte {at} of an error changed from {:#04x} to {:#04x}", old[at], new[at]))
            }
            None => Ok(()),
        }
    }
}
