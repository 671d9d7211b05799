//! The targets, for a bounded time: a moment with the unit tests, longer and guided by coverage in a tier of their
//! own (`VPNAT_FUZZ_SECONDS`, `VPNAT_FUZZ_SEED`). And every input that ever failed.

use std::path::Path;
use std::time::Duration;

use vpnat_fuzz::driver;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn fuzz(name: &str, target: fn(&[u8])) {
    let time = Duration::from_millis(number("VPNAT_FUZZ_SECONDS", 0) * 1000 + 500);
    let seed = number("VPNAT_FUZZ_SEED", 0x7670_6e61_7421);
    let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(name);
    match driver::run(target, &driver::seeds(), time, seed, &artifacts) {
        Ok(report) => {
            println!("{name}: {report:?}");
            assert!(report.runs > 100, "{report:?}");
            // With coverage to guide it, it must get further than the seeds.
            let guided = report.reached.1 != 0;
            assert!(!guided || report.kept > driver::seeds().len(), "{report:?}");
        }
        Err((input, file)) => panic!(
            "{name}, with VPNAT_FUZZ_SEED={seed}: an input of {} bytes breaks a rule (above).\n\
             It is in {}; move it to fuzz/regressions/ once it is understood.\n{input:02x?}",
            input.len(),
            file.display()
        ),
    }
}

#[test]
fn hooks() {
    fuzz("hooks", vpnat_fuzz::hooks);
}

#[test]
fn quotes() {
    fuzz("quotes", vpnat_fuzz::quotes);
}

/// Every input that once broke a rule, and the seeds.
#[test]
fn regressions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut inputs = driver::seeds();
    for entry in std::fs::read_dir(&folder).expect("fuzz/regressions") {
        let path = entry.expect("a file").path();
        inputs.push(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
    for input in inputs {
        vpnat_fuzz::hooks(&input);
        vpnat_fuzz::quotes(&input);
    }
}
