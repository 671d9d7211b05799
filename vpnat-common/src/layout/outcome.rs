//! Every way a packet can end. Each packet that a hook sees adds to exactly one counter, so that per hook
//! received = translated + passed + dropped + held. A held fragment is seen, and counted, once more if it is sent.

use super::MAX_VENDORS;

/// Where a packet was seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Hook {
    /// XDP ingress, the fast path.
    Xdp = 0,
    /// TC ingress: restores replies, checks where inside packets are routed.
    TcIngress = 1,
    /// TC egress of an outside device: translates or drops.
    TcEgress = 2,
    /// TC egress of every other device: nothing to a vendor leaves here.
    TcGuard = 3,
}

impl Hook {
    /// All hooks, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Xdp, Self::TcIngress, Self::TcEgress, Self::TcGuard];

    /// The label value in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
            Self::TcGuard => "tc-guard",
        }
    }
}

/// What an outcome means for the packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Fate {
    /// Rewritten and sent on.
    Translated,
    /// Left to the kernel, unchanged.
    Passed,
    /// Ended here.
    Dropped,
    /// Kept here, to be seen again or to be forgotten.
    Held,
}

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $value:literal, $fate:ident, $name:literal;)+) => {
        /// How a packet ended at a hook.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $variant = $value,)+
        }

        impl Outcome {
            /// All outcomes, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The label value in metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }

            /// What it means for the packet.
            #[inline(always)]
            pub const fn fate(self) -> Fate {
                match self { $(Self::$variant => Fate::$fate,)+ }
            }
        }
    };
}

outcomes! {
    /// Source rewritten to the vendor's egress address.
    Outbound = 0, Translated, "outbound";
    /// Destination restored to the pod's address.
    Inbound = 1, Translated, "inbound";
    /// Neither to a vendor nor to an egress address from one.
    NotOurs = 2, Passed, "not-ours";
    /// To or from a destination that the configuration exempts.
    Exempt = 3, Passed, "exempt";
    /// The instance's own, from an egress address.
    LocalEgress = 4, Passed, "local-egress";
    /// To a vendor, and routed to a device that translates.
    RoutedToGuarded = 5, Passed, "routed-to-guarded-device";
    /// XDP left it to the stack: a fragment, IP options, an ICMP error or another shape for the TC hooks.
    ToStackShape = 6, Passed, "to-stack-shape";
    /// XDP left it to the stack: the TTL ends here and the stack answers.
    ToStackTtl = 7, Passed, "to-stack-ttl";
    /// XDP left it to the stack: larger than the way out takes.
    ToStackMtu = 8, Passed, "to-stack-mtu";
    /// XDP left it to the stack: no route, no neighbour yet, or a device that XDP cannot send through.
    ToStackRoute = 9, Passed, "to-stack-route";
    /// XDP left it to the stack: there is no flow, and what answers that is not XDP's to decide.
    ToStackNoFlow = 10, Passed, "to-stack-no-flow";
    /// Translated and redirected by TC ingress of another device.
    Redirected = 11, Passed, "redirected";
    /// A fragment that came before its datagram's first; seen again when that comes, forgotten if it does not.
    FragmentHeld = 12, Held, "fragment-held";
    /// The fast path left it to the stack: TC egress will refuse it, and answer.
    ToStackRefused = 13, Passed, "to-stack-refused";
    /// Translated at the outside device that is stacked on this one.
    Carried = 14, Passed, "carried";
    /// The agent has not finished filling the maps.
    NotReady = 16, Dropped, "not-ready";
    /// IP or transport header missing, cut short or contradicting itself.
    BadHeader = 17, Dropped, "bad-header";
    /// The source is not in the vendor's allow_from.
    SourceNotAllowed = 18, Dropped, "source-not-allowed";
    /// Neither TCP, UDP nor ICMP.
    ProtocolUnsupported = 19, Dropped, "protocol-unsupported";
    /// An ICMP type that is not translated.
    IcmpTypeRefused = 20, Dropped, "icmp-type-refused";
    /// An ICMP error whose quote matches no flow.
    IcmpErrorNoFlow = 21, Dropped, "icmp-error-no-flow";
    /// An ICMP error with a wrong checksum or a quote that cannot be read.
    IcmpErrorBad = 22, Dropped, "icmp-error-bad";
    /// A fragment whose first part has not been seen, and that cannot be held: too large, or not admitted.
    FragmentUnknown = 23, Dropped, "fragment-unknown";
    /// A first fragment too short to hold its transport header.
    FragmentTiny = 24, Dropped, "fragment-tiny";
    /// A source-route, record-route or timestamp option.
    OptionRefused = 25, Dropped, "option-refused";
    /// TCP towards the vendor, not a SYN, and no flow to go with.
    NoConnection = 26, Dropped, "no-connection";
    /// From a vendor to an egress address, and nobody asked for it.
    Unsolicited = 27, Dropped, "unsolicited";
    /// Every port towards this remote endpoint is taken.
    PortsExhausted = 28, Dropped, "ports-exhausted";
    /// The flow table is full.
    TableFull = 29, Dropped, "table-full";
    /// To a vendor, and routed to a device that does not translate.
    Unguarded = 30, Dropped, "unguarded-device";
    /// From a device where it has no business: none of the inside ones, or a spoofed source.
    WrongSide = 31, Dropped, "wrong-side";
    /// The instance's own, to a vendor from an address that is not its egress address.
    LocalSource = 32, Dropped, "local-source";
    /// A table entry that contradicts itself or changed hands while it was read.
    EntryInvalid = 33, Dropped, "entry-invalid";
    /// Translated in part and then not possible to finish, so not sent.
    Unfinished = 34, Dropped, "unfinished";
    /// The source has as many flows as it may (`max_flows_per_source`).
    SourceLimit = 35, Dropped, "source-limit";
    /// The source has opened as many flows as it may in this second (`new_flows_per_source`).
    SourceRate = 36, Dropped, "source-rate";
    /// To a prefix that was a vendor's until the configuration changed.
    Closed = 39, Dropped, "closed-prefix";
}

/// Counter slots kept for each hook of each vendor; more than there are outcomes, so that adding one does
/// not move the others.
pub const OUTCOME_SLOTS: u32 = 48;

const _: () = assert!((Outcome::Closed as u32) < OUTCOME_SLOTS);

/// Entries of the counter array.
pub const COUNTER_SLOTS: u32 = MAX_VENDORS * Hook::ALL.len() as u32 * OUTCOME_SLOTS;

/// Where the outcome with number `outcome` of a packet of `vendor` (0: nobody's) at `hook` is counted.
#[inline(always)]
pub const fn counter_index(vendor: u8, hook: Hook, outcome: u32) -> u32 {
    counter_index_at(vendor, hook as u32, outcome)
}

/// The same, for the hook with this number.
pub const fn counter_index_at(vendor: u8, hook: u32, outcome: u32) -> u32 {
    (vendor as u32 * Hook::ALL.len() as u32 + hook) * OUTCOME_SLOTS + outcome
}

/// A counter, one per CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Count {
    /// Packets; a GSO packet counts as one.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}
