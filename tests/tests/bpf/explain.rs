//! The rehearsals: every one of them loads, over maps that somebody else has made.

use std::collections::BTreeSet;

use aya::programs::Program;
use tests::sandbox::Sandbox;
use vpnat_agent::datapath::clock;
use vpnat_agent::datapath::hooks::Needed;
use vpnat_agent::datapath::object::{self, Sizes, TC_PROGRAMS, XDP_PROGRAMS};
use vpnat_agent::datapath::pins::Pins;
use vpnat_agent::stop::Stop;

/// What the verifier looks at before it gives up, 6.1 and later (`BPF_COMPLEXITY_LIMIT_INSNS`).
const VERIFIER_LIMIT: u32 = 1_000_000;

#[test]
fn every_program_has_a_rehearsal_that_loads() {
    std::thread::spawn(|| {
        let _sandbox = Sandbox::enter();
        let pins = Pins::new(Sandbox::bpffs().join("vpnat"));
        let stop = Stop::default();
        let programs: Vec<&str> = TC_PROGRAMS.into_iter().chain(XDP_PROGRAMS).collect();
        assert!(
            object::load_rehearsals(&pins, &programs).is_err(),
            "without maps there is nothing to rehearse"
        );
        assert!(!pins.hold_maps(), "and none are made");

        pins.create().expect("pin directories");
        let nothing = Needed { tc: BTreeSet::new(), xdp: BTreeSet::new() };
        let rate = clock::tick_rate().expect("the kernel's tick rate");
        object::load(&pins, Sizes { flows: 64, fragments: 64, events: 64 << 10 }, rate, &nothing, &stop)
            .expect("maps");
        let mut loaded = object::load_rehearsals(&pins, &programs).unwrap_or_else(|e| panic!("{e}"));
        for name in programs {
            let name = object::rehearsal_of(name);
            let info = match loaded.program_mut(&name) {
                Some(Program::Xdp(program)) => program.info(),
                Some(Program::SchedClassifier(program)) => program.info(),
                _ => panic!("no program {name}"),
            };
            let verified = info.expect("a loaded program").verified_instruction_count().unwrap_or(0);
            println!("{name}: {verified} instructions verified");
            assert!(verified < VERIFIER_LIMIT / 2, "{name}: {verified}");
        }
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
